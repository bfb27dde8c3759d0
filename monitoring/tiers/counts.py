"""Are these more events than usual?  Counts x of n against a learned benign rate, from one hour to two weeks.

Null: a rate drawn for the hour (or day) from a Beta distribution, whose mean and spread the reference gave; then x is
beta-binomial.  Nothing is taken as normal, so that it holds at 20 rows as at 20,000.  Two statistics share a budget: the exact
tail of the hour alone, and a Shiryaev-Roberts sum over days of e-values (likelihood ratios of the day so far against a mixture
of higher rates), whose false alarms are at most one in its limit (Shin, Ramdas, Rinaldo 2022, "E-detectors").  Pure.  Called by
the tiers exact, replay and experiment.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf, lgamma, log, log10

import numpy as np
import numpy.typing as npt
from scipy.special import betaln, gammaln

from infra.clock import DAY_US

F64 = npt.NDArray[np.float64]

BURST = 1 / 4000  # intra-class correlation of benign events before any was seen: two in an hour are hardly news, five are
SHRINK = 10.0  # events after which half of the learned correlation is believed
LEAST = 3  # events that a page needs: fewer are an anecdote whatever their probability
SOON = 3  # days learned at once; later ones wait `WAIT` days, so that a fault too small for a day doesn't teach its own rate
WAIT = 2
MEMORY = 14 * 24  # hours looked back for the onset
# Rates that the alternative mixes, and odds over the usual rate; each spread by a Beta with shape 4 (a factor of about 1.6).
RATES = (0.003, 0.02, 0.12, 0.6)
ODDS = (2.0, 5.0)
SHAPE = 4.0


def log_pmf(x: float, n: float, a: F64 | float, b: F64 | float) -> F64:
    """Log probability of x among n under Beta(a, b)-binomial; a and b broadcast."""
    choose = lgamma(n + 1) - lgamma(x + 1) - lgamma(n - x + 1)
    return np.asarray(choose + betaln(x + a, n - x + b) - betaln(a, b), dtype=np.float64)


def log10_tail(x: int, n: int, a: float, b: float) -> float:
    """log10 P(X >= x) of a Beta(a, b)-binomial of n."""
    if x <= 0:
        return 0.0
    k = np.arange(x, n + 1, dtype=np.float64)
    terms = gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1) + betaln(k + a, n - k + b) - betaln(a, b)
    return min(0.0, float(np.logaddexp.reduce(terms)) / log(10))


@dataclass(slots=True)
class Moments:
    """Sums from which a beta-binomial's mean m and intra-class correlation r follow: E (x - nm)^2 = m(1-m)(n + n(n-1)r)."""

    units: int = 0  # hours or days
    x: float = 0.0
    n: float = 0.0
    xx: float = 0.0
    xn: float = 0.0
    nn: float = 0.0

    def add(self, x: float, n: float) -> None:
        """Another hour, or day."""
        self.units += 1
        self.x += x
        self.n += n
        self.xx += x * x
        self.xn += x * n
        self.nn += n * n

    def correlation(self, default: float) -> float:
        """Intra-class correlation, shrunk to `default` where few events or units were seen; raised for the few units."""
        if self.units < 2 or self.nn <= self.n or not 0 < self.x < self.n:
            return default
        mean = self.x / self.n
        squares = self.xx - 2 * mean * self.xn + mean * mean * self.nn
        seen = max(0.0, (squares / (mean * (1 - mean)) - self.n) / (self.nn - self.n))
        believed = self.x / (self.x + SHRINK) * self.units / (self.units + 2)
        return min(0.9, believed * seen * (1 + 3 / self.units) + (1 - believed) * default)


@dataclass(frozen=True, slots=True)
class Alarm:
    """What a count showed: `excess` is log10 of the statistic over log10 of its limit, at the scale that shows it best."""

    excess: float
    scale: str  # "hour" or "days"
    count: int  # events since the onset
    of: int
    usual: float  # rate learned
    onset_us: int

    @property
    def rate(self) -> float:
        """Share of events since the onset."""
        return self.count / max(self.of, 1)


