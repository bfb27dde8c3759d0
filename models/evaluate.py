"""Metrics with intervals that include how much days differ, overall and by slice; and the paired difference of two models.

Called by training, gates, the gauntlet and reports.  Pure: arrays in, JSON-able dictionaries out.

The intervals are delete-a-group jackknives (Efron and Stein 1981) with Student quantiles, the same for every metric, ratios
and ranks included.  Groups are whole days, so whatever moves a day's clicks together (weather, news, an outage) counts as
one piece of luck and not as thousands; with D days the quantile has D - 1 degrees of freedom, which makes two days honest
and wide.  A second jackknife leaves out twentieths of the users; the wider of the two intervals is used, since few days can
look alike by chance.  With fewer than two days only the users' is left, and `method` says so.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from features.ids import mix
from infra.clock import DAY_US
from models import metrics
from models.contract import Array, Dataset

F64 = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Statistic = Callable[[Mask], float]

USER_GROUPS = 20
NEW_AD_DAYS = 3.0
BY_DAY = "day-clustered jackknife, Student t with days - 1 degrees of freedom, never narrower than by user"
BY_USER = "user-clustered jackknife (20 groups): fewer than two days, so day-to-day variance is not included"
METRICS = ("ne", "log_loss", "calibration", "ece", "auc", "user_auc", "signal_captured")


def report(
    p: Array,
    data: Dataset,
    *,
    p_true: Array | None = None,
    slices: Mapping[str, Array] | None = None,
    confidence: float = 0.95,
) -> dict[str, Any]:
    """How good probabilities `p` [n] are for the rows of `data`, as JSON-able numbers.

    `p_true` [n] are the true click probabilities at the slots shown, where a source has them.  `slices` maps a name to a
    value a row (`slices_of(data)` gives the usual ones).  The result has "n", "clicks", "days", "method", "confidence", for
    every name in METRICS a {"value", "low", "high"} (None where the data can't say), and "slices": {name: {value: the same
    without slices}}.
    """
    rows = _Rows(np.asarray(p, np.float64), data, None if p_true is None else np.asarray(p_true, np.float64))
    out = rows.report(np.ones(len(data), np.bool_), METRICS, confidence)
    out["slices"] = {
        name: {
            str(value): rows.report(values == value, ("ne", "log_loss", "calibration", "auc", "signal_captured"), confidence)
            for value in np.unique(values)
        }
        for name, values in (slices or {}).items()
    }
    return out


def compare(p: Array, baseline: Array, data: Dataset, *, confidence: float = 0.90) -> dict[str, Any]:
    """NE of `p` minus NE of `baseline` on the same rows: below zero `p` is better.

    In units of NE: 0.001 is 0.1% of the entropy of the click rate.  Paired, so the luck of the clicks that both share drops
    out.  The default 90% interval leaves 5% on either side: its upper end is the bound of a one-sided test at 5%, which is
    what gates ask for. Returns {"ne_difference": {"value", "low", "high"}, "n", "days", "method", "confidence"}.
    """
    difference = metrics.log_losses(p, data.label) - metrics.log_losses(baseline, data.label)
    label = data.label.astype(np.float64)

    def statistic(rows: Mask) -> float:
        background = metrics.entropy(float(label[rows].mean())) if rows.any() else float("nan")
        return float(difference[rows].mean()) / background if background > 0 else float("nan")

    days, users = day_groups(data.time_us), user_groups(data)
    return {
        "ne_difference": interval(statistic, np.ones(len(data), np.bool_), days, users, confidence),
        "n": len(data),
        "days": len(np.unique(days)),
        "method": _method(days),
        "confidence": confidence,
    }


def slices_of(data: Dataset) -> dict[str, Array]:
    """The slices everybody looks at, as far as `data` has the columns: device, placement, category, new ads, slot."""
    names = {"device": "device", "placement": "placement", "ad_category": "category"}
    out: dict[str, Array] = {short: data.columns[name].astype(np.str_) for name, short in names.items() if name in data.columns}
    if "ad_age_days" in data.columns:
        age = data.columns["ad_age_days"]
        out["ad"] = np.where(np.isfinite(age) & (age > NEW_AD_DAYS), "known", "new")
    out["slot"] = data.slot.astype(np.str_)
    return out


def interval(
    statistic: Statistic,
    rows: Mask,
    days: Array,
    users: Array,
    confidence: float,
    lowest: float = -np.inf,
    highest: float = np.inf,
) -> dict[str, float | None]:
    """{"value", "low", "high"} of `statistic` on the rows of a mask; see the top of this file for the method.

    `days` and `users` give each row's group.  "low" and "high" are None where a jackknife has fewer than two groups, all of
    them None where the statistic itself is NaN."""
    from scipy.stats import t as student

    value = statistic(rows)
    if not np.isfinite(value):
        return {"value": None, "low": None, "high": None}
    by_day, by_user = _jackknife(statistic, rows, days), _jackknife(statistic, rows, users)
    halves = [float(student.ppf(0.5 + confidence / 2, found[1])) * found[0] for found in (by_day, by_user) if found is not None]
    if not halves:
        return {"value": value, "low": None, "high": None}
    half = max(halves)
    return {"value": value, "low": max(value - half, lowest), "high": min(value + half, highest)}


def day_groups(time_us: Array) -> npt.NDArray[np.int64]:
    """The UTC day of each row, counted from the epoch."""
    return time_us // DAY_US


def user_groups(data: Dataset) -> npt.NDArray[np.int64]:
    """A stable group 0 .. 19 of each row's user; rows without a user are spread by their own id."""
    ids = np.where(data.group >= 0, data.group, data.row_id)
    return (mix(ids, 7) % np.uint64(USER_GROUPS)).astype(np.int64)


