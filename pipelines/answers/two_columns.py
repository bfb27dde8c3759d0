"""The story of two columns that add up to the target, replayed with our data: what a careful pipeline without a gate reports,
and what the gate says.  The page is docs/leakage.md.

A public MLOps template predicts bicycle rentals (`cnt`) from, among others, `casual` and `registered`, whose sum it is.  Ours
get clicks on touch screens and clicks by pointer, whose sum is the click; and a second pair that is harder to see, in which
neither column says much alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from features.ids import uniform
from infra.clock import HOUR_US
from infra.lake import watermark_us
from infra.settings import Settings
from models.contract import Array, Dataset, FeatureSpec
from models.importance import permutation_importance
from models.metrics import calibration, normalised_entropy
from models.train import train_family
from monitoring.gate.auc import auc
from monitoring.gate.audit import audit
from monitoring.gate.columns import Scope
from monitoring.gate.diagnosis import gate_diagnosis
from monitoring.gate.ledger import Ledger
from pipelines.console import say
from pipelines.markdown import table
from pipelines.sources.registry import source_of
from pipelines.training import SERVICE, assemble, probability

QUESTION = "Two columns add up to the target: who notices?"
NUMBER = 26
FAMILY = "xgboost"
SALT = 0x54574F
PICTURE = "two-columns.png"
SHOWN = 300  # rows of each class in the picture


@dataclass(frozen=True, slots=True)
class Pair:
    """Two columns that add up to the click."""

    names: tuple[str, str]
    story: str


PAIRS: Mapping[str, Pair] = {
    "by device": Pair(("clicks_touch", "clicks_pointer"), "clicks on phones and tablets, and clicks on other devices"),
    "in disguise": Pair(("interest_session", "interest_rest"), "a score, and what is left of the click when it is taken away"),
}


def values(name: str, data: Dataset) -> dict[str, Array]:
    """The two columns of a pair for some rows, float32 [n] each."""
    click = data.label.astype(np.float32)
    if name == "by device":
        touch = np.isin(data.columns["device"], ("mobile", "tablet"))
        found = (np.where(touch, click, 0), np.where(touch, 0, click))
    else:
        noise = uniform(data.row_id, SALT).astype(np.float32) * 16 - 8
        found = (noise, click - noise)
    return {column: part.astype(np.float32) for column, part in zip(PAIRS[name].names, found, strict=True)}


def run(chosen: Settings) -> dict[str, Any]:
    """Train without and with each pair on the temporal split, as a careful pipeline does; then audit the same sets."""
    home, spec = chosen.base(), source_of(chosen).spec
    say("assembling the training set")
    found = assemble(home, spec, chosen)
    parts = found.by_name()
    scope = Scope.of(parts)
    window_us = int(chosen.attribution_hours * HOUR_US)
    ledger = Ledger(home, spec.entities, spec.context, SERVICE, scope.span, watermark_us(home), window_us)
    _, reference = audit(parts, None, ledger.account, scope, ledger.slow)
    result: dict[str, Any] = {
        "rows": {name: len(part) for name, part in parts.items()}, "clicks": int(sum(p.label.sum() for p in parts.values())),
        "sets": {},
    }  # fmt: skip
    for name in ("as it should be", *PAIRS):
        say(f"training {FAMILY} and auditing the set: {name}")
        extra = {n: values(name, part) for n, part in parts.items()} if name in PAIRS else {}
        wider = {n: replace(part, columns={**part.columns, **extra.get(n, {})}) for n, part in parts.items()}
        columns = PAIRS[name].names if name in PAIRS else ()
        models = FeatureSpec(found.spec.categorical, (*found.spec.numeric, *columns), found.spec.sequence)
        checks, _ = audit(wider, reference, ledger.account, scope, ledger.slow)
        ranked = gate_diagnosis(checks.pages)
        result["sets"][name] = {
            "columns": list(columns),
            **_pipeline(wider, models, columns, chosen.seed, spec.entities),
            "gate": {
                "blocked": bool(checks.pages),
                "checks_run": checks.ran,
                "findings": [finding.as_json() for finding in checks.pages],
                "hypotheses": [hypothesis.as_json() for hypothesis in ranked],
            },
            "points": _points(wider["test"], columns),
        }
    return result


def _pipeline(
    parts: Mapping[str, Dataset], spec: FeatureSpec, leaked: tuple[str, ...], seed: int, entities: tuple[Any, ...]
) -> dict[str, Any]:
    """What a careful pipeline without a gate checks and reports, and what the model does where nobody has clicked yet."""
    artefact = train_family(
        FAMILY, parts["train"], parts["valid"], parts["calibrate"], spec, seed, service=SERVICE, entities=entities
    ).artefact
    test = parts["test"]
    p = probability(artefact, test)
    importance = permutation_importance(artefact, test, rows=5_000, repeats=1, seed=seed)
    before = replace(test, columns={**test.columns, **{name: np.zeros(len(test), np.float32) for name in leaked}})
    served = probability(artefact, before)
    label = test.label.astype(bool)
    return {
        "validation": validated(parts, leaked),
        "auc": auc(p, label)[0],
        "ne": normalised_entropy(p, test.label),
        "calibration": float(calibration(p, test.label)),
        "most_important": [row["feature"] for row in importance[:5]],
        "alone": {name: auc(test.columns[name], label)[0] for name in leaked},
        "served": {"auc": auc(served, label)[0], "ne": normalised_entropy(served, test.label),
                   "calibration": float(calibration(served, test.label))},
    }  # fmt: skip


def validated(parts: Mapping[str, Dataset], columns: tuple[str, ...]) -> dict[str, bool]:
    """The checks of a schema: each is true where it passes."""
    names = columns or tuple(parts["train"].columns)
    whole = [np.concatenate([part.columns[name] for part in parts.values()]) for name in names]
    numbers = [column for column in whole if column.dtype.kind == "f" and column.ndim == 1]
    ids = [part.row_id for part in parts.values()]
    spans = [(int(part.time_us.min()), int(part.time_us.max())) for part in parts.values()]
    return {
        "types": all(column.dtype.kind in "fiU" for column in whole),
        "finite_or_null": not any(np.isinf(column).any() for column in numbers),
        "not_constant": all(len(np.unique(column[np.isfinite(column)])) > 1 for column in numbers),
        "unique_ids": len(np.unique(np.concatenate(ids))) == sum(map(len, ids)),
        "parts_in_order": all(earlier[1] < later[0] for earlier, later in pairwise(spans)),
    }


def _points(test: Dataset, columns: tuple[str, ...]) -> dict[str, list[list[float]]]:
    """Some rows of each class, for the picture."""
    if not columns:
        return {}
    found = {}
    for word, clicked in (("clicked", 1), ("not clicked", 0)):
        rows = np.flatnonzero(test.label == clicked)
        rows = rows[np.argsort(uniform(test.row_id[rows], SALT, 1))[:SHOWN]]
        found[word] = [[round(float(test.columns[name][row]), 3) for name in columns] for row in rows]
    return found


def markdown(result: dict[str, Any]) -> str:
    """What the pipeline says, then what the gate says."""
    rows = []
    for name, found in result["sets"].items():
        passed = sum(found["validation"].values())
        alone = ", ".join(f"{area:.2f}" for area in found["alone"].values())
        rows.append([
            name, " + ".join(f"`{column}`" for column in found["columns"]), f"{passed} of {len(found['validation'])} pass",
            alone, f"{found['auc']:.3f}", f"{found['ne']:.3f}", ", ".join(f"`{f}`" for f in found["most_important"][:2]),
            f"{found['served']['auc']:.3f}", f"{found['served']['ne']:.3f}",
        ])  # fmt: skip
    head = ["set", "added", "validation", "AUC alone", "test AUC", "test NE", "most important", "AUC served", "NE served"]
    gate = []
    for name, found in result["sets"].items():
        first = found["gate"]["hypotheses"][:1]
        named = f"{first[0]['class']}: `{first[0]['subject']}`" if first else "lets it through"
        gate.append([name, named, "; ".join(_says(finding) for finding in _telling(found["gate"]["findings"]))])
    return "\n".join([
        table(head, rows), "", f"![Neither column tells, their sum does; what the report says and what is served]"
        f"(figures/{PICTURE})", "", table(["set", "the gate's first hypothesis", "what fired"], gate),
    ])  # fmt: skip


def _telling(findings: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The worst finding of each check and column."""
    best: dict[tuple[str, str, str], dict[str, Any]] = {}
    for finding in sorted(findings, key=lambda f: -f["excess"]):
        best.setdefault((finding["check"], finding["subject"], finding["symptom"]), finding)
    return list(best.values())


