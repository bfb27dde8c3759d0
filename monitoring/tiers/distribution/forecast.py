"""What the next hours should look like: level of recent days x weekday or weekend x hour of day, and how far off such forecasts
have been.

Parts are forecast as rates (of rows, of owners, of the sum of logs).  The level is an exponentially weighted mean of past days,
fast or slow as has served the column best; the profile over hours is shrunk towards flat, so that a few days give no wild
profile; weekends have one factor of their own.  Nothing is estimated for an hour of the week.  Residuals are recorded as they
were when their hour was still to come (recursive residuals; Brown, Durbin, Evans 1975); windows of several hours add them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from infra.clock import DAY_US, HOUR_US
from monitoring.tiers.distribution.clockwork import EPOCH_WEEKDAY
from monitoring.tiers.distribution.rows import F64, I64, Bool

HALF_LIVES = (0.7, 3.0, 14.0)  # days
FLAT_HITS = 10.0  # hits (in clusters) that the flat profile is worth against an hour of day's own
FLAT_DAYS = 2.0  # days that "no difference" is worth against the weekend's own level, and against a mean's hourly profile
KEEP_DAYS = 35
LEAST_HOURS = 12  # in which a part could be counted, before it is forecast


@dataclass(frozen=True, slots=True)
class Forms:
    """Which parts [m] are means; the others are shares and rare counts.  `owner` [m] numbers the column of each part."""

    mean: Bool
    rare: Bool
    column: I64


@dataclass(slots=True)
class Past:
    """Learned hours in order: start [t]; sums k, n, q and clusters deff [t, m]."""

    start: I64
    k: F64
    n: F64
    q: F64
    deff: F64

    @classmethod
    def joined(cls, pieces: "Sequence[Past]") -> "Past":
        """Hours of several, in order."""
        names = ("start", "k", "n", "q", "deff")
        return cls(*(np.concatenate([getattr(piece, name) for piece in pieces]) for name in names))

    def part(self, hours: Bool | slice, parts: Bool | I64 | slice = slice(None)) -> "Past":
        """Some hours, some parts."""
        return Past(self.start[hours], *(a[hours][:, parts] for a in (self.k, self.n, self.q, self.deff)))


def day_of(start: I64) -> I64:
    """Days since 1970 of hours."""
    return np.asarray(start // DAY_US)


def is_weekend(day: I64) -> Bool:
    """Saturdays and Sundays (UTC)."""
    return np.asarray((day + EPOCH_WEEKDAY) % 7 >= 5)


def forecast(past: Past, forms: Forms, day: int) -> tuple[F64, F64]:
    """Rates of the 24 hours of a day after `past`: (rates [24, m], variance of single values [m], of means only).

    NaN where a part could hardly ever be counted yet.
    """
    days, begins = np.unique(day_of(past.start), return_index=True)
    k, n = np.add.reduceat(past.k, begins, axis=0), np.add.reduceat(past.n, begins, axis=0)  # [d, m]
    mean = forms.mean
    weekend = is_weekend(days)
    total_k, total_n = k.sum(axis=0), n.sum(axis=0)
    overall = np.where(mean, total_k / np.maximum(total_n, 1e-9), (total_k + 0.5) / (total_n + 1.0))
    deff = (past.deff * past.n).sum(axis=0) / np.maximum(total_n, 1e-9)
    flat = FLAT_HITS * np.maximum(deff, 1.0)
    # Weekday or weekend: a factor (of rates) or a difference (of means) each, shrunk by the days seen.
    effect = np.where(mean, 0.0, 1.0) * np.ones((2, len(overall)))
    if weekend.any() and not weekend.all():
        for kind in (0, 1):
            chosen = weekend == bool(kind)
            trust = chosen.sum() / (chosen.sum() + FLAT_DAYS)
            own_k, own_n = k[chosen].sum(axis=0), n[chosen].sum(axis=0)
            factor = ((np.maximum(own_k, 0.0) + flat) / (own_n * np.maximum(overall, 0.0) + flat)) ** trust
            effect[kind] = np.where(mean, trust * (own_k / np.maximum(own_n, 1e-9) - overall) * (own_n > 0), factor)
    of_day = effect[weekend.astype(int)]  # [d, m]
    level_k = np.where(mean, k - n * of_day, k)
    level_n = np.where(mean, n, n * of_day)
    level = _level(level_k, level_n, past, forms, days, day, overall)
    # Hour of day, against the level of each day itself.
    own = np.where(mean, k / np.maximum(n, 1e-9), (k + 0.5 * overall) / (n + 0.5))
    place = np.searchsorted(days, day_of(past.start))
    hour = (past.start // HOUR_US) % 24
    expected = past.n * own[place]
    by_hour_k, by_hour_e, by_hour_n = (np.zeros((24, len(overall))) for _ in range(3))
    np.add.at(by_hour_k, hour, past.k)
    np.add.at(by_hour_e, hour, expected)
    np.add.at(by_hour_n, hour, past.n)
    trust = len(days) / (len(days) + FLAT_DAYS)
    profile = np.where(
        mean,
        trust * (by_hour_k - by_hour_e) / np.maximum(by_hour_n, 1e-9) * (by_hour_n > 0),
        (by_hour_k + flat) / (by_hour_e + flat),
    )
    today = effect[int(is_weekend(np.array([day]))[0])]
    rates = np.where(mean, level + today + profile, np.clip(level * today * profile, 0.0, 1.0))
    rates = np.where((past.n > 0).sum(axis=0) >= min(LEAST_HOURS, len(past.start) // 2), rates, np.nan)
    spread = np.maximum(past.q.sum(axis=0) / np.maximum(total_n, 1e-9) - np.square(total_k / np.maximum(total_n, 1e-9)), 1e-12)
    return rates, spread


def _level(k: F64, n: F64, past: Past, forms: Forms, days: I64, day: int, overall: F64) -> F64:
    """The level [m] to expect of `day`, from days' sums [d, m], at the half life that forecast earlier days best."""
    prior_n = np.where(forms.mean, 1e-6, 1.0)
    prior_k = np.where(forms.mean, 1e-6 * overall, 0.5)
    bad, levels = np.zeros((len(HALF_LIVES), len(overall))), np.zeros((len(HALF_LIVES), len(overall)))
    scale = np.where(forms.mean, 1.0, np.maximum(overall * (1 - overall), 1e-9))
    for i, half in enumerate(HALF_LIVES):
        have_k, have_n, before = np.zeros_like(overall), np.zeros_like(overall), int(days[0])
        for d in range(len(days)):
            fade = 0.5 ** ((int(days[d]) - before) / half)
            have_k, have_n, before = have_k * fade, have_n * fade, int(days[d])
            if d >= 2:
                error = k[d] - n[d] * (have_k + prior_k) / (have_n + prior_n)
                bad[i] += np.log(np.square(error) / np.maximum(n[d], 1.0) / scale + 0.1)
            have_k, have_n = have_k + k[d], have_n + n[d]
        levels[i] = (have_k + prior_k) / (have_n + prior_n)
    if len(days) < 5:
        return levels[-1]
    # A column's parts are judged together, by form.
    group = forms.column * 3 + forms.mean + 2 * forms.rare
    summed = np.stack([np.bincount(group, row, group.max() + 1)[group] for row in bad])
    return levels[np.argmin(summed, axis=0), np.arange(len(overall))]


