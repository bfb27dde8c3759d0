"""From when to when an outside log goes, and its rows hour by hour.  Pure.

Files of days mostly hold whole days, of some time zone; then a window that holds most of a day is judged as the whole day, so
that missing hours at its edge are seen.  Rows far away in time (a clock that is wrong) must not stretch it over years.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from infra.clock import DAY_US, HOUR_US

I64 = npt.NDArray[np.int64]
EDGE = 3  # hours without traffic that a whole day may begin or end with
REAL_DAY = 0.1  # of the usual rows: what a day needs to be one, rather than some rows with a wrong clock
MOST_OF_A_DAY = 8  # hours: a window that reaches over this much is taken as a whole day, where the reference has whole days


@dataclass(frozen=True, slots=True)
class Span:
    """Stretches [start, end) of whole hours that hold a log's rows, in order; and whether they are whole days."""

    stretches: tuple[tuple[int, int], ...]
    phase_us: int | None  # where days begin, after midnight UTC; None where the log is not made of whole days

    @property
    def start_us(self) -> int:
        """Begin of the first."""
        return self.stretches[0][0]

    @property
    def end_us(self) -> int:
        """End of the last."""
        return self.stretches[-1][1]

    @property
    def days(self) -> float:
        """Length of all stretches."""
        return sum(end - start for start, end in self.stretches) / DAY_US

    def inside(self, time: I64) -> npt.NDArray[np.bool_]:
        """[n] which times lie in it."""
        found = np.zeros(len(time), bool)
        for start, end in self.stretches:
            found |= (time >= start) & (time < end)
        return found


def reference_span(time: I64) -> Span:
    """The span of a reference, from its times in order."""
    low, high = _robust(time)
    phase = _phase(low, high)
    if phase is None:
        return Span(((_hour(low), _hour(high) + HOUR_US),), None)
    return Span(_joined(_full_days(time, phase, None)), phase)


def window_span(time: I64, reference: Span, rows_a_day: float) -> Span:
    """The span of a window that is compared with a reference of so many rows a day."""
    low, high = _robust(time)
    if reference.phase_us is not None and high - low >= MOST_OF_A_DAY * HOUR_US:
        return Span(_joined(_full_days(time, reference.phase_us, rows_a_day)), reference.phase_us)
    return Span(((_hour(low), _hour(high) + HOUR_US),), None)


def hours(table: pa.Table, span: Span) -> Iterator[tuple[int, int, pa.Table]]:
    """(start, end, rows) of every hour of a span; `table` is in order of time."""
    time = table["time"].to_numpy()
    for start, end in span.stretches:
        edges = np.arange(start, end + 1, HOUR_US)
        places = np.searchsorted(time, edges)
        for i in range(len(edges) - 1):
            # Taken, not sliced: a slice drags the whole log along wherever a monitor that keeps some of its rows is copied.
            rows = table.take(pa.array(np.arange(places[i], places[i + 1])))
            yield int(edges[i]), int(edges[i + 1]), rows


def _robust(time: I64) -> tuple[int, int]:
    """First and last time but for a thousandth of the rows at either end that lie more than a day from the rest."""
    rest = time[len(time) // 1000 : len(time) - len(time) // 1000]
    near = time[(time >= rest[0] - DAY_US) & (time <= rest[-1] + DAY_US)]
    return int(near[0]), int(near[-1])


def _phase(low: int, high: int) -> int | None:
    """Where days begin: at midnight if that fits, otherwise at the first row's hour if whole days follow, otherwise None."""
    if low % DAY_US < EDGE * HOUR_US and (-high) % DAY_US <= EDGE * HOUR_US:
        return 0
    start = _hour(low)
    length = _hour(high) + HOUR_US - start
    short = (-length) % DAY_US
    return start % DAY_US if length >= DAY_US // 2 and short <= EDGE * HOUR_US else None


def _full_days(time: I64, phase: int, rows_a_day: float | None) -> I64:
    """Starts of the days that hold a fair part of a day's rows."""
    days, rows = np.unique((time - phase) // DAY_US, return_counts=True)
    usual = rows_a_day if rows_a_day is not None else float(np.median(rows[rows >= REAL_DAY * rows.max()]))
    real = days[rows >= REAL_DAY * usual]
    if not len(real):
        real = days[[int(np.argmax(rows))]]
    return np.asarray(real * DAY_US + phase, dtype=np.int64)


def _joined(starts: I64) -> tuple[tuple[int, int], ...]:
    """Days that follow each other, as one stretch."""
    found: list[tuple[int, int]] = []
    for start in starts.tolist():
        if found and found[-1][1] == start:
            found[-1] = found[-1][0], start + DAY_US
        else:
            found.append((start, start + DAY_US))
    return tuple(found)


def _hour(at_us: int) -> int:
    return at_us - at_us % HOUR_US
