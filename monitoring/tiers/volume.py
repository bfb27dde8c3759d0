"""How many events should this hour bring?  A forecast by hour of the day and kind of day, and how surprising the count is.

The forecast is the mean of the same hour of earlier days (recent days weigh more, weekends and working days apart), times how
the last hours went against theirs.  Its variance has two parts, learned from its own errors: one that grows with the mean
(sessions come in bunches) and one with its square (days differ); the count is then negative binomial.  Pure.  Called by the
exact tier.
"""

from dataclasses import dataclass, field
from math import log, log10

import numpy as np
import numpy.typing as npt
from scipy.special import betaln

from infra.clock import DAY_US, HOUR_US

DAYS = 21  # remembered
DECAY = 0.85  # weight of a day against the next one
RECENT = 6  # hours that say how today goes
STEADY = 30.0  # events of the forecast that pull today's factor towards one
LONG = (4, 12)  # hours added up for streams too thin to be judged by one
DAYS_DIFFER = 0.12  # relative error of such a sum where today's level is not used: a holiday takes a fifth
FURTHEST = 1.35  # how far a day's level may go from the forecast and still be a day: beyond, half the traffic is gone or double
BUNCH = 2.0  # variance over mean before errors were seen: twice Poisson, as sessions of two make it
SPREAD = 0.10  # relative error of a day's level before errors were seen
LEAST_SPREAD = 0.05  # holidays differ more than the reference's days did
OTHER_KIND = 0.3  # of a weekend that was never seen, or the first working day
BELIEVED = 48.0  # hours after which half of the errors' own variance is believed


@dataclass(frozen=True, slots=True)
class Expected:
    """A forecast count."""

    mean: float
    variance: float

    def log10_below(self, count: float) -> float:
        """log10 P(X <= count)."""
        k = np.arange(0, int(count) + 1, dtype=np.float64)
        return min(0.0, float(np.logaddexp.reduce(self._log_pmf(k))) / log(10))

    def log10_above(self, count: float) -> float:
        """log10 P(X >= count)."""
        far = max(count * 2, self.mean + 60 * self.variance**0.5) + 10
        k = np.unique(np.linspace(count, far, 4000).astype(np.int64)).astype(np.float64)
        widths = np.diff(np.append(k, far + 1))
        return min(0.0, float(np.logaddexp.reduce(self._log_pmf(k) + np.log(widths))) / log(10))

    def _log_pmf(self, k: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        shape = self.mean**2 / max(self.variance - self.mean, 1e-3 * self.mean + 1e-9)
        share = self.mean / (self.mean + shape)
        value = -betaln(shape, k + 1) - np.log(shape + k) + shape * np.log1p(-share) + k * np.log(share)
        return np.asarray(value, dtype=np.float64)


@dataclass(slots=True)
class Volume:
    """One stream's hourly counts."""

    hours: dict[int, float] = field(default_factory=dict)  # hour since the epoch -> count, of learned hours
    errors: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(5))  # sums: weight, m, m^2, e^2/m, (e/m)^2
    _recent: dict[int, float] = field(default_factory=dict)  # the last hours, learned or not, but for those that were off
    _long: dict[int, tuple[float, float, bool]] = field(default_factory=dict)  # hour -> count, base, whether its kind was known
    _last: tuple[int, float, Expected | None] | None = None

    def expect(self, hour: int) -> Expected | None:
        """The forecast for an hour since the epoch; None before a whole day was learned."""
        if len(self.hours) < 24:
            return None
        base, known_kind = self._base(hour)
        if base is None:
            return None
        actual = usual = 0.0
        for back in range(1, RECENT + 1):
            # The evening of a holiday says nothing about the weekend that it begins.
            alike = hour - back in self._recent and weekend(hour - back) == weekend(hour)
            before = self._base(hour - back)[0] if alike else None
            if before is not None:
                actual, usual = actual + self._recent[hour - back], usual + before
        today = min(max((actual + STEADY) / (usual + STEADY), 1 / FURTHEST), FURTHEST)
        mean = max(base * today, 1e-3)
        bunch, spread = self._noise(known_kind)
        spread = spread if usual else max(spread, DAYS_DIFFER)
        return Expected(mean, bunch * mean + (spread * mean) ** 2)

    def see(self, hour: int, count: float) -> Expected | None:
        """Forecast an hour and have its count ready to be learned."""
        expected = self.expect(hour)
        self._last = (hour, count, expected)
        self._recent = {h: c for h, c in self._recent.items() if h >= hour - RECENT} | {hour: count}
        base, known_kind = self._base(hour) if expected is not None else (None, False)
        if base is not None:
            self._long = {h: entry for h, entry in self._long.items() if h > hour - max(LONG)} | {
                hour: (count, base, known_kind)
            }
        return expected

    def together(self) -> list[tuple[float, Expected, int]]:
        """Count and forecast of the last hours added up, without leaning on how today goes, and the first of them."""
        found = []
        for length in LONG:
            hours = sorted(self._long)[-length:]
            entries = [self._long[hour] for hour in hours]
            count, mean = (sum(entry[i] for entry in entries) for i in (0, 1))
            if len(hours) < length or hours[-1] - hours[0] >= length or mean <= 0:
                continue
            spread = DAYS_DIFFER if all(entry[2] for entry in entries) else OTHER_KIND
            variance = self._noise(known_kind=True)[0] * mean + (spread * mean) ** 2
            found.append((count, Expected(mean, variance), hours[0]))
        return found

    def distrust(self, hour: int) -> None:
        """An hour that was off says nothing about the hours after it; sums begin anew."""
        self._recent.pop(hour, None)
        self._long = {}

    def learn(self) -> None:
        """Take the hour seen last into the profile, and its error into the variance."""
        if self._last is None:
            return
        hour, count, expected = self._last
        self.hours[hour] = count
        if expected is not None:
            error = count - expected.mean
            small = float(expected.mean < 100)  # of small counts the first part is what shows, of large ones the second
            self.errors += np.array(
                [1.0, small, 1 - small, small * error**2 / expected.mean, (1 - small) * (error / expected.mean) ** 2]
            )
        for old in [h for h in self.hours if h < hour - DAYS * 24]:
            del self.hours[old]
        self._last = None

    def _base(self, hour: int) -> tuple[float | None, bool]:
        """Weighted mean of the same hour of earlier days, and whether days of this kind were among them."""
        total = weight = 0.0
        other = other_weight = 0.0
        kind = weekend(hour)
        for days in range(1, DAYS + 1):
            count = self.hours.get(hour - 24 * days)
            if count is None:
                continue
            if weekend(hour - 24 * days) == kind:
                total, weight = total + DECAY**days * count, weight + DECAY**days
            else:
                other, other_weight = other + DECAY**days * count, other_weight + DECAY**days
        if weight:
            return total / weight, True
        return (other / other_weight, False) if other_weight else (None, False)

    def _noise(self, known_kind: bool) -> tuple[float, float]:
        _, small, large, by_mean, by_square = self.errors
        bunch = (by_mean * 1.2 + BELIEVED * BUNCH) / (small + BELIEVED)
        spread = np.sqrt((by_square * 1.2 + BELIEVED * SPREAD**2) / (large + BELIEVED))
        return max(bunch, BUNCH), max(float(spread), LEAST_SPREAD) if known_kind else OTHER_KIND


