"""From surprising parts to findings: at most one a subject, its symptom, the numbers that show it, and what it looks like.

Called by the tier.  The class is the best guess from the column alone; `monitoring.diagnosis` weighs it with others.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from infra.clock import HOUR_US, day_name
from monitoring.findings import Finding
from monitoring.tiers.distribution.census import Census
from monitoring.tiers.distribution.numbers import signed_log
from monitoring.tiers.distribution.owners import name_of
from monitoring.tiers.distribution.parts import Part
from monitoring.tiers.distribution.rows import F64, Bool, Rows
from monitoring.window import Window

# A share must move by this much to be worth a word, and a mean by this many standard deviations of single values: a log of
# millions of rows shows differences that no one would act on.
LEAST_SHARE, LEAST_MEAN, LEAST_RARE = 0.002, 0.01, 0.0004
LEAST_HITS, LEAST_CHANGED = 4.0, 2.0  # owners: fewer is one page view; one owner may have changed an attribute
RECENCY = ("since", "age_", "_age", "recency", "tenure", "last_")  # in names of columns that grow when features are stale
FAMILIAR_RATIOS = (10.0, 24.0, 60.0, 100.0, 1000.0, 3600.0, 86400.0, 1e6)


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
    expected: F64
    left: F64
    beyond: Bool  # further out than any window of that length before, by a margin
    rows: int


@dataclass(frozen=True, slots=True)
class Worst:
    """One part in the window that shows it most."""

    part: Part
    index: int
    judged: Judged
    excess: float
    page: bool


def findings(census: Census, rows: Rows, window: Window, judged: list[Judged]) -> list[Finding]:
    """Findings, worst first."""
    if not judged:
        return []
    picked: dict[str, list[Worst]] = {}
    for one in judged:
        n = _rows_counted(one)
        with np.errstate(divide="ignore", invalid="ignore"):
            moved = np.abs(one.left) / np.maximum(n, 1.0)
        for i in np.flatnonzero(one.log10_p <= one.notice).tolist():
            part = census.parts[i]
            if part.form == "share" and moved[i] < LEAST_SHARE:
                continue
            if part.lasting and one.k[i] < (LEAST_CHANGED if part.kind == "map" else LEAST_HITS):
                continue
            if part.form == "rare" and one.left[i] < LEAST_RARE * one.rows:
                continue
            excess = float(one.log10_p[i] / one.page[i])
            page = excess >= 1.0 and bool(one.beyond[i])
            picked.setdefault(part.subject, []).append(Worst(part, i, one, excess if page else min(excess, 0.99), page))
    found = [_finding(census, rows, window, worst) for worst in picked.values()]
    return sorted(found, key=lambda f: (f.severity != "page", -f.excess))


def _rows_counted(one: Judged) -> F64:
    return np.full(len(one.k), float(one.rows))


# Signs that explain others of their column, clearest first: a constant that is filled in also moves bins and broken invariants.
SHARP = ("clock", "null", "zero", "new", "far-low", "far-high", "mode", "top", "map", "apart", "grid", "cast", "distinct")


def _finding(census: Census, rows: Rows, window: Window, worst: list[Worst]) -> Finding:
    """The finding of one subject."""
    best = max(worst, key=lambda w: (w.page, w.excess))
    signs = [w for w in worst if w.part.kind in SHARP and w.page == best.page and w.excess >= 0.4 * best.excess]
    signs = [w for w in signs if w.part.kind not in ("mode", "top", "grid", "cast") or w.judged.left[w.index] > 0]
    if signs:
        best = min(signs, key=lambda w: (SHARP.index(w.part.kind), -w.excess))
    kinds = {w.part.kind for w in worst if w.excess >= 0.3 * best.excess}
    part, judged, i = best.part, best.judged, best.index
    rises = bool(judged.left[i] > 0)
    symptom, bug_class, more = _name(census, rows, best, worst, kinds, rises)
    evidence: dict[str, Any] = {
        "number": part.label,
        "seen": float(judged.k[i]),
        "expected": float(judged.expected[i]),
        "rows": judged.rows,
        "hours": judged.hours,
        "t": float(judged.t[i]),
        "log10_p": float(judged.log10_p[i]),
        "limit_log10_p": float(judged.page[i]),
        "signs": _signs(worst, best),
        **_nulls(census, best),
        **more,
    }
    severity: Literal["page", "notice"] = "page" if best.page else "notice"
    return Finding(
        check=f"distribution-{part.kind}",
        bug_class=bug_class,
        subject=part.subject,
        severity=severity,
        evidence=evidence,
        since=day_name(judged.start_us),
        excess=best.excess,
        symptom=symptom,
        tier="distribution",
        onset_us=judged.start_us if judged.hours <= 2 else window.end_us - HOUR_US * judged.hours,
    )


def _signs(worst: list[Worst], best: Worst) -> dict[str, float]:
    """Everything that this column shows, not only the sign that names it: kind and direction -> excess.  For diagnosis."""
    signs: dict[str, float] = {}
    for one in sorted(worst, key=lambda w: w.excess):
        if one.excess >= 0.2 * best.excess:
            signs[f"{one.part.kind}{'+' if one.judged.left[one.index] > 0 else '-'}"] = round(one.excess, 3)
    return signs


def _nulls(census: Census, best: Worst) -> dict[str, float]:
    """By which share of rows nulls rose, or fell, where zeros or one value rose: one may replace the other."""
    if best.part.kind not in ("zero", "mode", "top"):
        return {}
    judged = best.judged
    for i, part in enumerate(census.parts):
        if part.subject == best.part.subject and part.kind == "null" and part.form == "share":
            return {"nulls_change": float(judged.left[i]) / max(judged.rows, 1)}
    return {}


def _name(
    census: Census, rows: Rows, best: Worst, worst: list[Worst], kinds: set[str], rises: bool
) -> tuple[str, str, dict[str, Any]]:
    """(symptom, class, evidence)."""
    kind, subject = best.part.kind, best.part.subject
    judged, i = best.judged, best.index
    prediction = subject == "prediction"
    share = abs(float(judged.left[i])) / max(judged.rows, 1)
    if kind.startswith("residual"):
        at = census.model_at + len(_residual_labels(census)) - 2
        n = max(judged.rows, 1)
        offset, spread = float(judged.left[at] / n), float(judged.left[at + 1] / n)
        moved = float(np.abs(judged.left[census.model_at : at]).sum() / 2 / n)
        guess = "uncorrected-downsampling" if kind == "residual-mean" and abs(spread) < 0.3 else "wrong-model-version"
        guess = "feature-order" if spread >= 0.3 else guess
        return "residual-moved", guess, {"offset": offset, "spread": spread, "share": moved}
    if kind == "clock":
        clock = census.clocks[subject]
        shift = clock.shift(rows) if clock else None
        more: dict[str, Any] = {"with": "time", "share": share}
        return "invariant-broken", "time-zone-shift", more if shift is None else {**more, "shift": shift}
    if kind in ("map", "apart"):
        return _owned(census, rows, best, share)
    if kind == "null":
        mixed = any(w.part.kind == "zero" and (w.judged.left[w.index] > 0) != rises for w in worst)
        guess = "imputation-difference" if mixed or not rises else "null-spike"
        return ("nulls-up" if rises else "nulls-down"), guess, {"share": share}
    if kind == "zero" and rises:
        mixed = any(w.part.kind == "null" and w.judged.left[w.index] < 0 for w in worst)
        return "zeros-up", "imputation-difference" if mixed else "default-value-skew", {"share": share}
    if kind in ("mode", "top") and rises:
        return "mode-up", "constant-fallback" if prediction else "default-value-skew", {"share": share}
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
        ratio = _tail_ratio(census, rows, subject, kind)
        if ratio == 0.0:
            filled = any(w.part.kind == "null" and w.judged.left[w.index] < 0 for w in worst)
            return "zeros-up", "imputation-difference" if filled else "default-value-skew", {"share": share}
        return "tail-up", "unit-change", {"share": share, "ratio": ratio}
    if kind == "category":
        return _category(best, worst, share)
    return _moved(census, best, worst, subject, share)


def _residual_labels(census: Census) -> list[Part]:
    return census.parts[census.model_at :]


def _category(best: Worst, worst: list[Worst], share: float) -> tuple[str, str, dict[str, Any]]:
    """Swapped where two values exchanged their shares, else moved."""
    same = [w for w in worst if w.part.kind == "category" and w.judged is best.judged]
    up = max(same, key=lambda w: w.judged.left[w.index])
    down = min(same, key=lambda w: w.judged.left[w.index])
    a, b = up.judged, down.judged
    rise, fall = float(a.left[up.index]), -float(b.left[down.index])
    if rise > 0 and fall > 0 and min(rise, fall) >= 0.7 * max(rise, fall):
        gap = abs(float(a.expected[up.index] - b.expected[down.index]))
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
        n = max(one.judged.rows, 1)
        shift = float(one.judged.left[one.index]) / n
        ratio = float(np.exp(np.clip(shift, -50, 50)))
        if abs(shift) >= np.log(5):
            return "location-moved", "unit-change", {"ratio": ratio}
        if best.part.kind == "mean" or abs(shift) >= 0.1:
            return "location-moved", "stale-features" if recency and shift > 0 else "covariate-shift", {"ratio": ratio}
    return "shares-moved", "covariate-shift", {"share": share}


def _tail_ratio(census: Census, rows: Rows, subject: str, kind: str) -> float:
    """Geometric mean of the rows beyond the reference over the usual value, from the window's own rows."""
    counter = next(c for c in census.numbers if c.subject == subject)
    values = rows.number(counter.column)
    far = values < counter.edges[0] if kind == "far-low" else values >= counter.edges[-1]
    inside = ~far & ~np.isnan(values)
    if not far.any() or not inside.any():
        return float("inf") if kind == "far-high" else 0.0
    if (values[far] == 0).mean() > 0.5:
        return 0.0
    if np.nanmin(values) > 0:
        logs = np.log(values)
        return float(np.exp(logs[far].mean() - logs[inside].mean()))
    return float(
        np.expm1(np.abs(signed_log(values[far])).mean()) / max(np.expm1(np.abs(signed_log(values[inside])).mean()), 1e-12)
    )


