"""Counters of a numeric column: bins with fine tails, nulls, zeros, the mode, the mean log, distinct values and coarse grids.

Cuts are learned once, from the first days.  The prediction is such a column too, on the logit scale.
"""

import numpy as np
import numpy.typing as npt

from monitoring.tiers.distribution.parts import Form, Part, lasts
from monitoring.tiers.distribution.rows import F64, I64, Array, Bool, Groups, Rows

QUANTILES = (0.001, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999)
# Beyond the reference's extremes by this much on the log scale, or by this part of the range that it spans there: another unit.
FAR_LOG, FAR_RANGE = 1.0, 0.35
MOST_DISTINCT = 20_000  # owners looked at for distinct values, in order of time
SAME = 8.0  # steps of the precision at usual values: years of growth
MODE = 0.02  # a value is a mode when it has this share of the known rows
GRIDS = (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0)  # roundings that are looked for, finest first
NATURAL = 0.10  # a grid is watched where fewer values than this lie on it by themselves
HALF = np.int32(0x1FFF)  # mantissa bits that a float32 loses in half precision


def signed_log(values: Array) -> Array:
    """sign(x) log(1 + |x|)."""
    return np.copysign(np.log1p(np.abs(values)), values)


def on_grid(values: Array, step: float) -> Bool:
    """Whether values are multiples of `step`, up to single precision."""
    scaled = np.asarray(values, dtype=np.float64) / step
    return np.abs(scaled - np.rint(scaled)) <= 1e-6 * np.maximum(np.abs(scaled), 1.0)


def in_half_precision(values: Array) -> Bool:
    """Whether values have no more mantissa than a float16."""
    return (np.asarray(values, dtype=np.float32).view(np.int32) & HALF) == 0


