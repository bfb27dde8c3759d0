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

USER_GROUPS = 20
NEW_AD_DAYS = 3.0
BY_DAY = "day-clustered jackknife, Student t with days - 1 degrees of freedom, never narrower than by user"
BY_USER = "user-clustered jackknife (20 groups): fewer than two days, so day-to-day variance is not included"
METRICS = ("ne", "log_loss", "calibration", "ece", "auc", "user_auc", "signal_captured")
SLICE_METRICS = ("ne", "log_loss", "calibration", "auc", "signal_captured")
BOUNDS = {name: (0.0, np.inf if name in ("ne", "log_loss", "calibration") else 1.0) for name in METRICS}
BOUNDS["signal_captured"] = (-np.inf, 1.0)


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
    out = rows.report(METRICS, confidence)
    out["slices"] = {
        name: {str(value): rows.only(values == value).report(SLICE_METRICS, confidence) for value in np.unique(values)}
        for name, values in (slices or {}).items()
    }
    return out


def compare(p: Array, baseline: Array, data: Dataset, *, confidence: float = 0.90) -> dict[str, Any]:
    """NE of `p` minus NE of `baseline` on the same rows: below zero `p` is better.

    In units of NE: 0.001 is 0.1% of the entropy of the click rate.  Paired, so the luck of the clicks that both share drops
    out.  The default 90% interval leaves 5% on either side: its upper end is the bound of a one-sided test at 5%, which is
    what gates ask for. Returns {"ne_difference": {"value", "low", "high"}, "n", "days", "method", "confidence"}.
    """
    label = data.label.astype(np.float64)
    difference = metrics.log_losses(p, label) - metrics.log_losses(baseline, label)
    sums = np.stack([np.ones(len(data)), label, difference], axis=1)

    def statistic(total: F64) -> float:
        return _over(total[2], total[0] * metrics.entropy(total[1] / total[0])) if total[0] else float("nan")

    days, users = day_groups(data.time_us), user_groups(data)
    return {
        "ne_difference": interval(*_sum_jackknives(statistic, sums, days, users), confidence),
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
    value: float, by_day: F64, by_user: F64, confidence: float, lowest: float = -np.inf, highest: float = np.inf
) -> dict[str, float | None]:
    """{"value", "low", "high"} from a statistic and its values with one day, and one group of users, left out at a time.

    See the top of this file for the method.  "low" and "high" are None where neither jackknife has two values, all of them None
    where the statistic itself is NaN."""
    from scipy.stats import t as student

    if not np.isfinite(value):
        return {"value": None, "low": None, "high": None}
    halves = []
    for left_out in (by_day, by_user):
        usable = left_out[np.isfinite(left_out)]
        if (n := len(usable)) > 1:
            error = np.sqrt((n - 1) / n * np.sum((usable - usable.mean()) ** 2))
            halves.append(float(student.ppf(0.5 + confidence / 2, n - 1) * error))
    if not halves:
        return {"value": value, "low": None, "high": None}
    return {"value": value, "low": max(value - max(halves), lowest), "high": min(value + max(halves), highest)}


def rate_interval(label: Array, days: Array, users: Array, confidence: float = 0.95) -> dict[str, float | None]:
    """The click rate of some rows with its interval."""
    sums = np.stack([np.ones(len(label)), np.asarray(label, np.float64)], axis=1)
    return interval(*_sum_jackknives(lambda total: _over(total[1], total[0]), sums, days, users), confidence, 0.0, 1.0)


def day_groups(time_us: Array) -> npt.NDArray[np.int64]:
    """The UTC day of each row, counted from the epoch."""
    return time_us // DAY_US


def user_groups(data: Dataset) -> npt.NDArray[np.int64]:
    """A stable group 0 .. 19 of each row's user; rows without a user are spread by their own id."""
    ids = np.where(data.group >= 0, data.group, data.row_id)
    return (mix(ids, 7) % np.uint64(USER_GROUPS)).astype(np.int64)


def _method(days: Array) -> str:
    return BY_DAY if len(np.unique(days)) > 1 else BY_USER


def _over(numerator: float, denominator: float) -> float:
    return float(numerator / denominator) if denominator > 0 else float("nan")


def _sum_jackknives(function: Callable[[F64], float], sums: F64, days: Array, users: Array) -> tuple[float, F64, F64]:
    """A function of column sums: its value, and its values without each day and without each group of users."""
    total = sums.sum(axis=0)
    left_out = []
    for groups in (days, users):
        _, index = np.unique(groups, return_inverse=True)
        count = int(index.max(initial=-1)) + 1
        parts = np.stack([np.bincount(index, column, minlength=count) for column in sums.T], axis=1)
        left_out.append(np.array([function(total - part) for part in parts]) if count > 1 else np.zeros(0))
    return function(total), left_out[0], left_out[1]


