"""How long clicks take: which share of an impression's clicks has arrived by which age, and how many are long under way.

With it the clicks of the last minutes can be compared with predictions of the last minutes.  Learned from arrivals
themselves: clicks in a bucket of age over the p that was exposed to that age, so that neither growth of traffic nor a log
that begins in the middle bends it.  Held by the tier's streams.
"""

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]

SECOND = 1.0
HOUR = 3600.0
ATTRIBUTION_S = 24 * HOUR  # p is the probability of a click within a day (shared meaning 3 of the design)
# Edges of the buckets of age (seconds).  Older arrivals than the last are not looked at.
EDGES = np.array([
    0, 5, 10, 20, 40, 80, 160, 300, 600, 1200, 2400, HOUR, 2 * HOUR, 3 * HOUR, 4 * HOUR, 6 * HOUR, 9 * HOUR, 12 * HOUR,
    18 * HOUR, 24 * HOUR, 36 * HOUR, 48 * HOUR,
])  # fmt: skip
HORIZON_S = float(EDGES[-1])
# Before anything is known: half of the clicks within a minute, the rest spread over the logarithm of age (our worlds: half
# within 34 s, 80% within the hour, 98% within the day).  Worth `PRIOR_CLICKS` clicks in all.
PRIOR_CLICKS = 20.0
PRIOR = np.log1p(EDGES[1:] / 30.0) - np.log1p(EDGES[:-1] / 30.0)
PRIOR_SHARE = PRIOR / PRIOR[EDGES[1:] <= ATTRIBUTION_S].sum()
LONG, LEAST_LONG_S = 0.98, 60.0
MEMORY_DAYS = 28.0  # halves what was learned; a delivery path changes slowly, seasons of the curve do not matter


class DelayCurve:
    """Learns from arrivals; answers with shares."""

    def __init__(self) -> None:
        self._clicks = np.zeros(len(EDGES) - 1)
        self._exposed = np.zeros(len(EDGES) - 1)
        self._share = PRIOR_SHARE.copy()

    @property
    def by_bucket(self) -> F64:
        """Share of the clicks of a day that arrives in each bucket of age [buckets]; those up to 24 h add up to 1."""
        return self._share

    def by_age(self, age_s: F64) -> F64:
        """Share arrived by that age (s), any shape; linear inside buckets; 0 below age 0, constant after the last."""
        return np.interp(age_s, EDGES, np.concatenate([[0.0], np.cumsum(self._share)]))

    def learn(self, clicks: F64, exposed: F64, days: float) -> None:
        """Take in arrivals [buckets] and the p exposed to each bucket [buckets] (p times `transit`), of `days`."""
        keep = 2.0 ** (-days / MEMORY_DAYS)
        self._clicks = keep * self._clicks + clicks
        self._exposed = keep * self._exposed + exposed
        inside = EDGES[1:] <= ATTRIBUTION_S
        # The level (clicks per p) is taken out twice: rates settle on a level, the prior is added on it.
        rate = self._clicks.sum() / max(float(self._exposed @ self._share), 1e-9)
        rate = max(float(rate), 1e-6)
        share = (self._clicks + PRIOR_CLICKS * PRIOR_SHARE) / (rate * self._exposed + PRIOR_CLICKS)
        self._share = share / share[inside].sum()


class Lags:
    """From click to arrival: which take longer than nearly all did at first.  Learns from lags (s) [clicks]."""

    def __init__(self) -> None:
        self.long_s: float | None = None  # the first hours' 98th percentile, at least a minute; None while they last
        self._first: list[F64] = []
        self._counts = np.array([1.0, 50.0])  # long ones, all

    @property
    def share(self) -> float:
        """Usual share of clicks that are under way for long; 0 while that is unknown."""
        return float(self._counts[0] / self._counts[1]) if self.long_s is not None else 0.0

    def long(self, lags_s: F64) -> float:
        """How many are long; 0 while that is unknown."""
        return float((lags_s > self.long_s).sum()) if self.long_s is not None else 0.0

    def learn(self, lags_s: F64, days: float, enough: bool) -> None:
        """Take in those of `days`; `enough` ends the first hours."""
        if self.long_s is not None:
            self._counts = 2.0 ** (-days / MEMORY_DAYS) * self._counts + np.array([self.long(lags_s), len(lags_s)])
            return
        self._first.append(lags_s)
        if enough:
            every = np.concatenate(self._first)
            self.long_s = max(float(np.quantile(every, LONG)) if len(every) else 0.0, LEAST_LONG_S)
            self._counts += np.array([self.long(every), len(every)])
            self._first = []


def transit(at_us: npt.NDArray[np.int64], start_us: int, end_us: int) -> F64:
    """Which part of each bucket of age impressions at `at_us` [n] pass through in [start_us, end_us): [n, buckets], 0 to 1."""
    young = np.maximum(start_us - at_us, 0)[:, None] / 1e6
    old = np.maximum(end_us - at_us, 0)[:, None] / 1e6
    low, width = EDGES[:-1], np.diff(EDGES)
    return np.asarray(np.clip((old - low) / width, 0, 1) - np.clip((young - low) / width, 0, 1))


def bucket_counts(age_s: F64) -> F64:
    """How many of the ages (s) [n] fall into each bucket [buckets]; those beyond the last edge are left out."""
    return np.histogram(np.maximum(age_s, 0.0), EDGES)[0].astype(np.float64)
