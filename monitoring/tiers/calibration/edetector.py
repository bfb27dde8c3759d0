"""E-detectors: sequential tests for a shift of clicks over expected clicks that began at an unknown hour, with a controlled
average run length.

For every start and every size of shift a *particle* holds a likelihood ratio: what the next window's clicks were expected to
be after such a shift, over what they were expected to be without.  Given the past, each factor has mean at most 1 where nothing
happened, so the sum over starts (Shiryaev-Roberts) grows by one an hour at most, and a limit of A hours is reached once in A
hours or less often: Shin, Ramdas, Rinaldo (2024), "E-detectors: a nonparametric framework for sequential change detection".

Both sides know that days differ: a log ratio is a slow level (random walk: the champion's standing bias), plus a day's
deviation (an autoregression that forgets in `MEMORY_H`), plus an hour's own; each particle filters the first two for itself
(a Kalman filter on the log ratio, gamma-Poisson for the clicks: West, Harrison, "Bayesian Forecasting and Dynamic Models").
What is seen is a negative binomial count, or a beta-binomial share of the clicks of a window.  Starts are thinned with age:
two neighbours become one that keeps the sum of both values and the likelier one's filter, which leaves the mean of the
factors as it was.  Called by the tier's streams.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln, logsumexp

F64 = npt.NDArray[np.float64]

# On our worlds hours of one day share a deviation and days do not: as much noise in the long run as this memory brings.
MEMORY_H = 12.0
STARTS = 12  # starts held at once, spaced like the powers of their age
# Older starts count no more, which only makes the sum smaller: a champion's level wanders by 4% in three weeks, and what has
# not shown in two is no step.
OLDEST_H = 14 * 24.0
# A level's steady motion: learned over so many days, after the first days' search for the level, shrunk by two weeks of none.
TREND_DAYS, TREND_AFTER_H, TREND_PRIOR_DAYS = 28.0, 72.0, 14.0
ODD_DAY = 5.0  # one day in a hundred
# Evidence above the limit is held at this much (nats) over it, so that the all-clear comes as fast as the alarm did.
MARGIN = 3.0


@dataclass(frozen=True, slots=True)
class Shift:
    """One alternative: clicks times exp(step), and times exp(daily) more with every day since the start."""

    step: float
    daily: float
    weight: float  # of the stream's evidence
    # Younger starts (hours) count for exp(-ODD_DAY) as much: a holiday looks like that, and is over by then.
    odd_h: float = 0.0


@dataclass(frozen=True, slots=True)
class Wander:
    """How a stream of log ratios moves by itself: variances."""

    level: float  # of the level before anything was seen
    drift: float  # that the level gains a day
    trend: bool = False  # whether the level also moves steadily, as a frozen champion's bias does: learned, and shrunk


class EDetector:
    """`streams` tests side by side, each a mixture over the same shifts.  Not told when a bug is injected or healed."""

    def __init__(self, shifts: tuple[Shift, ...], wander: Wander, shares: bool) -> None:
        """`shares`: a window's clicks of the stream out of the clicks of all, else plain counts."""
        self.shifts, self.wander, self.shares = shifts, wander, shares
        self._step = np.array([s.step for s in shifts])[None, :, None]
        self._daily = np.array([s.daily for s in shifts])[None, :, None]
        self._log_weight = np.log([s.weight for s in shifts])[None, :, None]
        self._odd_h = np.array([s.odd_h for s in shifts])[None, :, None]
        self.level = np.zeros(0)  # of the null filter [streams]
        self.day = np.zeros(0)
        self._cov = np.zeros((3, 0))  # level, both, day
        self._born = np.full(0, np.nan)  # [starts] hour at which each start was made
        self._levels = np.zeros((0, len(shifts), 0))
        self._days = np.zeros((0, len(shifts), 0))
        self._log = np.zeros((0, len(shifts), 0))  # log of the values
        self._since = np.zeros((0, len(shifts), 0))  # hour of the start that the value mostly stems from
        self.hour = 0.0  # hours since the first window
        self.overflow = np.zeros(0)  # evidence beyond what is held (nats)
        self._above = np.zeros(0, dtype=bool)  # streams that the last `hold` found above their limit
        self._kept = (np.zeros(0), np.zeros(0))
        self.trend = np.zeros(0)  # of the levels, a day
        self._trend_days = 0.0
        self._taught_hour = 0.0

    @property
    def streams(self) -> int:
        """How many there are."""
        return len(self.level)

    @property
    def uncertainty(self) -> F64:
        """Variance of each level [streams]."""
        return self._cov[0]

    def grow(self, streams: int) -> None:
        """Make room for more streams; new ones know nothing of their level."""
        more = streams - self.streams
        if more <= 0:
            return
        self.level = np.pad(self.level, (0, more))
        self.day = np.pad(self.day, (0, more))
        self._cov = np.pad(self._cov, ((0, 0), (0, more)))
        self._cov[0, -more:] = self.wander.level
        self.overflow = np.pad(self.overflow, (0, more))
        self.trend = np.pad(self.trend, (0, more))
        room = ((0, more), (0, 0), (0, 0))
        self._levels, self._days = np.pad(self._levels, room), np.pad(self._days, room)
        self._log = np.pad(self._log, room, constant_values=-np.inf)
        self._since = np.pad(self._since, room)
        self._kept = self.level.copy(), self._cov[0].copy()

    def learn(self) -> None:
        """Let the level keep what the last window taught it."""
        if self.wander.trend and self.hour > TREND_AFTER_H:
            days = (self.hour - self._taught_hour) / 24
            self._trend_days += days
            share = days / min(self._trend_days + 3.0, TREND_DAYS)
            self.trend += share * ((self.level - self._kept[0]) / days - self.trend)
        self._taught_hour = self.hour
        self._kept = self.level.copy(), self._cov[0].copy()

    def forget(self) -> None:
        """Go back to the level that `learn` kept: the windows since then belong to an incident."""
        self.level, self._cov[0] = self._kept[0].copy(), self._kept[1].copy()
        self._cov[1] = 0.0

    def begin_again(self) -> None:
        """Know nothing of levels."""
        self.level, self.day, self.trend = (np.zeros(self.streams) for _ in range(3))
        self._cov = np.zeros((3, self.streams))
        self._cov[0] = self.wander.level
        self.learn()
        self.restart()

    def learn_anew(self) -> None:
        """Streams that were held above their limit have found their new level or were wrong about the old: know neither."""
        self._cov[:, self._above] = 0.0
        self._cov[0, self._above] = self.wander.level
        self.restart()

    def restart(self) -> None:
        """Drop all evidence; what was learned stays."""
        self._born = self._born[:0]
        self._levels, self._days = self._levels[:, :, :0], self._days[:, :, :0]
        self._log, self._since = self._log[:, :, :0], self._since[:, :, :0]
        self.overflow[:] = 0.0

    def expect(self, hours: float, day_variance: F64, fresh: F64) -> None:
        """Move on to a window of that many hours; `day_variance` [streams], and variance that came up just now: `fresh`."""
        ahead = self.trend * (self._trend_days / (self._trend_days + TREND_PRIOR_DAYS) * hours / 24)
        self.level = self.level + ahead
        self._levels = self._levels + ahead[:, None, None]
        fade = float(np.exp(-hours / MEMORY_H))
        self.day = self.day * fade
        self._days = self._days * fade
        self._cov[0] += self.wander.drift * hours / 24
        self._cov[1] *= fade
        self._cov[2] = fade**2 * self._cov[2] + (1 - fade**2) * day_variance + fresh
        self._log[self._since < self.hour - OLDEST_H] = -np.inf
        self._born = np.append(self._born, self.hour)
        self.hour += hours
        self._levels = np.concatenate([self._levels, np.repeat(self.level[:, None, None], len(self.shifts), 1)], axis=2)
        self._days = np.concatenate([self._days, np.repeat(self.day[:, None, None], len(self.shifts), 1)], axis=2)
        start = np.full((self.streams, len(self.shifts), 1), np.log(hours))
        self._log = np.concatenate([self._log, start], axis=2)
        self._since = np.concatenate([self._since, np.full_like(start, self._born[-1])], axis=2)
        while len(self._born) > STARTS:
            self._thin()

    def see(self, seen: F64, expected: F64, hour_variance: F64, total: F64 | None = None) -> None:
        """Weigh what a window showed: clicks [streams] against `expected` (level and day not yet in it).

        With `shares`, `total` [streams] is the number of clicks that `seen` is a part of, and `expected` the share.
        Streams that expect nothing are left as they are.
        """
        doubt = self._cov.sum(axis=0) + self._cov[1]
        spread = doubt + hour_variance
        offset = self._step + self._daily * (self.hour - self._since) / 24
        if self.shares:
            assert total is not None, "a share is a share of something"
            able = (total > 0) & (expected > 0) & (expected < 1)
            rate = np.where(able, expected, 0.5)
            n = np.where(able, total, 0.0)
            k = np.where(able, seen, 0.0)
            odds = np.log(rate / (1 - rate))
            null = inverse_logit(odds + self.level + self.day)
            other = inverse_logit(odds[:, None, None] + self._levels + self._days + offset)
            gain = _beta_binomial(k, n, null, other, spread)
            info, surprise = n * null * (1 - null), k - n * null
            others = k[:, None, None] - n[:, None, None] * other
        else:
            able = expected > 0
            mean = np.where(able, expected, 0.0)
            k = np.where(able, seen, 0.0)
            null = mean * np.exp(self.level + self.day)
            other = mean[:, None, None] * np.exp(self._levels + self._days + offset)
            gain = _negative_binomial(k, null, other, spread)
            info, surprise = null, k - null
            # Gain by the null's information: a gain per expected click of the particle's own mean.
            others = (k[:, None, None] - other) * (null[:, None, None] / np.maximum(other, 1e-12))
        self._log += gain
        # One gain for the null and all particles of a stream.
        shrink = 1 / (1 + info * spread)
        to_level, to_day = self._cov[0] + self._cov[1], self._cov[1] + self._cov[2]
        all_of_it = np.maximum(to_level + to_day, 1e-30)
        move = _damped(all_of_it * shrink * surprise) / all_of_it
        self.level, self.day = self.level + to_level * move, self.day + to_day * move
        moves = _damped((all_of_it * shrink)[:, None, None] * others) / all_of_it[:, None, None]
        self._levels = self._levels + to_level[:, None, None] * moves
        self._days = self._days + to_day[:, None, None] * moves
        certain = info * shrink
        self._cov -= certain * np.stack([to_level * to_level, to_level * to_day, to_day * to_day])

    def evidence(self) -> F64:
        """Log of the statistic [streams]: the weighted sum of all values, in hours."""
        if not len(self._born):
            return np.full(self.streams, -np.inf)
        return np.asarray(logsumexp(self._weighted(), axis=(1, 2)))

    def _weighted(self) -> F64:
        """Log values times weights; a weight that is known beforehand leaves an e-detector one."""
        young = self.hour - self._since <= self._odd_h
        return np.asarray(self._log + self._log_weight - ODD_DAY * young)

    def hold(self, log_limit: F64) -> None:
        """Of streams above their limit [streams]: hold the evidence near it, and let the null take the weather as it is net
        of the shift, not the shift as weather."""
        now = self.evidence()
        above = self._above = now >= log_limit
        self.overflow = np.where(above, self.overflow + np.maximum(now - log_limit - MARGIN, 0.0), 0.0)
        surplus = np.where(above, np.maximum(now - log_limit - MARGIN, 0.0), 0.0)
        self._log -= surplus[:, None, None]
        for stream in np.flatnonzero(above):
            shift, start = self._best(int(stream))
            self.level[stream] = self._levels[stream, shift, start]
            self.day[stream] = self._days[stream, shift, start]

    def best(self, stream: int) -> tuple[Shift, float]:
        """The likeliest shift of a stream and the hour (since the first window) at which it began."""
        shift, start = self._best(stream)
        return self.shifts[shift], float(self._since[stream, shift, start])

    def _best(self, stream: int) -> tuple[int, int]:
        values = self._weighted()[stream]
        shift, start = np.unravel_index(int(np.argmax(values)), values.shape)
        return int(shift), int(start)

    def _thin(self) -> None:
        """Make one of the two neighbouring starts whose ages are most alike."""
        age = self.hour - self._born
        ratio = age[:-2] / age[1:-1]  # the newest stands alone
        i = int(np.argmin(ratio))
        first = self._log[:, :, i] >= self._log[:, :, i + 1]
        for values in (self._levels, self._days, self._since):
            values[:, :, i + 1] = np.where(first, values[:, :, i], values[:, :, i + 1])
        self._log[:, :, i + 1] = np.logaddexp(self._log[:, :, i], self._log[:, :, i + 1])
        rest = np.delete(np.arange(len(self._born)), i)
        self._born = self._born[rest]
        self._levels, self._days = self._levels[:, :, rest], self._days[:, :, rest]
        self._log, self._since = self._log[:, :, rest], self._since[:, :, rest]


