"""The impressions of the last two days, by the window they were made in: what clicks may still be expected of them.

Holds sums, never rows: p by five minutes for the delay curve, by slice, and by user.  Called by the tier's streams.
"""

from collections import deque
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from monitoring.tiers.calibration.delay_curve import EDGES, HORIZON_S, transit

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

BIN_US = 300_000_000
FINE_US = 5_000_000  # the running window, where half of the clicks come within the minute
NEARLY_NOTHING = 1e-4  # of a cohort's clicks: not worth looking up whose


@dataclass(frozen=True, slots=True)
class Cohort:
    """One window's impressions."""

    start_us: int
    end_us: int
    at_us: I64  # centres of bins [bins]
    p: F64  # sum of p by bin [bins]
    slices: F64  # sum of p by slice [slices known then]
    users: I64  # sorted keys
    user_p: F64  # sum of p by user


class Cohorts:
    """A rolling store."""

    def __init__(self) -> None:
        self._held: deque[Cohort] = deque()

    def add(self, cohort: Cohort, now_us: int) -> None:
        """Take in a cohort, and let go of those whose clicks have all come by `now_us`."""
        self._held.append(cohort)
        while self._held and now_us - self._held[0].end_us > HORIZON_S * 1e6:
            self._held.popleft()

    def covers(self, at_us: I64) -> npt.NDArray[np.bool_]:
        """Which moments [n] lie in a cohort that is held."""
        starts = np.array([c.start_us for c in self._held], dtype=np.int64)
        ends = np.array([c.end_us for c in self._held], dtype=np.int64)
        if not len(starts):
            return np.zeros(len(at_us), dtype=bool)
        place = np.searchsorted(starts, at_us, "right") - 1
        return (place >= 0) & (at_us < ends[np.maximum(place, 0)])

    def exposed(self, start_us: int, end_us: int) -> F64:
        """p of each cohort held by the buckets of age that it passes through in [start_us, end_us): [cohorts, buckets]."""
        if not self._held:
            return np.zeros((0, len(EDGES) - 1))
        at_us = np.concatenate([c.at_us for c in self._held])
        p = np.concatenate([c.p for c in self._held])
        first = np.cumsum([0, *(len(c.p) for c in self._held)])[:-1]
        return np.asarray(np.add.reduceat(p[:, None] * transit(at_us, start_us, end_us), first, axis=0))

    def slices(self, share: F64, streams: int) -> F64:
        """Sum over cohorts of `share` [cohorts] times p by slice: [streams]."""
        total = np.zeros(streams)
        for part, cohort in zip(share.tolist(), self._held, strict=True):
            total[: len(cohort.slices)] += part * cohort.slices
        return total

    def users(self, share: F64, wanted: I64) -> F64:
        """Sum over cohorts of `share` [cohorts] times p of the `wanted` users: [wanted]."""
        total = np.zeros(len(wanted))
        for part, cohort in zip(share.tolist(), self._held, strict=True):
            if part > NEARLY_NOTHING:
                total += part * at(cohort.users, cohort.user_p, wanted)
        return total

    @property
    def p(self) -> F64:
        """Sum of p by cohort [cohorts]."""
        return np.array([c.p.sum() for c in self._held])


def binned(at_us: I64, p: F64, start_us: int, end_us: int, width_us: int) -> tuple[I64, F64]:
    """Centres and sums of p of bins of time in [start_us, end_us)."""
    bins = max(1, -(-(end_us - start_us) // width_us))
    place = np.clip((at_us - start_us) // width_us, 0, bins - 1)
    return start_us + np.arange(bins, dtype=np.int64) * width_us + width_us // 2, np.bincount(
        place, p, minlength=int(bins)
    ).astype(np.float64)


def by_key(key: I64, p: F64) -> tuple[I64, F64]:
    """Keys, sorted, and the sum of p of each."""
    if not len(key):
        return np.empty(0, np.int64), np.empty(0)
    order = np.argsort(key, kind="stable")
    ordered = key[order]
    first = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    return ordered[first], np.add.reduceat(p[order], first)


def at(keys: I64, values: F64, wanted: I64) -> F64:
    """`values` of the `wanted` keys, 0 where there is none; `keys` are sorted."""
    if not len(keys):
        return np.zeros(len(wanted))
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, values[place], 0.0)
