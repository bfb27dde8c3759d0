"""From trained candidates to a champion: compare each with whom it would replace, ask the gates, record, promote the best.

Called by the training and retraining flows; the gates themselves are pure (`models.gates`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from infra.home import Home
from models import evaluate, gates, plots
from models.artefact import Artefact, load
from models.contract import Dataset
from models.importance import permutation_importance
from models.registry import Registry
from models.train import Trained
from monitoring.findings import Checks
from pipelines.sources.contract import SourceSpec
from pipelines.training import judge, probability
from serving.rollout_store import agreed_champion, crown


@dataclass(frozen=True, slots=True)
class Candidate:
    """A trained model with its probabilities for the test days' rows and their evaluation."""

    trained: Trained
    p: np.ndarray
    report: dict[str, Any]

    @classmethod
    def of(cls, home: Home, source: SourceSpec, trained: Trained, test: Dataset) -> "Candidate":
        """Score the test days once, and evaluate."""
        p = probability(trained.artefact, test)
        return cls(trained, p, judge(home, source, p, test))

    @property
    def artefact(self) -> Artefact:
        """What would serve."""
        return self.trained.artefact


@dataclass(frozen=True, slots=True)
class Comparator:
    """Whom a candidate must beat: the champion, or the base-rate model where there is none."""

    artefact: Artefact
    p: np.ndarray
    report: dict[str, Any]
    champion: bool

    @classmethod
    def of(cls, home: Home, source: SourceSpec, artefact: Artefact, test: Dataset, champion: bool) -> "Comparator":
        """Score the test days once, and evaluate."""
        p = probability(artefact, test)
        return cls(artefact, p, judge(home, source, p, test), champion)


def champion_of(home: Home) -> Artefact | None:
    """The artefact that serves now, None where nothing was ever promoted."""
    name = agreed_champion(home)
    return None if name is None else load(home.artefacts, name)


def leakage_verdict(checks: Checks) -> dict[str, Any]:
    """What the leakage audit found, in the form that the gates take."""
    return {"passed": not checks.pages, "reasons": [str(finding) for finding in checks.pages]}


def decide(candidate: Candidate, against: Comparator, test: Dataset, leakage: Mapping[str, Any]) -> gates.Decision:
    """All gates on one candidate; both were scored on the rows of `test`."""
    current = against.artefact.configuration_hash if against.champion else None
    kind = gates.kind_of(candidate.artefact.configuration_hash, current)
    comparison = evaluate.compare(candidate.p, against.p, test)
    return gates.decide(candidate.report, comparison, leakage, kind, comparator=against.report)


def draw(home: Home, candidates: Mapping[str, Candidate], test: Dataset) -> dict[str, list[Path]]:
    """Plots of every candidate: reliability, NE by day beside the others, importance.  Files by family."""
    predicted = {family: candidate.p for family, candidate in candidates.items()}
    by_day = plots.ne_by_day(home.writing(home.reports / "ne_by_day.png"), predicted, test)
    drawn: dict[str, list[Path]] = {}
    for family, candidate in candidates.items():
        reliability = home.reports / f"reliability_{family}.png"
        plots.reliability(reliability, predicted[family], test, title=f"Reliability of {family}")
        ranking = home.reports / f"importance_{family}.png"
        plots.importance(ranking, permutation_importance(candidate.artefact, test))
        drawn[family] = [by_day, reliability, ranking]
    return drawn


def record(home: Home, candidate: Candidate, lineage: Mapping[str, str], files: list[Path], at_us: int) -> str:
    """Save the artefact and log its run: parameters, metrics, lineage, plots.  Returns the artefact's hash."""
    artefact = candidate.artefact
    name = artefact.save(home.artefacts)
    fitted = candidate.trained.fit_report
    Registry.of(home).record(
        name,
        name=artefact.family,
        at_us=at_us,
        params={**artefact.configuration, "seed": artefact.seed, "rounds": fitted.rounds},
        metrics={"test": candidate.report, "valid.log_loss": fitted.valid_log_loss, "fit.seconds": fitted.seconds},
        tags=lineage,
        files=files,
    )
    return name


def promote(home: Home, candidates: Mapping[str, Candidate], decisions: Mapping[str, gates.Decision], at_us: int) -> str | None:
    """Make the candidate with the lowest NE among those that passed champion; the family, None where none did.

    The rollout document changes and the alias `champion` follows.  Every decision goes into the audit, those of the others
    too."""
    passed = [family for family, decision in decisions.items() if decision.passed]
    winner = min(passed, key=lambda family: candidates[family].report["ne"]["value"], default=None)
    registry = Registry.of(home)
    for family, decision in decisions.items():
        name = candidates[family].artefact.hash
        registry.decide(name, f"gates for {family}", decision.passed, decision.reasons, at_us=at_us)
    if winner is not None:
        best = candidates[winner].artefact.hash
        others = f"lowest NE of {len(passed)} that passed, out of {len(candidates)}"
        registry.decide(best, f"promote {winner}", True, (others,), at_us=at_us)
        crown(home, "gates", f"{winner}: {others}", best)
    return winner