def residuals(past: Past, forms: Forms, rates: F64, spread: F64) -> tuple[F64, F64]:
    """(k minus expected, sampling variance) [t, m] of hours under rates [24, m]; zeros where there is no forecast."""
    at = rates[(past.start // HOUR_US) % 24]
    inner = np.where(forms.mean, spread, at * (1 - at))
    left, variance = past.k - past.n * at, past.n * np.where(forms.rare, at, inner * past.deff)
    return np.nan_to_num(left), np.nan_to_num(variance)


def backcast(past: Past, forms: Forms) -> tuple[F64, F64]:
    """Residuals and variances [t, m] of all hours, each day forecast from those before; the first from the second."""
    day = day_of(past.start)
    days = np.unique(day)
    left, variance = np.zeros_like(past.k), np.zeros_like(past.k)
    for at, one in enumerate(days.tolist()):
        mine = day == one
        before = past.part(day < one if at else day == (days[1] if len(days) > 1 else one))
        left[mine], variance[mine] = residuals(past.part(mine), forms, *forecast(before, forms, one))
    return left, variance


def rolling(values: F64, hours: int) -> F64:
    """Sums [t, m] over the last `hours` rows up to each row; rows before that are NaN."""
    total = np.cumsum(values, axis=0)
    out = np.full_like(total, np.nan)
    out[hours - 1 :] = total[hours - 1 :]
    out[hours:] -= total[:-hours]
    return out