class NumberCounter:
    """Counts of one column."""

    def __init__(self, subject: str, column: str, family: str, owner: str, cluster_by: str, sample: Rows) -> None:
        """`owner` is the key that the column has one value for ("" none), `cluster_by` whose rows move together ("" none)."""
        self.subject, self.column, self.family, self.owner, self.cluster_by = subject, column, family, owner, cluster_by
        values = self._values(sample)
        known = values[~np.isnan(values)].astype(np.float64)
        self.mode = float("nan")
        if len(known):
            distinct, counts = np.unique(known[known != 0], return_counts=True)
            if len(counts) and counts.max() > MODE * len(known):
                self.mode = float(distinct[np.argmax(counts)])
        self.edges = _edges(known)
        self.edges32 = self.edges.astype(np.float32)
        # What a column of users and requests holds also depends on which ads they are shown.
        self.mixed = bool(np.isfinite(lasts(cluster_by))) and sample.has_many_others("item")
        # Values nearer to each other than this are the same.  An age of 64 days has half the decimals of one of 63 in single
        # precision, and so twice the repeats.
        usual = np.quantile(np.abs(known), 0.9) if len(known) else 0.0
        self.step = SAME * float(np.spacing(values.dtype.type(max(usual, 1e-30))))
        own = self._distinct_values(sample)
        self.grid = next((g for g in GRIDS if len(own) and on_grid(own, g).mean() < NATURAL), 0.0)
        self.casts = bool(len(own)) and float(in_half_precision(own).mean()) < NATURAL
        continuous = len(own) > 20 and len(np.unique(self._same(own))) > 0.5 * len(own)
        self.continuous = continuous

        def part(kind: str, label: str, form: Form = "share", up_only: bool = False) -> Part:
            hours = lasts(owner if kind in ("distinct", "top", "grid", "cast") else cluster_by)
            return Part(subject, kind, label, form, family, up_only, hours)

        names = [f"{edge:.4g}" for edge in self.edges.tolist()]
        spans = [f"{low} to {high}" for low, high in zip(["-inf", *names], [*names, "inf"], strict=True)]
        self.parts = [part("bin", span) for span in spans]
        self.parts += [part("null", "nulls"), part("null", "nulls", "rare", True), part("zero", "zeros")]
        self.parts += [part("zero", "zeros", "rare", True), part("mode", f"value {self.mode:.6g}")]
        self.parts += [part("far-low", f"below {names[0]}" if names else "", "rare", True)]
        self.parts += [part("far-high", f"above {names[-1]}" if names else "", "rare", True), part("mean", "mean log", "mean")]
        self.parts += [part("distinct", "repeated values"), part("top", "commonest value")]
        self.parts += [part("grid", f"multiples of {self.grid:g}"), part("cast", "half precision")]

    def _values(self, rows: Rows) -> Array:
        values = rows.number(self.column)
        if self.subject != "prediction":
            return values
        inside = np.clip(values, 1e-9, 1 - 1e-9)
        return np.log(inside) - np.log1p(-inside)

    def _same(self, values: Array) -> F64:
        """Whole numbers that are equal where values are the same."""
        return np.rint(np.asarray(values, dtype=np.float64) / self.step)

    def _distinct_values(self, rows: Rows) -> Array:
        """One value an owner, and where there is none one of equal ones a request, without nulls, zeros and the mode."""
        values = rows.number(self.column)
        values = rows.groups(self.owner).first(values) if self.owner else values
        values = values[:MOST_DISTINCT]
        if not self.owner and "request" in rows.names:  # two ads of a campaign on a page are of an age
            values = values[_first_of_equal(values, rows.groups("request").owner[: len(values)])]
        return values[~np.isnan(values) & (values != 0) & ((values != self.mode) | (self.subject == "prediction"))]

    def count(self, rows: Rows) -> F64:
        """(k, n, q, deff) [parts, 4]."""
        values = self._values(rows)
        total = float(rows.rows)
        missing = np.isnan(values)
        nulls = float(np.count_nonzero(missing))
        known = total - nulls
        groups: Groups | None = rows.groups(self.cluster_by) if self.cluster_by else None
        deff = groups.cluster if groups else 1.0
        bins = len(self.edges) + 1
        place = np.searchsorted(self.edges32 if values.dtype == np.float32 else self.edges, values, side="right")
        counts = np.bincount(place, minlength=bins).astype(np.float64)
        counts[-1] -= nulls
        crowd = rows.crowded(np.where(missing, -1, place), bins, "item") if self.mixed else np.zeros(rows.rows, dtype=bool)
        counted = ~missing & ~crowd
        out = np.zeros((len(self.parts), 4))
        out[:, 1], out[:, 3] = known, deff
        voting = np.where(counted, place, -1)
        voters = groups.voters(voting, bins) if groups else np.bincount(voting + 1, minlength=bins + 1)[1:].astype(np.float64)
        out[:bins, 0], out[:bins, 1], out[:bins, 3] = voters, voters.sum(), 1.0
        zero = (values == 0) & ~crowd
        zeros = float(np.count_nonzero(zero))
        at = bins
        things = rows.things(np.flatnonzero(missing), self.cluster_by) if nulls else 0.0
        out[at] = nulls, total, 0.0, max(deff, nulls / things if things else 0.0)
        # Owners' worth of all owners' worth: of rows, it would change with how many rows each has.
        worth = groups.worth if groups else total
        out[at + 1, :2] = things, worth
        out[at + 2, :2] = zeros, np.count_nonzero(counted)
        out[at + 3, :2] = _rare(zero, zeros, groups), worth
        out[at + 4, 0] = float(np.count_nonzero(values == self.mode))
        if len(self.edges) > 1:
            out[at + 5, 0] = _rare(place == 0, counts[0], groups)
            out[at + 6, 0] = _rare((place == bins - 1) & ~missing, counts[-1], groups)
        logs = (values if self.subject == "prediction" else signed_log(values))[counted].astype(np.float64)
        means = groups.means(logs, counted) if groups else logs
        out[at + 7] = means.sum(), len(means), np.square(means).sum(), 1.0
        own = self._distinct_values(rows)
        out[at + 8 :, 1], out[at + 8 :, 3] = len(own), 1.0
        if len(own):
            _, repeats = np.unique(self._same(own), return_counts=True)
            if self.continuous:
                out[at + 8, 0], out[at + 9, 0] = len(own) - len(repeats), repeats.max() - 1
            if self.grid:
                out[at + 10, 0] = np.count_nonzero(on_grid(own, self.grid))
            if self.casts:
                out[at + 11, 0] = np.count_nonzero(in_half_precision(own))
        return out


def _first_of_equal(values: Array, owner: npt.NDArray[np.int32]) -> I64:
    """Indexes of the first of each owner's equal values, in order."""
    order = np.lexsort((values, owner))
    again = (np.diff(owner[order]) == 0) & (np.diff(values[order]) == 0)
    return np.sort(order[np.append(True, ~again)[: len(order)]])


def _rare(hit: Bool, hits: float, groups: Groups | None) -> float:
    """How many owners' worth of rows are hit."""
    if not hits or groups is None:
        return hits
    return groups.independent(np.flatnonzero(hit))


def _edges(known: F64) -> F64:
    """Interior edges: quantiles, and one beyond each end."""
    if not len(known):
        return np.zeros(0)
    # method "higher" gives values that occur, so that a column of few values is cut between them.
    inner = np.unique(np.quantile(known, QUANTILES, method="higher"))
    low, high = float(known.min()), float(known.max())
    logs = signed_log(np.array([low, high]))
    step = max(FAR_LOG, FAR_RANGE * float(logs[1] - logs[0]))
    if low > 0:  # a positive column's logs are real ones: log1p would hide a small value's unit
        below = low * np.exp(-max(FAR_LOG, FAR_RANGE * np.log(high / low)))
    else:
        below = np.expm1(np.abs(logs[0] - step)) * np.sign(logs[0] - step)
    above = np.expm1(np.abs(logs[1] + step)) * np.sign(logs[1] + step)
    if low > 0:
        above = max(above, high * np.exp(max(FAR_LOG, FAR_RANGE * np.log(high / low))))
    return np.unique(np.concatenate([[below], inner, [above]]))