def _owned(census: Census, rows: Rows, best: Worst, share: float) -> tuple[str, str, dict[str, Any]]:
    """What the rows that break an owner's invariant look like beside the owner's right value."""
    counter = next(c for c in census.owned if c.subject == best.part.subject)
    apart, broken, expected = counter.broken(rows)
    with_ = {"with": name_of(counter.owner), "share": share}
    if not counter.numeric:
        return "invariant-broken", "category-reencoding", with_
    values = rows.number(counter.column)
    hit = broken if best.part.kind == "map" and broken.any() else apart
    if not hit.any():
        return "invariant-broken", "stale-features", with_
    groups = rows.groups(counter.owner)
    # The owner's median: damage to fewer than half of its rows leaves it alone.
    right = expected[hit] if best.part.kind == "map" else _owner_median(values, groups.owner, hit)
    seen = values[hit]
    if np.isnan(seen).mean() > 0.5:
        return "nulls-up", "null-spike", {**with_, "share": float(np.isnan(values[hit]).sum() / max(rows.rows, 1))}
    if (seen == 0).mean() > 0.5 and (right != 0).mean() > 0.5:
        return "zeros-up", "default-value-skew", with_
    with np.errstate(all="ignore"):
        ratio = seen / right
    ratio = ratio[np.isfinite(ratio) & (ratio > 0) & (np.abs(np.log(np.maximum(ratio, 1e-30))) > 1e-9)]
    with np.errstate(all="ignore"):
        step = seen - right
    step = step[np.isfinite(step) & (step != 0)]
    if len(step) >= 3:  # another unit under a logarithm is a constant step
        middle = float(np.median(step))
        if np.median(np.abs(step - middle)) < 0.02 * abs(middle) and np.std(seen[np.isfinite(seen)]) > 0.05 * abs(middle):
            unit = min(FAMILIAR_RATIOS, key=lambda r: abs(np.log(r) - abs(middle)))
            if abs(np.log(unit) - abs(middle)) < 0.1:
                return "location-moved", "unit-change", {**with_, "ratio": float(np.exp(middle))}
    if len(ratio) >= 3:
        middle = float(np.median(ratio))
        steady = float(np.mean(np.abs(np.log(ratio / middle)) < 0.05))
        if steady > 0.6 and abs(np.log(middle)) > np.log(3):
            return "tail-up", "unit-change", {**with_, "ratio": middle}
        if _rounded(seen, right):
            return "invariant-broken", "cast-or-rounding", {**with_, "ratio": middle}
        return "invariant-broken", "stale-features", {**with_, "ratio": middle}
    return "invariant-broken", "stale-features", with_