def inverse_logit(x: F64) -> F64:
    """The probability of log odds."""
    return np.asarray(1 / (1 + np.exp(-x)))


def _damped(x: F64) -> F64:
    """A step of the log ratio: log(1 + x), the gamma posterior's; falls no faster than it rises for shares."""
    return np.sign(x) * np.log1p(np.abs(x))


def _negative_binomial(k: F64, null: F64, other: F64, variance: F64) -> F64:
    """log of P(k | other) / P(k | null), clicks whose rate has the relative `variance`; [streams, shifts, starts]."""
    size = (1 / np.maximum(variance, 1e-9))[:, None, None]
    k, null = k[:, None, None], np.maximum(null, 1e-12)[:, None, None]
    other = np.maximum(other, 1e-12)
    return np.asarray(k * np.log(other / null) + (k + size) * np.log((null + size) / (other + size)))


def _beta_binomial(k: F64, n: F64, null: F64, other: F64, variance: F64) -> F64:
    """log of P(k of n | other) / P(k of n | null), shares whose logit has that `variance`; [streams, shifts, starts]."""
    size = (1 / np.clip(null * (1 - null) * variance, 1e-7, 0.5) - 1)[:, None, None]
    k, rest, null = k[:, None, None], (n - k)[:, None, None], null[:, None, None]
    null, other = np.clip(null, 1e-9, 1 - 1e-9), np.clip(other, 1e-9, 1 - 1e-9)  # a slice may be the whole log
    a, b, a0, b0 = size * other, size * (1 - other), size * null, size * (1 - null)
    return np.asarray(
        gammaln(k + a) - gammaln(a) + gammaln(rest + b) - gammaln(b)
        - (gammaln(k + a0) - gammaln(a0) + gammaln(rest + b0) - gammaln(b0))
    )  # fmt: skip