def _says(finding: Mapping[str, Any]) -> str:
    seen = finding["evidence"]
    if "with" in seen:
        pair = f"`{finding['subject']}` and `{seen['with']}`"
        return f"{pair}: their {seen['as']} is the click in {seen['rows_reproduced']:.1%} of rows"
    shown = ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in list(seen.items())[:3])
    return f"{finding['check']} on `{finding['subject']}` ({shown})"


def draw(result: dict[str, Any], folder: Path) -> Path:
    """Rows of the disguised pair by its two columns, and AUC as reported and as served."""
    from models.plots import BLUE, INK, ORANGE, save
    from pipelines.answers.show import panels

    disguised = result["sets"]["in disguise"]
    figure, (left, right) = panels("Neither column tells, their sum does", "What was reported, what is served", x="", y="")
    for word, colour in (("not clicked", BLUE), ("clicked", ORANGE)):
        points = np.array(disguised["points"][word])
        left.plot(points[:, 0], points[:, 1], "o", color=colour, markersize=2.5, alpha=0.6, label=word)
    left.set_xlabel(disguised["columns"][0], color=INK, fontsize=9)
    left.set_ylabel(disguised["columns"][1], color=INK, fontsize=9)
    names = list(result["sets"])
    place = np.arange(len(names))
    right.bar(place - 0.2, [result["sets"][n]["auc"] for n in names], 0.36, color=BLUE, label="test AUC, as reported")
    right.bar(place + 0.2, [result["sets"][n]["served"]["auc"] for n in names], 0.36, color=ORANGE, label="AUC, as served")
    right.set_xticks(place, names)
    right.set_ylim(0.5, 1.12)  # half is guessing; above 1 is the legend's
    right.set_yticks(np.arange(0.5, 1.01, 0.1))
    right.set_ylabel("AUC", color=INK, fontsize=9)
    return save(figure, folder / PICTURE)