def _rounded(seen: F64, right: F64) -> bool:
    """Whether most of the wrong values are the right ones on a coarser grid: rounded, cut off, or in half precision."""
    known = ~np.isnan(seen) & ~np.isnan(right)
    if not known.any():
        return False
    seen, right = seen[known], right[known]
    with np.errstate(over="ignore"):
        coarser = [right.astype(np.float16).astype(np.float64)]
    for digits in range(-1, 5):
        scaled = right * 10.0**digits
        coarser += [step(scaled) / 10.0**digits for step in (np.round, np.floor, np.ceil)]
    return bool(max(np.mean(np.isclose(seen, each, rtol=1e-6, atol=1e-12)) for each in coarser) > 0.6)


def _owner_median(values: F64, owner: np.ndarray, hit: Bool) -> F64:
    """The median of known values of the owner of each row that is `hit` [h]."""
    wanted = np.zeros(int(owner.max()) + 1, dtype=bool)
    wanted[owner[hit]] = True
    mine = wanted[owner]
    values, owner, hit = np.where(np.isnan(values[mine]), np.inf, values[mine]), owner[mine], hit[mine]
    order = np.lexsort((values, owner))
    known = np.bincount(owner, np.isfinite(values), len(wanted)).astype(np.int64)
    starts = np.searchsorted(owner[order], np.arange(len(wanted)))
    middle = np.minimum(starts + np.maximum(known - 1, 0) // 2, len(order) - 1)
    return np.asarray(values[order][middle][owner[hit]])
