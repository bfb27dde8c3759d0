"""What most answers start from: the training set cut by time, the champion, and the truth behind the test days."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from infra.errors import ExplainedError
from infra.home import Home
from infra.settings import Settings
from models import evaluate
from models.artefact import Artefact
from models.contract import Dataset
from models.metrics import entropy, log_losses
from pipelines.console import say
from pipelines.promotion import champion_of
from pipelines.sources.contract import SourceSpec
from pipelines.sources.registry import source_of
from pipelines.training import Parts, assemble, probability
from pipelines.truth import true_probability

F64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Material:
    """A trained home, opened for questions."""

    home: Home
    spec: SourceSpec
    parts: Parts
    champion: Artefact

    @property
    def test(self) -> Dataset:
        """The test days."""
        return self.parts.test

    def p(self) -> F64:
        """The champion's click probability of each test row, at the slot where it was shown."""
        return probability(self.champion, self.test)

    def p_true(self) -> F64:
        """The true one.  Raises ExplainedError for a source that has no truth."""
        if not self.spec.truth:
            raise ExplainedError(f"this answer needs the truth, which {self.spec.name} does not have: use --source world")
        return true_probability(self.home, self.test.row_id, self.test.time_us)

    def size(self) -> dict[str, Any]:
        """What every answer states about its test rows."""
        return size_of(self.test)


def material(chosen: Settings) -> Material:
    """Open the home that the settings name.  Raises ExplainedError where nothing was trained."""
    home, spec = chosen.base(), source_of(chosen).spec
    champion = champion_of(home)
    if champion is None:
        raise ExplainedError(f"{home.root} has no champion; run: clickproof train")
    say("assembling the training set")
    return Material(home, spec, assemble(home, spec, chosen), champion)


def size_of(data: Dataset) -> dict[str, Any]:
    """n, clicks and days of some rows."""
    return {"n": len(data), "clicks": int(data.label.sum()), "days": len(np.unique(evaluate.day_groups(data.time_us)))}


def difference(p: F64, baseline: F64, data: Dataset) -> dict[str, float | None]:
    """NE of `p` minus NE of `baseline` on the same rows, paired, with its 95% interval."""
    found: dict[str, float | None] = evaluate.compare(p, baseline, data, confidence=0.95)["ne_difference"]
    return found


def metrics_of(p: F64, data: Dataset, p_true: F64 | None = None) -> dict[str, dict[str, float | None]]:
    """NE, calibration, ECE, AUC (and with the truth, signal captured) with 95% intervals."""
    report = evaluate.report(p, data, p_true=p_true)
    names = ("ne", "calibration", "ece", "auc") + (("signal_captured",) if p_true is not None else ())
    return {name: report[name] for name in names}


def estimate(statistic: evaluate.Statistic, data: Dataset, lowest: float = -np.inf) -> dict[str, float | None]:
    """A statistic of a mask over the rows of `data`, with its 95% interval (days and users left out in turn)."""
    whole = np.ones(len(data), np.bool_)
    found: dict[str, float | None] = evaluate.interval(
        statistic, whole, evaluate.day_groups(data.time_us), evaluate.user_groups(data), 0.95, lowest
    )
    return found


def ratio(above: F64, below: F64, data: Dataset) -> dict[str, float | None]:
    """Sum of one column over the sum of another, with its 95% interval."""

    def statistic(rows: evaluate.Mask) -> float:
        total = float(below[rows].sum())
        return float(above[rows].sum()) / total if total else float("nan")

    return estimate(statistic, data)


def expected_ne(p: F64, p_true: F64, data: Dataset) -> dict[str, float | None]:
    """NE of `p` as the true probabilities make it on average, with its 95% interval: no luck of single clicks in it."""
    losses = log_losses(p, p_true)

    def statistic(rows: evaluate.Mask) -> float:
        return float(losses[rows].mean()) / entropy(float(p_true[rows].mean())) if rows.any() else float("nan")

    return estimate(statistic, data)