def _jackknife(statistic: Statistic, rows: Mask, groups: Array) -> tuple[float, int] | None:
    """Standard error by leaving out one group at a time, and its degrees of freedom; None with fewer than two usable groups."""
    present = np.unique(groups[rows])
    left_out = [statistic(rows & (groups != group)) for group in present]
    values = np.array([value for value in left_out if np.isfinite(value)])
    if len(values) < 2:
        return None
    return float(np.sqrt((len(values) - 1) / len(values) * np.sum((values - values.mean()) ** 2))), len(values) - 1


def _method(days: Array) -> str:
    return BY_DAY if len(np.unique(days)) > 1 else BY_USER


class _Rows:
    """Rows sorted once by p and once by (user, p): a part of sorted rows is sorted, so no metric has to sort again."""

    def __init__(self, p: F64, data: Dataset, p_true: F64 | None) -> None:
        if len(p) != len(data) or (p_true is not None and len(p_true) != len(data)):
            raise ValueError(f"{len(data)} rows need as many probabilities, got {len(p)}")
        if not np.isfinite(p).all():
            first = int(np.flatnonzero(~np.isfinite(p))[0])
            raise ValueError(f"probability of row {first} (impression {data.row_id[first]}) is {p[first]}: nothing to evaluate")
        self.order = np.argsort(p, kind="stable")
        self.p = p[self.order]
        self.label = data.label[self.order].astype(np.float64)
        self.user = data.group[self.order]
        self.truth = None if p_true is None else p_true[self.order]
        self.days, self.users = day_groups(data.time_us)[self.order], user_groups(data)[self.order]
        self.by_user = np.argsort(self.user, kind="stable")
        self.losses = metrics.log_losses(self.p, self.label)
        if self.truth is not None:
            self.expected = metrics.log_losses(self.p, self.truth)
            self.floor = metrics.log_losses(self.truth, self.truth)

    def statistic(self, name: str) -> Statistic:
        """The metric of that name as a function of a mask over the sorted rows."""

        def ne(rows: Mask) -> float:
            background = metrics.entropy(float(self.label[rows].mean())) if rows.any() else float("nan")
            return float(self.losses[rows].mean()) / background if background > 0 else float("nan")

        def user_auc(rows: Mask) -> float:
            kept = self.by_user[rows[self.by_user]]
            return metrics.user_auc_sorted(self.p[kept], self.label[kept], self.user[kept])

        def signal(rows: Mask) -> float:
            if self.truth is None or not rows.any():
                return float("nan")
            floor = self.floor[rows].mean()
            most = metrics.entropy(float(self.truth[rows].mean())) - floor
            return float(1.0 - (self.expected[rows].mean() - floor) / most) if most > metrics.TINY else float("nan")

        table: dict[str, Statistic] = {
            "ne": ne,
            "log_loss": lambda rows: float(self.losses[rows].mean()) if rows.any() else float("nan"),
            "calibration": lambda rows: metrics.calibration(self.p[rows], self.label[rows]),
            "ece": lambda rows: metrics.ece_sorted(self.p[rows], self.label[rows]),
            "auc": lambda rows: metrics.auc_sorted(self.p[rows], self.label[rows]),
            "user_auc": user_auc,
            "signal_captured": signal,
        }
        return table[name]

    def report(self, mask: Mask, names: tuple[str, ...], confidence: float) -> dict[str, Any]:
        """Metrics `names` with intervals over the rows of a mask (in the original order)."""
        rows = mask[self.order]
        bounds = {
            "ne": (0.0, np.inf),
            "log_loss": (0.0, np.inf),
            "calibration": (0.0, np.inf),
            "signal_captured": (-np.inf, 1.0),
        }
        out: dict[str, Any] = {
            "n": int(rows.sum()),
            "clicks": int(self.label[rows].sum()),
            "days": len(np.unique(self.days[rows])),
            "method": _method(self.days[rows]),
            "confidence": confidence,
        }
        for name in names:
            limits = bounds.get(name, (0.0, 1.0))
            out[name] = interval(self.statistic(name), rows, self.days, self.users, confidence, *limits)
        return out
