"""What rows that break an invariant, or lie far outside, look like beside the right value: nulls, zeros, another unit, rounded.

Called by `looks`, for columns that were flagged only.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from monitoring.tiers.distribution.census import Census
from monitoring.tiers.distribution.numbers import signed_log
from monitoring.tiers.distribution.owners import name_of
from monitoring.tiers.distribution.rows import F64, Bool, Rows

FAMILIAR_RATIOS = (10.0, 24.0, 60.0, 100.0, 1000.0, 3600.0, 86400.0, 1e6)  # between units: percent, thousands, minutes, ...


def tail_ratio(census: Census, rows: Rows, subject: str, kind: str) -> float:
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


def owned_damage(census: Census, rows: Rows, subject: str, kind: str, share: float) -> tuple[str, str, dict[str, Any]]:
    """What the rows that break an owner's invariant look like beside the owner's right value."""
    counter = next(c for c in census.owned if c.subject == subject)
    apart, broken, expected = counter.broken(rows)
    with_ = {"with": name_of(counter.owner), "share": share}
    if not counter.numeric:
        return "invariant-broken", "category-reencoding", with_
    values = rows.number(counter.column)
    hit = broken if kind == "map" and broken.any() else apart
    if not hit.any():
        return "invariant-broken", "stale-features", with_
    groups = rows.groups(counter.owner)
    # The owner's median: damage to fewer than half of its rows leaves it alone.
    right = expected[hit] if kind == "map" else _owner_median(values, groups.owner, hit)
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
    """Whether most values are the owner's other ones on a coarser grid, or the other way round: rounded, cut off, or halved.

    Where half of the rows are damaged nobody knows which of the two is right.
    """
    known = ~np.isnan(seen) & ~np.isnan(right)
    if not known.any():
        return False
    seen, right = seen[known].astype(np.float64), right[known].astype(np.float64)
    with np.errstate(over="ignore"):
        fits = [_close(seen, _halved(right)) | _close(right, _halved(seen))]
        fits += [
            _close(seen, step(right * scale) / scale) | _close(right, step(seen * scale) / scale)
            for scale in 10.0 ** np.arange(-1, 5)
            for step in (np.round, np.floor, np.ceil)
        ]
    return bool(max(fit.mean() for fit in fits) > 0.6)


def _halved(values: F64) -> F64:
    return values.astype(np.float16).astype(np.float64)


def _close(left: F64, right: F64) -> Bool:
    return np.isclose(left, right, rtol=1e-6, atol=1e-12)


def _owner_median(values: F64, owner: npt.NDArray[np.int32], hit: Bool) -> F64:
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
