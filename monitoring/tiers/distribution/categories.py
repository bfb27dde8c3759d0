"""Counters of a categorical column: shares of the commonest values, nulls, values never seen; and of entities: how many rows
belong to ones that are new, and to ones that are busier than anybody was.
"""

import numpy as np
import numpy.typing as npt

from infra.clock import DAY_US
from monitoring.tiers.distribution.parts import Part, lasts
from monitoring.tiers.distribution.rows import F64, I64, Array, Rows, kish

TOP = 24  # values with a share of their own; the rest are summed
BUSY = 2.0  # an owner counts as heavy with more rows an hour than this times the busiest of the reference's 99.9%


class CategoryCounter:
    """Counts of one column whose values are a mix: shares matter."""

    def __init__(self, subject: str, column: str, family: str, cluster_by: str, sample: Rows) -> None:
        self.subject, self.column, self.family, self.cluster_by = subject, column, family, cluster_by
        codes, values = sample.codes(column)
        counts = np.bincount(codes[codes >= 0], minlength=len(values))
        seen = values[counts > 0]
        self.known = np.sort(seen)
        top = values[np.argsort(-counts, kind="stable")[:TOP]]
        self.top = np.sort(top[np.isin(top, seen)])
        names = [f"value {value}" for value in self.top.tolist()]
        hours = lasts(cluster_by)
        self.parts = [Part(subject, "category", name, "share", family, False, hours) for name in names]
        self.parts += [
            Part(subject, "category", "other values", "share", family, False, hours),
            Part(subject, "null", "nulls", "share", family, False, hours),
            Part(subject, "null", "nulls", "rare", family, True, hours),
            Part(subject, "new", "values never seen", "rare", family, True, hours),
        ]

    def count(self, rows: Rows) -> F64:
        """(k, n, q, deff) [parts, 4]."""
        codes, values = rows.codes(self.column)
        groups = rows.groups(self.cluster_by) if self.cluster_by else None
        counts = np.bincount(codes + 1, minlength=len(values) + 1).astype(np.float64)
        nulls, counts = counts[0], counts[1:]
        out = np.zeros((len(self.parts), 4))
        out[:, 1], out[:, 3] = rows.rows - nulls, groups.cluster if groups else 1.0
        place = _find(self.top, values)
        place[place < 0] = len(self.top)
        at = len(self.top) + 1
        if groups is None:
            out[:at, 0] = np.bincount(place, counts, at)
        else:
            out[:at, 0] = voters = groups.voters(np.append(place, -1)[codes], at)
            out[:at, 1], out[:at, 3] = voters.sum(), 1.0
        out[at : at + 2, 1] = rows.rows
        things = rows.things(np.flatnonzero(codes < 0), self.cluster_by) if nulls else 0.0
        out[at, 0], out[at + 1, 0] = nulls, things
        out[at, 3] = max(out[at, 3], nulls / things if things else 0.0)
        new = _find(self.known, values) < 0
        out[at + 2, 0] = counts[new].sum()
        if out[at + 2, 0]:
            out[at + 2, 0] = rows.things(np.flatnonzero((codes >= 0) & new[codes]), self.cluster_by)
        return out

    def learn(self, rows: Rows) -> None:
        """Values seen become known."""
        codes, values = rows.codes(self.column)
        self.known = np.union1d(self.known, values[np.unique(codes[codes >= 0])])


class EntityCounter:
    """Counts of one column whose values turn over: new ones come all the time, and how many is what matters."""

    def __init__(self, subject: str, column: str, family: str, cluster_by: str, sample: Rows) -> None:
        self.subject, self.column, self.family, self.cluster_by = subject, column, family, cluster_by
        self.known: Array = np.zeros(0, dtype=sample.codes(column)[1].dtype)
        self.since: I64 = np.zeros(0, dtype=np.int64)  # when each was seen first
        self.began: int | None = None
        self.busy = np.inf
        self.parts = [
            Part(subject, "novel", "rows of those first seen within a day", "share", family, True, lasts(column)),
            Part(subject, "novel", "those first seen within a day", "rare", family, True, lasts(column)),
            Part(subject, "heavy", "those busier than anybody before", "rare", family, True, lasts(column)),
            Part(subject, "null", "nulls", "rare", family, True, lasts(cluster_by)),
        ]

    def count(self, rows: Rows, start_us: int) -> F64:
        """(k, n, q, deff) [parts, 4]."""
        codes, values = rows.codes(self.column)
        counts = np.bincount(codes + 1, minlength=len(values) + 1).astype(np.float64)
        nulls, counts = counts[0], counts[1:]
        known = float(counts.sum())
        deff = float(np.square(counts).sum()) / max(known, 1.0)
        place = _find(self.known, values)
        young = place < 0
        young[~young] = self.since[place[~young]] > start_us - DAY_US
        # Everybody is new to a log that begins.
        able = self.began is not None and start_us >= self.began + 2 * DAY_US
        new = counts[young]
        worth = kish(new)
        heavy = float(np.count_nonzero(counts > self.busy))
        if nulls:
            nulls = rows.things(np.flatnonzero(codes < 0), self.cluster_by)
        return np.array([
            (new.sum() * able, known * able, 0.0, max(deff, 1.0)), (worth * able, known * able, 0.0, 1.0),
            (heavy, known * np.isfinite(self.busy), 0.0, 1.0),
            (nulls, rows.rows, 0.0, 1.0),
        ])  # fmt: skip

    def meet(self, rows: Rows, start_us: int) -> None:
        """Values seen become known from now on."""
        codes, values = rows.codes(self.column)
        counts = np.bincount(codes[codes >= 0], minlength=len(values))
        if self.began is None:
            self.began = start_us
        if start_us < self.began + 2 * DAY_US and counts.any():
            usual = float(np.quantile(counts[counts > 0], 0.999)) * BUSY + 8
            self.busy = usual if not np.isfinite(self.busy) else max(self.busy, usual)
        new = values[(counts > 0) & (_find(self.known, values) < 0)]
        if len(new):
            every = np.concatenate([self.known, new])
            order = np.argsort(every, kind="stable")
            self.known = every[order]
            self.since = np.concatenate([self.since, np.full(len(new), start_us)])[order]


def _find(known: Array, values: Array) -> npt.NDArray[np.int64]:
    """Index of each value in sorted `known`; -1 where it is not there."""
    if not len(known) or not len(values):
        return np.full(len(values), -1)
    place = np.minimum(np.searchsorted(known, values), len(known) - 1)
    return np.where(known[place] == values, place, -1)
