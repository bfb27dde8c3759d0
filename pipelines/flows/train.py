"""Training as a flow: assemble, audit, fit three families, evaluate, record, gate, promote."""

from typing import Any

from prefect import flow

from infra.home import Home
from infra.lake import watermark_us
from infra.settings import Settings
from models.gates import Decision
from models.train import FAMILIES, Trained
from monitoring.gate import accept
from pipelines import evidence, promotion, training
from pipelines.console import say
from pipelines.flows.step import step
from pipelines.promotion import Candidate, Comparator
from pipelines.sources.contract import SourceSpec
from pipelines.sources.registry import source_of
from pipelines.training import Parts
from pipelines.training_set import Window

assemble = step("training set")(training.assemble)
audit = step("leakage audit")(training.audit)
decide = step("gates")(promotion.decide)
promote = step("promotion")(promotion.promote)


def fit(family: str, parts: Parts, spec: SourceSpec, seed: int, like: Trained | None) -> Trained:
    """One family, as a step of its own name."""
    return step(f"train {family}")(training.fit)(family, parts, spec, seed, like.artefact if like else None)


@step("evaluate")
def evaluate(home: Home, spec: SourceSpec, trained: dict[str, Trained], parts: Parts) -> dict[str, Candidate]:
    """The report of every family on the test days."""
    return {family: Candidate.of(home, spec, one, parts.test) for family, one in trained.items()}


@step("comparator")
def comparator(home: Home, spec: SourceSpec, parts: Parts, seed: int, like: Trained) -> Comparator:
    """The champion, or the base-rate model trained on the same rows, on the same test days."""
    champion = promotion.champion_of(home)
    artefact = champion or training.fit("base_rate", parts, spec, seed, like.artefact).artefact
    return Comparator.of(home, spec, artefact, parts.test, champion is not None)


@step("record")
def record(home: Home, candidates: dict[str, Candidate], parts: Parts, lineage: dict[str, str], at_us: int) -> None:
    """Artefacts, runs and plots of every family."""
    files = promotion.draw(home, candidates, parts.test)
    for family, candidate in candidates.items():
        promotion.record(home, candidate, lineage, files[family], at_us)


@flow(name="train")
def train(chosen: Settings, windows: dict[str, Window] | None = None) -> dict[str, Any]:
    """Train every family on the split's windows (or on others) and let the best that passes the gates serve."""
    home, spec = chosen.base(), source_of(chosen).spec
    at_us = watermark_us(home)
    parts = assemble(home, spec, chosen, windows)
    checks, aucs = audit(home, spec, parts, at_us, chosen.attribution_hours)
    trained: dict[str, Trained] = {}
    for family in FAMILIES:
        trained[family] = fit(family, parts, spec, chosen.seed, next(iter(trained.values()), None))
    against = comparator(home, spec, parts, chosen.seed, trained[FAMILIES[0]])
    candidates = evaluate(home, spec, trained, parts)
    record(home, candidates, parts, training.lineage(home, chosen, parts), at_us)
    decisions: dict[str, Decision] = {
        family: decide(candidate, against, parts.test, promotion.leakage_verdict(checks))
        for family, candidate in candidates.items()
    }
    winner = promote(home, candidates, decisions, at_us)
    if winner:
        accept(home, aucs)
    for family, decision in decisions.items():
        say(f"{family}: {'passed' if decision.passed else 'not promoted'}\n  " + "\n  ".join(decision.reasons))
    return {
        "families": {family: candidate.report for family, candidate in candidates.items()},
        "base": against.report,
        "compared_with": "the champion" if against.champion else "the base rate",
        "champion": winner,
        "champion_artefact": candidates[winner].artefact.hash if winner else None,
        "decisions": {family: {"passed": d.passed, "reasons": d.reasons} for family, d in decisions.items()},
        "skipped_views": parts.skipped_views,
        "evidence": evidence.of(
            {family: candidate.p for family, candidate in candidates.items()},
            against.p,
            parts.test,
            parts.by_name(),
        ),
        "rows": {name: len(part) for name, part in parts.by_name().items()},
    }
