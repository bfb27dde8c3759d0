"""How surprising a window's residual is: its scale learned from earlier residuals of windows as long, its tail from two sides.

Two doubts are met by two tails, and the milder verdict counts.  A t distribution on a scale learned from replicates (shrunk
within the family: `monitoring.spread.shrink`) covers days that differ by more than luck.  A negative binomial with the same
variance covers small counts, where one hit can be many standard deviations; a binomial of as many fewer rows, large shares.
"""

import numpy as np
from scipy import special, stats

from monitoring.spread import shrink
from monitoring.tiers.distribution.forecast import Forms, rolling
from monitoring.tiers.distribution.rows import F64, I64

# Degrees of freedom of a t distribution, at most: with 20 the tails were a hundred times too light on 34 clean days of two
# worlds (least p of two million 10^-4.5), which cost a third of the power.
MOST = 40.0
BLOCKS = 6  # of the day: spreads differ between night and rush hour
PRIOR_DAYS = 3.0  # what the assumed spread is worth against replicates
WHOLE_TRUST_DAYS = 14.0
LEAST_HOURS = 12  # in which a part could be counted, before it is judged
PRIOR_LOGIT = 0.05  # a share's logit varies by this much from day to day, where nothing is known
PRIOR_MEAN = 0.05  # and a mean by this much of a single value's standard deviation


class Spread:
    """Variance factors of windows of one length: [BLOCKS, m], their degrees of freedom [m], the largest |z| seen [m]."""

    def __init__(
        self,
        hours: int,
        start: I64,
        left: F64,
        variance: F64,
        rate: F64,
        owners: F64,
        deff: F64,
        lasts: F64,
        forms: Forms,
        family: I64,
    ) -> None:
        """From hourly residuals and variances [t, m]; `rate` [m] the usual rates, `owners` [m] how many owners' hours made
        them, `deff` [m] rows that move together, `lasts` [m] hours that an owner goes on, `family` [m] numbers families.
        """
        # Never below the variance of independent rows, nor, before two weeks of days say so, below that of dependent ones.
        self.floor = np.maximum(deff, 1.0) ** -min(len(start) / 24.0 / WHOLE_TRUST_DAYS, 1.0)
        self.able = (variance > 0).sum(axis=0) >= min(LEAST_HOURS, 0.5 * len(start))
        self.hours = hours
        parts = left.shape[1]
        self.factor = np.ones((BLOCKS, parts))
        self.freedom = np.full(parts, 4.0)
        self.largest = np.zeros(parts)
        sums, spans = rolling(left, hours), rolling(variance, hours)
        usable = np.isfinite(sums) & (spans > 0)
        z2 = np.where(usable, np.square(sums / np.sqrt(np.maximum(spans, 1e-100))), 0.0)
        self.largest = np.sqrt(z2.max(axis=0)) if len(z2) else self.largest
        per_hour = np.where(variance > 0, variance, np.nan)
        with np.errstate(all="ignore"):
            typical = np.nan_to_num(np.nansum(per_hour, axis=0) / np.maximum((variance > 0).sum(axis=0), 1))
        # Between-day variance assumed beforehand, relative to a window's sampling variance.
        inner = np.where(forms.mean, 1.0, np.maximum(rate * (1 - rate), 1e-12))
        rows = typical / inner  # rows over deff, and of means times the variance of one
        prior = 1.0 + np.where(forms.mean, PRIOR_MEAN**2, PRIOR_LOGIT**2 * inner) * rows * hours
        # An owner that is new may carry a share all through a window, hour after hour.
        prior = np.where(forms.rare, 1.2, np.where(forms.mean, prior, np.maximum(prior, np.minimum(hours, lasts))))
        block = (start // 3_600_000_000 % 24) * BLOCKS // 24
        everything, counted = z2.sum(axis=0), usable.sum(axis=0)
        for b in range(BLOCKS):
            mine = block == b
            near_sum, near = z2[mine].sum(axis=0), usable[mine].sum(axis=0)
            # Windows overlap: a day is worth a handful of replicates, not 24.
            weight = near + 0.25 * counted
            mixed = (near_sum + 0.25 * everything) / np.maximum(weight, 1.0)
            # Days in which a share was carried by few owners tell little about the next owner.
            days = np.minimum(counted / 24.0, np.where(forms.mean | forms.rare, np.inf, owners / 24.0))
            self.factor[b] = (PRIOR_DAYS * prior + days * mixed) / (PRIOR_DAYS + days)
        days_seen = float(np.median(counted)) / 24.0
        replicates = 2.0 if hours < 24 else 1.5 if hours == 24 else 1.0  # a day: overlapping sums are worth 1.5 apart
        freedom = min(PRIOR_DAYS + max(days_seen, 0.0) * replicates, MOST)
        self.freedom[:] = freedom
        for f in np.unique(family):
            mine = np.flatnonzero((family == f) & ~forms.rare)
            if len(mine) < 3:
                continue
            for b in range(BLOCKS):
                shrunk, more = shrink(self.factor[b, mine], freedom, MOST)
                # Shrinking may only help columns that were lucky: a column known to be wild stays wild.
                self.factor[b, mine] = np.maximum(shrunk, self.factor[b, mine] * 0.7)
                self.freedom[mine] = max(freedom, min(more, MOST))

    def at(self, end_hour: int) -> F64:
        """Factors [m] for a window whose last hour is that hour of day."""
        return np.maximum(self.factor[end_hour * BLOCKS // 24], self.floor)


def log10_t(t: F64, freedom: F64) -> F64:
    """log10 of the one-sided tail of |t|; finite."""
    return np.asarray(np.maximum(stats.t.logsf(np.abs(t), freedom) / np.log(10.0), -300.0), dtype=np.float64)


def log10_counts(k: F64, expected: F64, inflation: F64, up: np.ndarray) -> F64:
    """log10 of the tail of counts k at or beyond what was seen, under a negative binomial of that mean and variance inflation.

    A Poisson distribution where inflation is (nearly) 1.  Exact through the incomplete beta function, which also takes
    k that are no whole numbers.
    """
    inflation = np.maximum(inflation, 1.0 + 1e-3)
    size = np.maximum(expected, 1e-12) / (inflation - 1.0)
    with np.errstate(all="ignore"):
        upper = special.betainc(np.maximum(k, 1e-9), size, 1.0 - 1.0 / inflation)
        lower = special.betainc(size, k + 1.0, 1.0 / inflation)
        tail = np.where(k <= 0, np.where(up, 1.0, lower), np.where(up, upper, lower))
        return np.asarray(np.maximum(np.log10(np.maximum(np.nan_to_num(tail, nan=1.0), 1e-300)), -300.0))


def log10_shares(k: F64, n: F64, rate: F64, inflation: F64, up: np.ndarray) -> F64:
    """log10 of the tail of k of n at or beyond what was seen, under a binomial whose `inflation` rows are worth one.

    Exact through the incomplete beta function, which also takes k and n that are no whole numbers.
    """
    inflation = np.maximum(inflation, 1.0)
    n = n / inflation
    k, rate = np.clip(k / inflation, 0.0, n), np.clip(rate, 1e-12, 1.0 - 1e-9)
    upper = special.betainc(np.maximum(k, 1e-9), n - k + 1.0, rate)
    lower = special.betainc(np.maximum(n - k, 1e-9), k + 1.0, 1.0 - rate)
    return np.asarray(np.log10(np.maximum(np.where(up, upper, lower), 1e-300)))