def weekend(hour: int) -> bool:
    """Whether an hour since the epoch lies on a Saturday or Sunday (UTC): the epoch was a Thursday."""
    return (hour // 24 + 3) % 7 >= 5


def hours_of(start_us: int, end_us: int) -> range:
    """Hours since the epoch that a window touches."""
    return range(int(start_us // HOUR_US), int(-(-end_us // HOUR_US)))


def gap_excess(
    times_us: npt.NDArray[np.int64], start_us: int, end_us: int, bunch: float, log10_limit: float
) -> tuple[float, int, float]:
    """How surprising the longest stretch without an event is: (excess, where it begins, its seconds).

    `times_us` ascending, one an independent arrival.  Arrivals at an even rate leave gaps above g with probability at most
    n exp(-n g / length); `bunch` is by how much bunched ones stretch them.
    """
    edges = np.concatenate([[start_us], times_us, [end_us]])
    gaps = np.diff(edges)
    widest = int(np.argmax(gaps))
    n = len(times_us)
    value = (np.log(n + 1.0) - n * float(gaps[widest]) / (end_us - start_us) / bunch) / np.log(10)
    return float(value / log10_limit), int(edges[widest]), float(gaps[widest]) / 1e6


def gap_bunch(times_us: npt.NDArray[np.int64], start_us: int, end_us: int) -> float:
    """The longest gap over the one that even arrivals would leave (about log n + 0.58 mean gaps)."""
    gaps = np.diff(np.concatenate([[start_us], times_us, [end_us]]))
    n = len(times_us)
    return float(n * gaps.max() / (end_us - start_us) / (np.log(n + 1.0) + 0.5772))


def log10_of_day(limit: float, start_us: int, end_us: int) -> float:
    """log10 of the part of a day's limit that a window may spend."""
    return log10(limit * min(1.0, (end_us - start_us) / DAY_US))
