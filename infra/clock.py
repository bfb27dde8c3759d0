"""What time it is.  Time comes from a clock or from the request, nowhere else: no other module asks the system for the date.

All times are UTC.  Inside arrays a time is int64 microseconds since the epoch, in names ending in `_us`.
"""

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Protocol

SECOND_US = 1_000_000
MINUTE_US = 60 * SECOND_US
HOUR_US = 3600 * SECOND_US
DAY_US = 24 * HOUR_US


class Clock(Protocol):
    """Anything that can say what time it is."""

    def now_us(self) -> int:
        """Microseconds since the epoch, UTC."""
        ...


@dataclass(frozen=True, slots=True)
class FixedClock:
    """A clock that stands still: for batch jobs, replays and tests."""

    at_us: int

    def now_us(self) -> int:
        return self.at_us


@dataclass(frozen=True, slots=True)
class LakeClock:
    """The lake's watermark plus the time elapsed since the clock was made.

    A server started a year after the data were made therefore still finds them fresh, and still sees them age while it runs.
    """

    watermark_us: int
    started_ns: int = field(default_factory=time.monotonic_ns)

    def now_us(self) -> int:
        return self.watermark_us + (time.monotonic_ns() - self.started_ns) // 1000


@dataclass(frozen=True, slots=True)
class SystemClock:
    """The machine's own clock: for a server that faces live traffic."""

    def now_us(self) -> int:
        return time.time_ns() // 1000


def to_us(moment: datetime) -> int:
    """Microseconds since the epoch of an aware datetime."""
    if moment.tzinfo is None:
        raise ValueError(f"{moment!r} has no time zone; write UTC times with an offset, for example 2026-01-05T00:00:00+00:00")
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def to_datetime(at_us: int) -> datetime:
    """The aware UTC datetime of a number of microseconds since the epoch."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=int(at_us))


def day_name(at_us: int) -> str:
    """The UTC day that holds an instant, as YYYY-MM-DD: the name of a partition."""
    return to_datetime(at_us).date().isoformat()
