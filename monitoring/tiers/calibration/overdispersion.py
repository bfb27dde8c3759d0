"""How much a ratio of clicks to expected clicks moves by itself, beyond the luck of independent clicks.

Users, ads and weather make days differ.  The variance of an hour's own deviation and of a day's is estimated from pairs of
hours: products of deviations of different hours hold no sampling luck, so their mean is the common (day's) variance without
bias, however few the clicks.  Shrunk by precision towards a prior, because a handful of days says little.  Called by the
tier's streams, for all of a kind at once.
"""

from collections import deque

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]

LAGS = 12  # windows apart that still belong to one day's weather
CAUTION = 1.5
# Windows wait before they teach how much days differ: a shift that is not found yet would teach that they differ that much.
WAIT_DAYS, WAIT_SHARE = 7.0, 0.35
SAME_DAY = 1 - (LAGS + 1) / 2 / 24  # of pairs of hours so far apart at most, those of one day
MEMORY_DAYS = 28.0


class Spread:
    """Variances of `streams` log ratios: of a day's deviation, and of an hour's on top of it."""

    def __init__(self, streams: int = 0) -> None:
        self._past: list[tuple[F64, F64]] = []  # deviation and weight of the last windows
        self._own = np.zeros((2, streams))  # sums of products at lag 0: surplus, weight
        self._shared = np.zeros((2, streams))  # at lags 1 .. LAGS
        self._waiting: deque[tuple[F64, F64, F64, float]] = deque()
        self._told = self._waited = 0.0  # days, until now and of what was taken in
        self.days = 0.0

    def grow(self, streams: int) -> None:
        """Make room for more streams."""
        more = streams - self._own.shape[1]
        if more > 0:
            self._own = np.pad(self._own, ((0, 0), (0, more)))
            self._shared = np.pad(self._shared, ((0, 0), (0, more)))

    def learn(self, deviation: F64, luck: F64, weight: F64, days: float) -> None:
        """Take in a window: seen minus expected [streams], its variance by luck alone, and d expected / d log ratio."""
        self._waiting.append((deviation, luck, weight, days))
        self._told += days
        while self._waiting and self._told - self._waited > min(WAIT_DAYS, WAIT_SHARE * self._told):
            self._take(*self._waiting.popleft())

    def _take(self, deviation: F64, luck: F64, weight: F64, days: float) -> None:
        self._waited += days
        keep = 2.0 ** (-days / MEMORY_DAYS)
        self.days = keep * self.days + days
        self._own *= keep
        self._shared *= keep
        n = len(deviation)  # of those days; there may be more streams now
        self._own[:, :n] += np.stack([np.square(deviation) - luck, np.square(weight)])
        for before, weight_before in self._past:
            n = len(before)
            self._shared[0, :n] += deviation[:n] * before
            self._shared[1, :n] += weight[:n] * weight_before
        self._past = [*self._past[-(LAGS - 1) :], (deviation, weight)]

    def sums(self) -> tuple[F64, F64, F64, F64]:
        """(sum of products of different hours, their weight, surplus of own squares, their weight), each [streams]."""
        return self._shared[0], self._shared[1], self._own[0], self._own[1]


def shrunk(products: F64, weight: F64, days: float, prior: F64 | float, prior_days: float, shared: float = SAME_DAY) -> F64:
    """A day's variance [streams] from `products` over `weight`, shrunk towards `prior` as if that came from `prior_days`.

    `shared` is the part of the products whose two hours have the day's deviation in common.
    An estimate from `days` days has variance 2 v^2 / days from the days' luck and 1 / weight from the clicks'.
    """
    products = products / shared
    prior = np.broadcast_to(np.asarray(prior, dtype=np.float64), products.shape)
    known = weight > 0
    # A variance of few days is as likely too small as too large, and too small is what raises false alarms.
    prior = prior * (1 + CAUTION / max(days, 1.0))
    estimate = np.where(known, products / np.where(known, weight, 1.0), prior)
    doubt = 2 * np.square(prior) / max(days, 1e-9) + np.where(known, 1 / np.where(known, weight, 1.0), np.inf)
    prior_doubt = 2 * np.square(prior) / prior_days
    trust = prior_doubt / (prior_doubt + doubt)
    return np.maximum(prior + trust * (estimate - prior), prior / 20)
