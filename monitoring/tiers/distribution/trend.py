"""Slow drift: has the last week left the fortnight before it by more than weeks do by themselves?

The hourly forecasts follow a level that creeps, so they can't see it.  Weeks are compared whole, which needs no model of
weekdays; a day's own scatter comes from differences between the same weekday of earlier weeks, half of it from the column's
family; what a family's columns do together, and what a column did before, is taken off.
Called by the tier at midnight.
"""

import warnings

import numpy as np

from monitoring.tiers.distribution.forecast import Forms, Past, day_of
from monitoring.tiers.distribution.rows import F64, I64

RECENT, BEFORE = 7, 14  # days compared
FREEDOM = 13.0  # of the t distribution: seven differences or more, and the family's
SLOW = 2.0  # days are not independent of the days before: variance of a mean of days over that of independent ones


def creep(past: Past, forms: Forms, family: I64, day: int) -> tuple[F64, F64, F64] | None:
    """(t statistics, mean of the last week, mean before it) [m], of days before `day`; None without four whole weeks.

    The fourth, before those compared, says how far weeks lie apart by themselves: without it counters over seven days
    reached t = 27 on clean days."""
    days = day_of(past.start)
    span = RECENT + BEFORE
    values = np.full((span + RECENT, past.k.shape[1]), np.nan)
    for at in range(span + RECENT):
        mine = days == day - 1 - at
        if mine.sum() >= 12:
            n = past.n[mine].sum(axis=0)
            with np.errstate(all="ignore"):
                values[at] = np.where(n > 0, past.k[mine].sum(axis=0) / n, np.nan)
    if np.isnan(values).all(axis=1).any():
        return None
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # columns that were never counted have no mean
        recent, before = values[:RECENT].mean(axis=0), values[RECENT:span].mean(axis=0)
        change = recent - before
        apart = values[RECENT:span] - values[2 * RECENT : span + RECENT]
        known = (~np.isnan(apart)).sum(axis=0)
        own = np.nansum(np.square(apart - np.nanmean(apart, axis=0)), axis=0) / np.maximum(known - 1, 1) / 2
        unit = _unit(values[:span], forms)  # of what came, too: a value that was never there has no scatter of its own
        scatter = (own + _by_family(own / unit, family) * unit) / 2
        t = change / np.sqrt(SLOW * scatter * (1 / RECENT + 1 / BEFORE))
        # A column that crept as fast before is used to it.
        earlier = values[RECENT : 2 * RECENT].mean(axis=0) - values[2 * RECENT : span + RECENT].mean(axis=0)
        used = np.where(np.isnan(earlier), 0.0, np.clip(np.sign(change) * earlier, 0.0, None))
        t = np.sign(t) * np.maximum(np.abs(t) * (1.0 - used / np.maximum(np.abs(change), 1e-300)), 0.0)
    t = np.nan_to_num(t, nan=0.0, posinf=0.0, neginf=0.0)
    t /= np.sqrt(np.maximum(_by_family(np.square(t), family), 1.0))
    t[forms.rare] = 0.0
    return t, np.nan_to_num(recent), np.nan_to_num(before)


def _unit(values: F64, forms: Forms) -> F64:
    """Scale on which a family's parts compare: of shares the binomial one, of means their own day-to-day variance."""
    middle = np.nanmean(values, axis=0)
    return np.where(forms.mean, 1.0, np.maximum(middle * (1 - middle), 1e-9))


def _by_family(values: F64, family: I64) -> F64:
    """Each part's family's median [m] of finite values."""
    out = np.zeros(len(values))
    for one in np.unique(family):
        mine = family == one
        known = values[mine][np.isfinite(values[mine])]
        out[mine] = np.median(known) if len(known) else 0.0
    return out