def _rank_jackknives(function: Callable[[Mask], float], days: Array, users: Array) -> tuple[float, F64, F64]:
    """The same for a function of a mask over the rows, for what isn't made of sums."""
    left_out = []
    for groups in (days, users):
        present = np.unique(groups)
        left_out.append(np.array([function(groups != group) for group in present]) if len(present) > 1 else np.zeros(0))
    return function(np.ones(len(days), np.bool_)), left_out[0], left_out[1]


class _Rows:
    """Rows in ascending order of p: a part of sorted rows is sorted, so no metric has to sort again."""

    def __init__(self, p: F64, data: Dataset, p_true: F64 | None) -> None:
        if len(p) != len(data) or (p_true is not None and len(p_true) != len(data)):
            raise ValueError(f"{len(data)} rows need as many probabilities, got {len(p)}")
        if not np.isfinite(p).all():
            first = int(np.flatnonzero(~np.isfinite(p))[0])
            raise ValueError(f"probability of row {first} (impression {data.row_id[first]}) is {p[first]}: nothing to evaluate")
        order = np.argsort(p, kind="stable")
        truth = np.full(len(p), np.nan) if p_true is None else p_true
        self.p, self.label, self.truth = p[order], data.label[order].astype(np.float64), truth[order]
        self.user, self.days, self.users = data.group[order], day_groups(data.time_us)[order], user_groups(data)[order]
        self.rank = np.empty(len(p), np.int64)
        self.rank[order] = np.arange(len(p))

    def only(self, mask: Mask) -> "_Rows":
        """The rows of a mask in the order of the data given."""
        kept = np.sort(self.rank[mask])
        part = object.__new__(_Rows)
        for name in ("p", "label", "truth", "user", "days", "users"):
            setattr(part, name, getattr(self, name)[kept])
        return part

    def report(self, names: tuple[str, ...], confidence: float) -> dict[str, Any]:
        """Metrics `names` with intervals."""
        out: dict[str, Any] = {
            "n": len(self.p),
            "clicks": int(self.label.sum()),
            "days": len(np.unique(self.days)),
            "method": _method(self.days),
            "confidence": confidence,
        }
        by_sums = self._by_sums()
        by_user = np.argsort(self.user, kind="stable") if "user_auc" in names else np.zeros(0, np.int64)

        def user_auc(rows: Mask) -> float:
            kept = by_user[rows[by_user]]
            return metrics.user_auc_sorted(self.p[kept], self.label[kept], self.user[kept])

        by_rank: dict[str, Callable[[Mask], float]] = {
            "ece": lambda rows: metrics.ece_sorted(self.p[rows], self.label[rows]),
            "auc": lambda rows: metrics.auc_sorted(self.p[rows], self.label[rows]),
            "user_auc": user_auc,
        }
        for name in names:
            jackknives = by_sums[name] if name in by_sums else _rank_jackknives(by_rank[name], self.days, self.users)
            out[name] = interval(*jackknives, confidence, *BOUNDS[name])
        return out

    def _by_sums(self) -> dict[str, tuple[float, F64, F64]]:
        """Metrics that are functions of sums over rows, for all of which one pass is enough."""
        losses = metrics.log_losses(self.p, self.label)
        expected, floor = metrics.log_losses(self.p, self.truth), metrics.log_losses(self.truth, self.truth)
        sums = np.stack([np.ones(len(self.p)), self.label, self.p, losses, self.truth, expected, floor], axis=1)

        def ne(total: F64) -> float:
            return _over(total[3], total[0] * metrics.entropy(total[1] / total[0])) if total[0] else float("nan")

        def signal(total: F64) -> float:
            if not total[0] or not np.isfinite(total[4]):
                return float("nan")
            most = total[0] * metrics.entropy(total[4] / total[0]) - total[6]
            return 1.0 - (total[5] - total[6]) / most if most > metrics.TINY * total[0] else float("nan")

        functions: dict[str, Callable[[F64], float]] = {
            "ne": ne,
            "log_loss": lambda total: _over(total[3], total[0]),
            "calibration": lambda total: _over(total[1], total[2]),
            "signal_captured": signal,
        }
        return {name: _sum_jackknives(function, sums, self.days, self.users) for name, function in functions.items()}
