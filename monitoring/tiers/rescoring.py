"""Predictions that the declared model does not give: from logged and rescored p to a symptom, a class and a subject.

Pure, on arrays of the rows that were rescored lately.  Called by the replay tier.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from monitoring.comparison import Array
from monitoring.tiers.mismatch import HOLDS, Pattern

F64 = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

OFFSET = 0.01  # logits around their median within which an offset counts as constant (float32 p keeps about 1e-6)
GRIDS = (
    10.0,
    100.0,
    1000.0,
    10_000.0,
    15.0,
    16.0,
    127.0,
    128.0,
    255.0,
    256.0,
    1023.0,
    1024.0,
)  # steps of p that are looked for
FEWER = 0.15  # share of rows by which distinct p fall behind those of the rescored p when they were quantised
ENOUGH = 40  # rows for a regression of the differences
BINS = 8
# Another model or other inputs?  Measured on a boosted champion: two swapped or one transformed column explain 0.42 to 0.65 of
# the differences and leave 4 to 20% of the rows exactly as they were; another model's differences are explained to 0.37 at
# most, and no row stays; its rank correlation is 0.8 and more, that of rotated columns 0.5 to 0.6.
TWO_COLUMNS = 0.42
UNCHANGED = 0.02
NEARLY_ALL = 0.75  # of rows are wrong: below, those unchanged may simply not have been hit
UNRELATED = 0.65
# A fallback may give a constant to each slot of a page; a grid as coarse would still follow what the model said.
FEW_VALUES, FAR_OFF = 6, 0.5


@dataclass(frozen=True, slots=True)
class Rescored:
    """Rows [n] that were rescored: p as logged and again, which are wrong, who they were, and their features."""

    logged: F64
    again: F64
    wrong: Mask
    model: Array
    arm: Array | None
    user: Array | None
    features: Mapping[str, Array]  # float64 with NaN or objects with None


def logit(p: F64) -> F64:
    """Log odds, of p kept off 0 and 1."""
    inside = np.clip(p, 1e-9, 1 - 1e-9)
    return np.asarray(np.log(inside / (1 - inside)), dtype=np.float64)


def explain(rows: Rescored) -> tuple[Pattern, str]:
    """The simplest pattern of the wrong rows (at least one), and the guilty subject."""
    bad = rows.wrong
    logged, again = rows.logged[bad], rows.again[bad]
    gap = logit(logged) - logit(again)
    values, counts = np.unique(np.round(logged, 7), return_counts=True)
    one = float(counts.max() / len(logged))
    if len(logged) >= 3 and one >= HOLDS and len(np.unique(again)) > 1:
        return Pattern("rescore-constant", "constant-fallback", one, {"value": float(values[np.argmax(counts)])}), "prediction"
    few = float(np.sort(counts)[-FEW_VALUES:].sum() / len(logged))
    if (
        len(logged) >= 3 * FEW_VALUES
        and few >= HOLDS
        and len(np.unique(again)) > FEW_VALUES
        and np.median(np.abs(gap)) > FAR_OFF
    ):
        evidence = {"values": int(min(len(values), FEW_VALUES)), "value": float(values[np.argmax(counts)])}
        return Pattern("rescore-constant", "constant-fallback", few, evidence), "prediction"
    middle = float(np.median(gap))
    share = float((np.abs(gap - middle) <= OFFSET * max(1.0, abs(middle))).mean())
    if share >= HOLDS and len(logged) >= 3 and abs(middle) > 2 * OFFSET:
        evidence = {"offset": middle, "w": float(np.exp(-middle))}
        return Pattern("rescore-offset", "uncorrected-downsampling", share, evidence), "prediction"
    grid = _grid(logged, again)
    if grid is not None:
        return grid, "prediction"
    return _mismatch(rows, gap)


def _grid(logged: F64, again: F64) -> Pattern | None:
    """Few distinct predictions, or predictions on a grid."""
    n = len(logged)
    for steps in GRIDS:
        off = np.abs(logged * steps - np.round(logged * steps))
        share = float(((off <= 1e-4) & (np.abs(logged - again) <= 1.01 / steps)).mean())
        by_chance = float((np.abs(again * steps - np.round(again * steps)) <= 1e-4).mean())
        if n >= 3 and share >= HOLDS and by_chance < HOLDS / 2:
            return Pattern("rescore-rounded", "quantisation", share, {"steps": steps, "distinct": len(np.unique(logged))})
    distinct, usual = len(np.unique(np.round(logged, 7))), len(np.unique(np.round(again, 7)))
    if n >= 8 and usual - distinct >= max(2.0, FEWER * n):
        return Pattern("rescore-rounded", "quantisation", 1.0, {"distinct": distinct, "rescored_distinct": usual, "rows": n})
    return None


def _mismatch(rows: Rescored, gap: F64) -> tuple[Pattern, str]:
    """Another model or other inputs?  Other inputs: the difference is a function of two columns, or order is lost."""
    bad = rows.wrong
    names, counts = np.unique(rows.model[bad].astype(str), return_counts=True)
    model = str(names[np.argmax(counts)])
    order = _rank_correlation(rows.logged[bad], rows.again[bad])
    evidence: dict[str, Any] = {
        "share_wrong": float(bad.mean()), "median_gap": float(np.median(gap)), "spread": float(np.std(gap)),
        "rank_correlation": order,
    }  # fmt: skip
    whole = _whole_units(rows)
    if whole:
        evidence["concentrated_by"] = whole
    unchanged = float(np.isclose(rows.logged, rows.again, rtol=3e-7, atol=0).mean())
    evidence["unchanged"] = unchanged
    columns, explained = ("prediction", "prediction"), 0.0
    if bad.sum() >= ENOUGH:
        columns, explained = _two_columns({name: values[bad] for name, values in rows.features.items()}, gap)
        evidence |= {"columns": list(columns), "explained": explained}
    spared = whole is None and bad.mean() >= NEARLY_ALL and unchanged >= UNCHANGED
    if bad.sum() >= ENOUGH and (explained >= TWO_COLUMNS or spared or order < UNRELATED):
        return Pattern("rescore-mismatch", "feature-order", 1.0, evidence), columns[0] if order >= UNRELATED else "prediction"
    return Pattern("rescore-mismatch", "wrong-model-version", 1.0, evidence), model


def _whole_units(rows: Rescored) -> str | None:
    """What the wrong rows are all of: an arm, a model version, or a share of users who are wrong in every row."""
    overall = rows.wrong.mean()
    if overall > 0.95:
        return None
    for name, values in (("model", rows.model), ("arm", rows.arm)):
        if values is None:
            continue
        kinds, code = np.unique(values.astype(str), return_inverse=True)
        shares = np.bincount(code, weights=rows.wrong) / np.bincount(code)
        if len(kinds) > 1 and shares.max() > 0.9 and shares.min() < 0.1:
            return f"{name} {kinds[np.argmax(shares)]}"
    if rows.user is not None:
        _, code, counts = np.unique(rows.user.astype(str), return_inverse=True, return_counts=True)
        shares = (np.bincount(code, weights=rows.wrong) / counts)[counts >= 2]
        if len(shares) >= 10 and (shares > 0).any() and ((shares == 1) | (shares == 0)).mean() > 0.97 and overall < 0.9:
            return "user"
    return None


def _rank_correlation(left: F64, right: F64) -> float:
    if len(left) < 3 or np.ptp(left) == 0 or np.ptp(right) == 0:
        return 1.0
    ranks = [np.argsort(np.argsort(values, kind="stable"), kind="stable") for values in (left, right)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _codes(values: Array) -> npt.NDArray[np.int64]:
    """Bins [n] of about equal mass; for categories the commonest, then the rest."""
    if values.dtype.kind == "O":
        _, code, counts = np.unique([str(v) for v in values.tolist()], return_inverse=True, return_counts=True)
        rank = np.argsort(np.argsort(-counts, kind="stable"), kind="stable")
        return np.asarray(np.minimum(rank[code], BINS), dtype=np.int64)
    known = ~np.isnan(values)
    code = np.full(len(values), BINS, np.int64)
    if known.any():
        edges = np.unique(np.quantile(values[known], np.linspace(0, 1, BINS + 1)[1:-1]))
        code[known] = np.searchsorted(edges, values[known], side="right")
    return code


def _two_columns(features: Mapping[str, Array], gap: F64) -> tuple[tuple[str, str], float]:
    """The two columns whose bins explain most of the variance of `gap` [n]; and how much, adjusted for their number."""
    gap = np.clip(gap, *np.quantile(gap, [0.025, 0.975]))  # a few far ones would hide the rest
    n, total = len(gap), float(np.var(gap))
    if not features or total == 0:
        return ("prediction", "prediction"), 0.0
    blocks = {}
    for name, values in features.items():
        code = _codes(values)
        blocks[name] = np.eye(BINS + 1)[code][:, np.unique(code)]

    def unexplained(names: tuple[str, ...]) -> float:
        design = np.hstack([blocks[name] for name in names])
        fit, *_ = np.linalg.lstsq(design, gap, rcond=None)
        freedom = max(n - design.shape[1] + len(names) - 1, 1)
        return float(np.sum((gap - design @ fit) ** 2) / freedom) / (total * n / max(n - 1, 1))

    first = sorted(blocks, key=lambda name: unexplained((name,)))[:5]
    pairs = [(a, b) for a in first for b in blocks if b != a]
    if not pairs:
        return (first[0], first[0]), 1 - unexplained((first[0],))
    best = min(pairs, key=unexplained)
    return best, 1 - unexplained(best)
