"""Seasons: hours, weekdays and holidays.  Read by the arrivals (who comes when) and by the truth (what is clicked when)."""

from functools import cache

import numpy as np
import numpy.typing as npt

from infra.clock import DAY_US, HOUR_US, day_name
from pipelines.sources.world.luck import Kind, normal
from pipelines.sources.world.tuning import Tuning

I64 = npt.NDArray[np.int64]

HOLIDAYS = frozenset(
    {"2026-01-19", "2026-02-16", "2026-04-03", "2026-04-06", "2026-05-01", "2026-05-25", "2026-07-03"}
)  # a holiday has fewer visits and other interests

HOLIDAY_VISITS = 0.8


def hour_of_day(time_us: I64) -> I64:
    """UTC hour 0 .. 23 of each time."""
    return np.asarray(time_us // HOUR_US % 24)


def weekday(time_us: I64) -> I64:
    """0 = Monday .. 6 of each time (the epoch was a Thursday)."""
    return np.asarray((time_us // DAY_US + 3) % 7)


@cache
def is_holiday(day: int) -> bool:
    """Whether a day, counted from the epoch, is a holiday."""
    return day_name(day * DAY_US) in HOLIDAYS


def visits_on(seed: int, tuning: Tuning, day_us: int) -> float:
    """Visits on the day that starts at `day_us`, relative to an ordinary Monday of no luck."""
    day = day_us // DAY_US
    factor = float(tuning.weekdays[int(day + 3) % 7])
    if tuning.visits_noise:
        factor *= float(np.exp(tuning.visits_noise * normal(seed, Kind.DAY_VISITS, day)))
    return factor * (HOLIDAY_VISITS if is_holiday(day) else 1.0)


def hour_quantile(tuning: Tuning, luck: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Local time of day in hours [0, 24) at each quantile of the tuning's hours."""
    hours = np.array(tuning.hours, dtype=np.float64)
    edges = np.concatenate([[0.0], np.cumsum(hours) / hours.sum()])
    return np.interp(luck, edges, np.arange(25.0))
