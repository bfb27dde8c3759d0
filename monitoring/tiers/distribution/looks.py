"""What a surprising part looks like: its symptom, its likeliest class, and the numbers that say so.

Called by `naming`.  The class is the best guess from the column alone; `monitoring.diagnosis` weighs it with others.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from monitoring.tiers.distribution.census import Census
from monitoring.tiers.distribution.damage import owned_damage, tail_ratio
from monitoring.tiers.distribution.parts import Part
from monitoring.tiers.distribution.rows import F64, Bool, Rows

SHIFTED = 4.0  # times their scatter by which residuals lie off, all on one side: a shift
FILLED = 0.5  # of the rows that got a value had none before: nulls are filled in
RECENCY = ("since", "age_", "_age", "recency", "tenure", "last_")  # in names of columns that grow when features are stale


@dataclass(frozen=True, slots=True)
class Judged:
    """All parts [m] over a window of so many hours."""

    hours: int
    start_us: int
    log10_p: F64
    page: F64  # limits on log10 p
    notice: F64
    z: F64
    t: F64
    k: F64
    n: F64
    expected: F64
    left: F64
    beyond: Bool  # further out than any window of that length before, by a margin
    rows: int
    rescored: bool = False  # the declared model, asked again, gave the same: residuals say nothing
    trend: bool = False  # weeks against weeks: k and expected are mean values of a day, left their difference, rows 1


@dataclass(frozen=True, slots=True)
class Worst:
    """One part in the window that shows it most."""

    part: Part
    index: int
    judged: Judged
    excess: float
    page: bool


def look(census: Census, rows: Rows, best: Worst, worst: list[Worst], rises: bool) -> tuple[str, str, dict[str, Any]]:
    """(symptom, class, evidence)."""
    kind, subject = best.part.kind, best.part.subject
    if best.judged.trend:
        slope = float(best.judged.left[best.index]) * 24 / best.judged.hours * 2
        return "slow-trend", "seasonal-drift", {"days": best.judged.hours // 24, "slope": slope, "scale": "day"}
    prediction = subject == "prediction"
    share = share_of(census, best)
    if kind.startswith("residual"):
        return _residual(census, rows, best)
    if kind == "clock" or (kind == "apart" and census.clocks.get(subject) is not None):
        clock = census.clocks[subject]
        shift = clock.shift(rows) if clock else None
        more: dict[str, Any] = {"with": "time", "share": share}
        return "invariant-broken", "time-zone-shift", more if shift is None else {**more, "shift": shift}
    if kind in ("map", "apart") and census.clocks.get(subject) is None:
        return owned_damage(census, rows, subject, kind, share)
    if kind == "null":
        mixed = any(w.part.kind == "zero" and (w.judged.left[w.index] > 0) != rises for w in worst)
        guess = "imputation-difference" if mixed or not rises else "null-spike"
        return ("nulls-up" if rises else "nulls-down"), guess, {"share": share}
    if kind == "zero" and rises:
        filled = null_change(census, best) < -FILLED * share
        return "zeros-up", "imputation-difference" if filled else "default-value-skew", {"share": share}
    if kind in ("mode", "top") and rises:
        filled = null_change(census, best) < -FILLED * share
        guess = "constant-fallback" if prediction else "imputation-difference" if filled else "default-value-skew"
        return "mode-up", guess, {"share": share}
    if kind in ("distinct", "grid", "cast") and rises:
        return (
            "distinct-down",
            "quantisation" if prediction else "cast-or-rounding",
            {"share": share, "number": best.part.label},
        )
    if kind == "distinct":
        return "distinct-up", "cast-or-rounding", {"share": share}
    if kind == "new":
        return "new-values", "category-reencoding", {"share": share}
    if kind == "novel":
        return "novel-entities", "new-ad-wave" if "user" not in subject else "covariate-shift", {"share": share}
    if kind == "heavy":
        return "concentration-up", "bots", {"share": share}
    if kind in ("far-low", "far-high"):
        ratio = tail_ratio(census, rows, subject, kind)
        if ratio == 0.0:
            filled = null_change(census, best) < -FILLED * share
            return "zeros-up", "imputation-difference" if filled else "default-value-skew", {"share": share}
        return "tail-up", "unit-change", {"share": share, "ratio": ratio}
    if kind == "category":
        return _category(best, worst, share)
    return _moved(census, best, worst, subject, share)


def null_change(census: Census, best: Worst) -> float:
    """By which share of rows the nulls of the same column rose (or fell) in the same window."""
    for i, part in enumerate(census.parts):
        if part.subject == best.part.subject and part.kind == "null" and part.form == "share":
            return float(best.judged.left[i] / max(best.judged.n[i], 1))
    return 0.0


def share_of(census: Census, best: Worst) -> float:
    """The share of rows that moved: of counted owners' rows, where the column's rows are counted too."""
    judged, i = best.judged, best.index
    twin = {"far-low": "bin", "far-high": "bin"}.get(best.part.kind, best.part.kind)
    rows = [j for j, p in enumerate(census.parts) if p.subject == best.part.subject and p.kind == twin and p.form == "share"]
    if best.part.form == "rare" and rows:
        i = rows[-1] if best.part.kind == "far-high" else rows[0]
    return abs(float(judged.left[i])) / max(float(judged.n[i]), 1.0)


def _category(best: Worst, worst: list[Worst], share: float) -> tuple[str, str, dict[str, Any]]:
    """Swapped where two values exchanged their shares, else moved."""
    same = [w for w in worst if w.part.kind == "category" and w.judged is best.judged]
    up = max(same, key=lambda w: w.judged.left[w.index])
    down = min(same, key=lambda w: w.judged.left[w.index])
    a, b = up.judged, down.judged
    rise, fall = float(a.left[up.index]), -float(b.left[down.index])
    if rise > 0 and fall > 0 and min(rise, fall) >= 0.7 * max(rise, fall):
        gap = float(b.expected[down.index] - a.expected[up.index])  # to change places, the rarer one must have grown
        if gap > 0 and 0.75 <= (rise + fall) / 2 / gap <= 1.33:
            pair = f"{up.part.label.removeprefix('value ')}, {down.part.label.removeprefix('value ')}"
            return "shares-swapped", "category-reencoding", {"pair": pair, "share": share}
    return "shares-moved", "covariate-shift", {"share": share}


def _moved(census: Census, best: Worst, worst: list[Worst], subject: str, share: float) -> tuple[str, str, dict[str, Any]]:
    """A number's location or bins moved."""
    means = [w for w in worst if w.part.kind == "mean"]
    recency = any(word in subject for word in RECENCY)
    if means:
        one = max(means, key=lambda w: w.excess)
        n = max(float(one.judged.n[one.index]), 1.0)
        shift = float(one.judged.left[one.index]) / n
        ratio = float(np.exp(np.clip(shift, -50, 50)))
        if abs(shift) >= np.log(5):
            return "location-moved", "unit-change", {"ratio": ratio}
        if best.part.kind == "mean" or abs(shift) >= 0.1:
            return "location-moved", "stale-features" if recency and shift > 0 else "covariate-shift", {"ratio": ratio}
    return "shares-moved", "covariate-shift", {"share": share}