@dataclass(slots=True)
class Rate:
    """One stream of counts.  `see` an hour, then maybe `learn` it."""

    prior_rows: float = 500.0  # rows on which `prior_events` were seen before anything was learned
    prior_events: float = 0.5
    odds: tuple[float, ...] = ODDS
    rates: tuple[float, ...] = RATES
    least: int = LEAST
    hours: Moments = field(default_factory=Moments)
    days: Moments = field(default_factory=Moments)
    _day: int = -1  # being tested
    _so_far: tuple[int, int] = (0, 0)
    _given: tuple[int, int] = (0, 0)  # what `so_far` was last, and where it stood when the test began anew
    _origin: tuple[int, int] = (0, 0)
    _ratio: F64 | None = None  # log e-values of the day so far by alternative
    _sum: F64 | None = None  # log Shiryaev-Roberts sums of the days before
    _seen: deque[tuple[int, int, int]] = field(default_factory=lambda: deque(maxlen=MEMORY))  # start_us, x, n
    _waiting: list[tuple[int, int, int]] = field(default_factory=list)  # day, x, n: tested, not learned yet
    _learning: tuple[int, int, int] = (-1, 0, 0)  # the day being learned
    _last: tuple[int, int, int] | None = None

    @property
    def _prior(self) -> float:
        """Rows that the prior stands for: fewer with every benign event, as "it never happens" is then refuted."""
        return self.prior_rows / (1 + self.hours.x) if self.prior_events < 1 else self.prior_rows

    @property
    def mean(self) -> float:
        """The benign rate, with the prior's rows added."""
        return min(0.999, (self.hours.x + self.prior_events) / (self.hours.n + self._prior))

    def null(self, daily: bool = False) -> tuple[float, float]:
        """(a, b) of the Beta that the next hour's (day's) rate comes from: its spread, and what isn't known of the mean."""
        mean = self.mean
        hourly = self.hours.correlation(BURST)
        by_day = self.days.correlation(hourly)
        spread = by_day if daily else max(hourly, by_day)
        rows = self.hours.n + self._prior
        known = rows / (1 + (rows / max(self.hours.units, 1) - 1) * hourly) if self.hours.units else rows
        precision = max(1 / (spread + 1 / (known + 1)) - 1, 0.5)
        return mean * precision, (1 - mean) * precision

    def see(
        self, x: int, n: int, start_us: int, limit_hour: float, limit_days: float, so_far: tuple[int, int] | None = None
    ) -> Alarm | None:
        """Judge x of n in the window from `start_us`; an Alarm where it is above a limit.

        `limit_hour`: probability allowed for this window; `limit_days`: false alarms a day allowed to the sum.  `so_far`: the
        count of the day until now where hours don't simply add up (distinct users).
        """
        day = start_us // DAY_US
        self._last = (int(day), x, n)
        if n <= 0:
            return None
        self._seen.append((start_us, x, n))
        if day != self._day:
            self._next_day(int(day))
        before = self._so_far
        self._so_far = before[0] + x, before[1] + n
        if so_far is not None:
            of = max(so_far[1] - self._origin[1], 0)
            self._given, self._so_far = so_far, (min(max(so_far[0] - self._origin[0], 0), of), of)
        means = self._alternatives()
        a0, b0 = self.null(daily=True)
        shape = SHAPE / means
        self._ratio = log_pmf(*self._so_far, means * shape, (1 - means) * shape) - log_pmf(*self._so_far, a0, b0)
        if self._sum is None:
            self._sum = np.full(len(means), -inf)
        total = float(np.logaddexp.reduce(np.logaddexp(0.0, self._sum) + self._ratio)) - log(len(means))
        by_days = total / log(10) / -log10(limit_days)
        a, b = self.null()
        by_hour = 0.0
        if x >= self.least and x / n > self.mean:
            by_hour = log10_tail(x, n, a, b) / log10(limit_hour)
        excess, scale = max((by_hour, "hour"), (by_days, "days"))
        if excess < 1.0:
            return None
        onset_us, count, of = self.onset()
        if scale == "hour" and count < x:
            onset_us, count, of = start_us, x, n
        elif count <= self.mean * of:  # the day shows it, the sum of its hours does not
            count, of = self._so_far
        if count < self.least:
            return None
        return Alarm(float(excess), scale, count, of, self.mean, onset_us)

    def note(self, x: int, n: int, start_us: int) -> None:
        """Have x of n ready to be learned without judging them."""
        self._last = (int(start_us // DAY_US), x, n)

    def onset(self) -> tuple[int, int, int]:
        """(start_us, x, n) of the stretch up to now whose rate is most likely another one than the usual."""
        if not self._seen:
            return 0, 0, 0
        start, x, n = (np.array(column, dtype=np.float64)[::-1] for column in zip(*self._seen, strict=True))
        xs, ns = np.cumsum(x), np.cumsum(n)
        rate, usual = np.clip(xs / ns, 1e-12, 1 - 1e-12), self.mean
        gain = np.where(rate > usual, xs * np.log(rate / usual) + (ns - xs) * np.log((1 - rate) / (1 - usual)), -inf)
        best = int(np.argmax(gain))
        return int(start[best]), int(xs[best]), int(ns[best])

    def restart(self) -> None:
        """After an alarm: tests begin anew, and what waits to be learned is thrown away."""
        self._so_far, self._ratio, self._sum = (0, 0), None, None
        self._origin = self._given
        self._seen.clear()
        self._waiting.clear()

    def learn(self) -> None:
        """Take in what was seen last; at once in the first week, later after some days without an alarm."""
        if self._last is None or self._last[2] <= 0:
            return
        self._waiting.append(self._last)
        today, self._last = self._last[0], None
        ready = [w for w in self._waiting if self.days.units < SOON or w[0] < today - WAIT]
        self._waiting = self._waiting[len(ready) :]
        for day, x, n in ready:
            self.hours.add(x, n)
            if day != self._learning[0]:
                if self._learning[2] > 0:
                    self.days.add(*self._learning[1:])
                self._learning = (day, 0, 0)
            self._learning = (day, self._learning[1] + x, self._learning[2] + n)

    def _next_day(self, day: int) -> None:
        if self._ratio is not None and self._sum is not None:
            self._sum = np.logaddexp(0.0, self._sum) + self._ratio
        self._day, self._so_far, self._ratio = day, (0, 0), None
        self._given = self._origin = (0, 0)

    def _alternatives(self) -> F64:
        usual = self.mean
        odds = usual / (1 - usual)
        raised = [odds * factor / (1 + odds * factor) for factor in self.odds]
        fixed = [rate if rate > 1.5 * usual else r for rate, r in zip(self.rates, _cycle(raised, len(self.rates)), strict=True)]
        return np.clip(np.array(raised + fixed, dtype=np.float64), 1e-9, 0.95)


def _cycle(values: Sequence[float], length: int) -> list[float]:
    return [values[i % len(values)] for i in range(length)]
