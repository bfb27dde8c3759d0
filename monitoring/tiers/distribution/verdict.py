"""How surprising each part of a stretch of hours is, beside the limits of the stretch's share of the budget.

Pure.  Called by the tier.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from infra.clock import DAY_US, HOUR_US
from monitoring.tiers.distribution.census import Census
from monitoring.tiers.distribution.looks import Judged
from monitoring.tiers.distribution.rows import F64
from monitoring.tiers.distribution.surprise import Spread, log10_counts, log10_shares, log10_t
from monitoring.tiers.distribution.trend import BEFORE, FREEDOM, RECENT
from monitoring.tiers.tier import NOTICES_A_DAY, PAGES_A_DAY, SHARE

NAME = "distribution"
SLOW_SHARE = 0.05  # of the budget, for weeks against weeks, once a day
# Times the limit on log p at which a slow drift is a notice, and pages: businesses grow; only an extreme drift is news.
SLOW_NOTICE, SLOW_PAGE = 1.5, 2.0
# Ages and counters wander through the bins of a column for ever; a drift that matters moves a mean or the mix.
SLOW_KINDS = ("mean", "category", "null", "zero", "novel")
CLUMPED = 1.2  # variance of rare counts over Poisson's, at least
LARGE_SHARE = 0.1  # from which a share is not a Poisson matter
BEYOND = 1.5  # a page must be this much further out than any window of its length before it


@dataclass(slots=True)
class Recent:
    """An hour that longer windows may look back on, learned or not."""

    start_us: int
    left: F64
    variance: F64
    k: F64
    n: F64
    expected: F64
    rows: int
    rescored: bool  # its predictions are what the declared model gives
    explained: int = 0  # the shortest window that paged with it: longer ones leave it out; 0 none


def verdict(
    census: Census, stretch: Sequence[Recent], spread: Spread, factor: F64, hours: int, share: float, usable: F64
) -> Judged:
    """log10 p of every part over a stretch, beside its limits; `factor` [m] scales variances, `usable` [m] is 0 or 1."""
    left, variance, k, n, expected = (
        np.sum([getattr(hour, name) for hour in stretch], axis=0) for name in ("left", "variance", "k", "n", "expected")
    )
    expected = np.maximum(expected, 0.0)
    z = left / np.sqrt(np.maximum(variance, 1e-300))
    t = z / np.sqrt(factor)
    forms, up = census.forms, left > 0
    p_t = log10_t(t, spread.freedom)
    # An owner may be a hit in hour after hour of a window.
    by_owner = np.minimum(np.sum([hour.k > 0 for hour in stretch], axis=0), census.lasts)
    by_owner = np.where(census.by_owner, by_owner, 1.0)
    deff = np.clip(variance / np.maximum(expected, 1e-12), 1.0, 1e9)
    inflation = np.maximum(
        np.where(forms.rare, np.maximum(factor, CLUMPED), factor * deff), np.where(census.by_owner, by_owner, 0.0)
    )
    p_count = log10_counts(np.maximum(k, 0.0), expected, inflation, up)
    rate = np.clip(expected / np.maximum(n, 1e-12), 0.0, 1.0 - 1e-9)
    inflation = np.maximum(factor * variance / np.maximum(expected * (1.0 - rate), 1e-12), by_owner)
    p_count = np.where(rate > LARGE_SHARE, log10_shares(k, n, rate, inflation, up), p_count)
    p = np.where(forms.mean, p_t, np.where(forms.rare, p_count, np.maximum(p_t, p_count)))
    p = p + np.log10(np.where(census.up_only, 1.0, 2.0))
    able = (variance > 0) & (usable > 0) & spread.able
    p[~able | (census.up_only & ~up)] = 0.0
    beyond = np.abs(z) > spread.largest * BEYOND
    page, notice = (np.log10(a_day * SHARE[NAME] * share * census.weight) for a_day in (PAGES_A_DAY, NOTICES_A_DAY))
    return Judged(
        hours, stretch[0].start_us, np.minimum(p, 0.0), page, notice, z, t, k, n, expected, left, beyond,
        sum(hour.rows for hour in stretch), all(hour.rescored for hour in stretch),
    )  # fmt: skip


def slow(census: Census, t: F64, recent: F64, before: F64, usable: F64, day: int) -> Judged:
    """Weeks against weeks, as of the start of a day: t statistics, recent and earlier levels [m]."""
    watched = np.array([part.kind in SLOW_KINDS for part in census.parts])
    p = np.minimum(log10_t(t, np.full(len(t), FREEDOM)) + np.log10(2.0), 0.0) * usable * watched
    limit = np.log10(PAGES_A_DAY * SHARE[NAME] * SLOW_SHARE * census.weight)
    hours = 24 * (RECENT + BEFORE)
    began, always = day * DAY_US - hours * HOUR_US, np.ones(len(t), dtype=bool)
    return Judged(
        hours, began, p, SLOW_PAGE * limit, SLOW_NOTICE * limit, t, t, recent, np.ones(len(t)), before, recent - before, always,
        1, trend=True,
    )  # fmt: skip
