"""From when to when a log goes: whole days of any zone, windows completed to days, strays left out."""

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.clock import DAY_US, HOUR_US
from monitoring.outside.span import hours, reference_span, window_span

MONDAY = 20_000 * DAY_US


def times(start_us: int, days: float, rows: int = 2000) -> np.ndarray:
    return np.linspace(start_us, start_us + days * DAY_US - 1, rows).astype(np.int64)


def test_whole_days_begin_at_midnight_of_their_own_zone() -> None:
    assert reference_span(times(MONDAY, 5)).stretches == ((MONDAY, MONDAY + 5 * DAY_US),)
    assert reference_span(times(MONDAY, 5)).phase_us == 0
    local = reference_span(times(MONDAY - 9 * HOUR_US, 5))
    assert (local.phase_us, local.days) == (15 * HOUR_US, 5.0)
    assert reference_span(times(MONDAY, 4.5)).phase_us is None


def test_quiet_hours_at_the_edges_are_part_of_the_days() -> None:
    span = reference_span(times(MONDAY + HOUR_US, 5 - 1.5 / 12))
    assert span.stretches == ((MONDAY, MONDAY + 5 * DAY_US),)


def test_days_that_are_left_out_are_gaps() -> None:
    span = reference_span(np.concatenate([times(MONDAY, 2), times(MONDAY + 4 * DAY_US, 1, 1000)]))
    assert span.stretches == ((MONDAY, MONDAY + 2 * DAY_US), (MONDAY + 4 * DAY_US, MONDAY + 5 * DAY_US))


def test_a_window_that_lost_its_evening_is_still_a_day_and_a_morning_is_not() -> None:
    usual = reference_span(times(MONDAY, 5))
    tuesday = MONDAY + 8 * DAY_US
    assert window_span(times(tuesday, 0.6), usual, 400).stretches == ((tuesday, tuesday + DAY_US),)
    assert window_span(times(tuesday, 0.25), usual, 400).stretches == ((tuesday, tuesday + 6 * HOUR_US),)


def test_rows_with_a_wrong_clock_do_not_stretch_it() -> None:
    usual = reference_span(times(MONDAY, 5, 10_000))
    tuesday = MONDAY + 8 * DAY_US
    day = times(tuesday, 1)
    wrong = np.sort(np.concatenate([day, [0, 5, tuesday + 400 * DAY_US], day[-50:] + 3 * HOUR_US]))
    span = window_span(wrong, usual, 2000)
    assert span.stretches == ((tuesday, tuesday + DAY_US),)
    assert np.count_nonzero(~span.inside(wrong)) == 53


@settings(deadline=None)
@given(st.lists(st.integers(0, 3 * DAY_US - 1), min_size=1, max_size=60))
def test_hours_cut_without_losing_or_doubling_a_row(at: list[int]) -> None:
    time = np.sort(np.array([MONDAY, MONDAY + 3 * DAY_US - 1, *(MONDAY + a for a in at)]))
    log = pa.table({"time": time, "row": np.arange(len(time))})
    span = reference_span(time)
    pieces = list(hours(log, span))
    kept = [row for _, _, part in pieces for row in part["row"].to_pylist()]
    assert kept == np.flatnonzero(span.inside(time)).tolist()
    assert all(start <= t < end for start, end, part in pieces for t in part["time"].to_pylist())
    assert all(end - start == HOUR_US for start, end, _ in pieces)
