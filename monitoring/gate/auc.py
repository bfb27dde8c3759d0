"""How well each feature alone orders clicks, day by day, and whether that jumped: the oldest sign of a feature that knows
the answer.

Pure: a `Dataset` in, tables of numbers and findings out.  Called by `monitoring.gate.audit`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from features.ids import uniform
from infra.clock import DAY_US, day_name
from models.contract import Dataset
from monitoring.findings import Finding
from monitoring.gate.signs import sign
from monitoring.spread import shrink, two_sided_log10_p

Array = npt.NDArray[Any]
F64 = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]

MOST_NOT_CLICKED = 20_000  # rows of a day that were not clicked, of which AUCs are computed
LEAST_CLICKS = 20  # a day with fewer clicks (or fewer rows without) gives no AUC
# A change of AUC smaller than this is not called a jump, however certain: refreshing a counter's history moves it as much.
TOLERANCE = 0.01
# On a day that was audited before, at most this share of clicks is taken to have been revised since (about 2% come after the
# attribution window closes or arrive later still), and a change of AUC below the second number is rounding.
REVISED, REVISED_TOLERANCE = 0.05, 0.002
BUDGET = 1 / 1000  # probability that the audit of one clean candidate set finds a jump, over all features and days
# No single honest feature reaches this.  Whole models with all their features reach about 0.81 on Criteo and 0.79 on
# Avazu (the BARS leaderboards: Zhu et al. 2022, "BARS: Towards Open Benchmarking for Recommender Systems").
ABSOLUTE_CAP = 0.80
# How much AUC an honest feature may lose from training days to later ones beyond luck (users and ads turn over).
AGING = 0.03
# A single honest column may beat all vouched ones in a linear model by this factor of AUC excess: an older model's score does.
TOGETHER = 1.3
SALT = 0x4C45414B
IS_NULL, BY_RATE = " is null", " by click rate"  # endings of an AucTable's rows that are not a column's own values


@dataclass(frozen=True, slots=True)
class AucTable:
    """AUC of each feature on each day: `auc` and `variance` are [features, days], NaN where a day had too few clicks.

    Above 0.5: larger values (for categories: those clicked more often in other rows) are clicked more.  `NAME is null`
    rows say how well being null alone orders clicks.
    """

    features: tuple[str, ...]
    days: tuple[str, ...]
    auc: F64
    variance: F64
    rows: tuple[int, ...]  # [days]
    clicks: tuple[int, ...]  # [days]

    def as_json(self) -> dict[str, Any]:
        """A dict of JSON types; NaN as None."""

        def plain(values: F64) -> list[list[float | None]]:
            return [[None if np.isnan(v) else float(v) for v in row] for row in values]

        return {"features": list(self.features), "days": list(self.days), "auc": plain(self.auc),
                "variance": plain(self.variance), "rows": list(self.rows), "clicks": list(self.clicks)}  # fmt: skip

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> "AucTable":
        """What `as_json` gave."""
        shape = (len(raw["features"]), len(raw["days"]))
        area, variance = (np.array(raw[name], dtype=np.float64).reshape(shape) for name in ("auc", "variance"))
        return cls(tuple(raw["features"]), tuple(raw["days"]), area, variance, tuple(raw["rows"]), tuple(raw["clicks"]))


def auc(values: Array, label: Bool) -> tuple[float, float]:
    """Area under the ROC curve of values [n] (ties count half) and its variance for independent rows (DeLong et al. 1988).

    NaN for both where a class has fewer than two rows.
    """
    positives, negatives = int(label.sum()), int((~label).sum())
    if positives < 2 or negatives < 2:
        return np.nan, np.nan
    clicked, rest = np.sort(values[label]), np.sort(values[~label])
    above = _share_below(rest, clicked)
    below = 1.0 - _share_below(clicked, rest)
    return float(above.mean()), float(above.var(ddof=1) / positives + below.var(ddof=1) / negatives)


def placements(values: Array, label: Bool) -> tuple[F64, F64]:
    """Of each clicked row the share of other rows that it is above, and of each other row the share of clicked ones that are
    above it, both in the order of `values` [n]; their means are the AUC."""
    clicked, rest = values[label], values[~label]
    return _share_below(np.sort(rest), clicked), 1.0 - _share_below(np.sort(clicked), rest)


def _share_below(others: Array, values: Array) -> F64:
    """For each of `values` the share of `others` (sorted) that is smaller; equal ones count half."""
    return (np.searchsorted(others, values, "left") + np.searchsorted(others, values, "right")) / (2.0 * len(others))


def click_rates(values: Array, label: Bool, row_id: npt.NDArray[np.int64]) -> F64:
    """Categories as numbers: for each row the smoothed click rate of its category among the rows of the other half (by
    hashed id)."""
    _, codes = np.unique(values, return_inverse=True)
    half = uniform(row_id, SALT) < 0.5
    size, prior = int(codes.max()) + 1, float(label.mean())
    rates = np.empty(len(codes))
    for mine in (half, ~half):
        shown = np.bincount(codes[~mine], minlength=size)
        clicked = np.bincount(codes[~mine], weights=label[~mine], minlength=size)
        rates[mine] = ((clicked + 20 * prior) / (shown + 20))[codes[mine]]
    return rates


def auc_by_day(data: Dataset) -> AucTable:
    """AUC of every one-dimensional column of `data` on every event day, nulls lowest; and of being null, where a column
    has nulls.

    Columns of strings or whole numbers go through `click_rates`; sequences are left out.
    """
    label = data.label.astype(bool)
    day = data.time_us // DAY_US
    days = np.unique(day)
    every = [np.flatnonzero(day == d) for d in days]
    rows = [_thinned(r, label, data.row_id) for r in every]
    enough: list[bool] = [bool(min(label[r].sum(), (~label[r]).sum()) >= LEAST_CLICKS) for r in rows]
    names: list[str] = []
    found: list[list[tuple[float, float]]] = []

    def add(name: str, values: Array) -> None:
        names.append(name)
        found.append([auc(values[r], label[r]) if ok else (np.nan, np.nan) for r, ok in zip(rows, enough, strict=True)])

    for name, values in data.columns.items():
        if values.ndim != 1:
            continue
        if values.dtype.kind != "f":
            add(f"{name}{BY_RATE}", click_rates(values, label, data.row_id))
            continue
        null = ~np.isfinite(values)
        add(name, np.where(null, -np.inf, values))
        if null.any() and not null.all():
            add(f"{name}{IS_NULL}", null.astype(np.float64))
    table = np.array(found, dtype=np.float64).reshape(len(names), len(days), 2)
    return AucTable(
        tuple(names), tuple(day_name(int(d) * DAY_US) for d in days), table[:, :, 0], table[:, :, 1],
        tuple(len(r) for r in every), tuple(int(label[r].sum()) for r in every),
    )  # fmt: skip


def _thinned(rows: npt.NDArray[np.int64], label: Bool, row_id: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """All clicked rows of a day and, by hashed id, some `MOST_NOT_CLICKED` of the others: more of them hardly narrow an AUC."""
    rest = rows[~label[rows]]
    if len(rest) <= MOST_NOT_CLICKED:
        return rows
    kept = rest[uniform(row_id[rest], SALT, 1) < MOST_NOT_CLICKED / len(rest)]
    return np.concatenate([rows[label[rows]], kept])


def column_of(feature: str) -> str:
    """The column behind a row of an `AucTable`."""
    return feature.removesuffix(IS_NULL).removesuffix(BY_RATE)


def jumps(candidate: AucTable, reference: AucTable, budget: float = BUDGET) -> list[Finding]:
    """Features whose AUC on the candidate's days, together or on one of them, left the range the reference's days lead
    to expect, or whose AUC changed on the very days that the reference holds too.

    The day-to-day spread beyond sampling luck is learned from the reference and shrunk over features
    (`monitoring.spread.shrink`); on shared days with the same rows only revised labels may move an AUC.  `budget` is
    shared by all of it (Bonferroni).  A feature that the reference lacks is left to `above_cap`.
    """
    shared = [name for name in candidate.features if name in reference.features]
    pick_now = [candidate.features.index(name) for name in shared]
    pick_then = [reference.features.index(name) for name in shared]
    dated_now: Bool = np.asarray(np.isfinite(candidate.auc[pick_now]).all(axis=0))
    dated_then: Bool = np.asarray(np.isfinite(reference.auc[pick_then]).all(axis=0))
    if not shared or dated_now.sum() < 1 or dated_then.sum() < 2:
        return []
    now, now_variance = candidate.auc[pick_now][:, dated_now], candidate.variance[pick_now][:, dated_now] + 1e-12
    then, then_variance = reference.auc[pick_then][:, dated_then], reference.variance[pick_then][:, dated_then] + 1e-12
    days = [day for day, ok in zip(candidate.days, dated_now.tolist(), strict=True) if ok]
    past = [day for day, ok in zip(reference.days, dated_then.tolist(), strict=True) if ok]

    usual = then.mean(axis=1)
    usual_variance = then_variance.mean(axis=1) / then.shape[1]
    factor, freedom = shrink(
        np.square(then - usual[:, None]).sum(axis=1) / (then.shape[1] - 1) / then_variance.mean(axis=1), then.shape[1] - 1.0
    )
    factor = np.maximum(factor, 1.0)
    change = np.column_stack([now.mean(axis=1), now]) - usual[:, None]
    scale = np.column_stack([now_variance.mean(axis=1) / now.shape[1], now_variance]) + usual_variance[:, None]
    t = np.maximum(np.abs(change) - TOLERANCE, 0.0) / np.sqrt(factor[:, None] * scale)
    log_p = two_sided_log10_p(t, freedom)
    spans = ["all", *days]

    again = _same_days(candidate, reference, days, past)
    if again:
        here, there = [days.index(day) for day in again], [past.index(day) for day in again]
        moved = (now[:, here] - then[:, there]).mean(axis=1)
        # Click rates by category depend on all rows of a set, so on its other days too.
        moved[[name.endswith(BY_RATE) for name in shared]] = 0.0
        revised = np.sqrt(REVISED * now_variance[:, here].mean(axis=1) / len(again))
        change = np.column_stack([change, moved])
        t = np.column_stack([t, np.maximum(np.abs(moved) - REVISED_TOLERANCE, 0.0) / revised])
        log_p = np.column_stack([log_p, two_sided_log10_p(t[:, -1], freedom)])
        spans.append("days audited before")

    limit = float(np.log10(budget / log_p.size))
    found = []
    for i, name in enumerate(shared):
        worst = int(np.argmin(log_p[i]))
        if log_p[i, worst] > limit:
            continue
        alone = np.abs(change[i, 1 : len(days) + 1]) > np.abs(change[i, worst]) / 2
        found.append(
            sign("auc-jump", "auc-jump", column_of(name), float(log_p[i, worst] / limit), {
                "feature": name, "auc": float(usual[i] + change[i, worst]), "usual": float(usual[i]), "days": spans[worst],
                "t": float(t[i, worst]), "log10_p": float(log_p[i, worst]), "limit_log10_p": limit,
                "reference_days": len(past),
            }, days[int(np.argmax(alone))] if alone.any() else days[0])
        )  # fmt: skip
    return found


def _same_days(candidate: AucTable, reference: AucTable, days: Sequence[str], past: Sequence[str]) -> list[str]:
    """Days in both tables with the same rows, and clicks that differ by no more than late ones explain."""
    counts = {day: (r, c) for day, r, c in zip(reference.days, reference.rows, reference.clicks, strict=True)}
    same = []
    for day, rows, clicks in zip(candidate.days, candidate.rows, candidate.clicks, strict=True):
        before = counts.get(day)
        if day in days and day in past and before and before[0] == rows and abs(before[1] - clicks) <= REVISED * clicks:
            same.append(day)
    return same


def gaps(table: AucTable, train_days: int, budget: float = BUDGET) -> list[Finding]:
    """Features that order clicks better on the first `train_days` days than on all later ones: a statistic that holds the
    labels of the rows it was made from knows them better than new ones.

    The spread between days is learned from the features themselves and shrunk; an honest feature may age by `AGING`.
    """
    dated: Bool = np.asarray(np.isfinite(table.auc).all(axis=0))
    early, late = np.flatnonzero(dated[:train_days]), train_days + np.flatnonzero(dated[train_days:])
    if not len(table.features) or len(early) < 1 or len(late) < 1 or len(early) + len(late) < 4:
        return []
    strength = np.where(table.auc.mean(axis=1, where=dated) >= 0.5, 1.0, -1.0)[:, None] * (table.auc - 0.5)
    variance = table.variance + 1e-12
    within = np.zeros(len(strength))
    for days in (early, late):
        within += np.square(strength[:, days] - strength[:, days].mean(axis=1, keepdims=True)).sum(axis=1)
    freedom = float(len(early) + len(late) - 2)
    both = np.concatenate([early, late])
    factor, freedom = shrink(within / freedom / variance[:, both].mean(axis=1), freedom)
    gap = strength[:, early].mean(axis=1) - strength[:, late].mean(axis=1)
    scale = variance[:, early].mean(axis=1) / len(early) + variance[:, late].mean(axis=1) / len(late)
    t = np.maximum(gap - AGING, 0.0) / np.sqrt(np.maximum(factor, 1.0) * scale)
    log_p, limit = two_sided_log10_p(t, freedom), float(np.log10(budget / len(t)))
    return [
        sign("auc-gap", "auc-gap", column_of(table.features[i]), float(log_p[i] / limit), {
            "feature": table.features[i], "auc_train": float(0.5 + strength[i, early].mean()),
            "auc_later": float(0.5 + strength[i, late].mean()), "t": float(t[i]), "log10_p": float(log_p[i]),
            "limit_log10_p": limit,
        }, table.days[0])
        for i in np.flatnonzero(log_p <= limit)
    ]  # fmt: skip


def above_cap(candidate: AucTable, slow: Sequence[str] = (), together: float = 0.5) -> list[Finding]:
    """Features that order clicks better than an honest one can, for candidates without history.

    The limit of a feature: half, plus twice the excess over half of the third best of the other features, at least
    0.15; or 1.3 times the excess of what the columns that replay vouches for reach `together`; never more than
    `ABSOLUTE_CAP`.  A feature is above it when it is so by two standard errors.  With `slow` (features fixed long before
    the request, which cannot hold its click) those alone are the others.
    """
    with_days = np.isfinite(candidate.auc).any(axis=1)
    excess, error = np.zeros(len(candidate.features)), np.zeros(len(candidate.features))
    if not with_days.any():
        return []
    excess[with_days] = np.abs(np.nanmean(candidate.auc[with_days], axis=1) - 0.5)
    days = np.isfinite(candidate.auc[with_days]).sum(axis=1)
    error[with_days] = np.sqrt(np.nanmean(candidate.variance[with_days], axis=1) / days)
    found = []
    for i, name in enumerate(candidate.features):
        others = [e for e, other in zip(excess, candidate.features, strict=True)
                  if column_of(other) != column_of(name) and (not slow or other in slow)]  # fmt: skip
        honest = sorted(others, reverse=True)[2] if len(others) >= 3 else 0.0
        limit = min(max(2 * honest, 0.2, TOGETHER * (together - 0.5)), ABSOLUTE_CAP - 0.5)
        if excess[i] - 2 * error[i] > limit:
            found.append(
                sign("auc-cap", "auc-cap", column_of(name), float(excess[i] / limit), {
                    "feature": name, "auc": float(0.5 + excess[i]), "limit": float(0.5 + limit),
                    "third_best_other": float(0.5 + honest),
                }, candidate.days[0])
            )  # fmt: skip
    return found