def _residual(census: Census, rows: Rows, best: Worst) -> tuple[str, str, dict[str, Any]]:
    """A constant correction moves logits by one number; swapped features and other models scatter them."""
    judged, last = best.judged, len(census.parts)  # the mean and the spread are the last parts
    n = max(float(judged.n[last - 1]), 1.0)
    offset, spread = float(judged.left[last - 2] / n), float(judged.left[last - 1] / n)
    share = float(np.abs(judged.left[census.model_at : last - 2]).sum() / 2 / n)
    evidence = {"offset": offset, "spread": spread, "share": share}
    model = census.model
    if model is None:
        return "residual-moved", "wrong-model-version", evidence
    residual = model.residual(rows)
    far = residual[(residual < model.edges[0]) | (residual > model.edges[-1])]
    if len(far) >= 10:
        middle = float(np.median(far))
        scatter = float(np.median(np.abs(far - middle)))
        evidence |= {"moved_offset": middle, "moved_scatter": scatter}
        if abs(middle) > SHIFTED * scatter:
            return "residual-moved", "uncorrected-downsampling", evidence
        return "residual-moved", "feature-order" if spread >= 0.3 else "wrong-model-version", evidence
    tight = abs(offset) > 0 and spread < 0.3
    return "residual-moved", "uncorrected-downsampling" if tight else "wrong-model-version", evidence
