"""Simulated time: how it is waited for, sped up, paused and stopped."""

import threading

import pytest
from patience import PATIENCE_S

from infra.clock import HOUR_US, SECOND_US
from pipelines.live.pace import FASTEST, Pace, Stopped


def test_what_is_due_is_not_waited_for():
    pace = Pace(1.0, HOUR_US)
    pace.wait(HOUR_US)
    assert HOUR_US <= pace.now_us < HOUR_US + 60 * SECOND_US


def test_a_paused_clock_stands_until_it_is_set_going():
    pace = Pace(0.0, 0)
    done = threading.Event()
    waiting = threading.Thread(target=lambda: (pace.wait(HOUR_US), done.set()))
    waiting.start()
    assert not done.wait(0.05)
    assert pace.now_us == 0
    pace.set(FASTEST)
    waiting.join(PATIENCE_S)
    assert done.is_set()
    assert pace.now_us >= HOUR_US


def test_a_stop_wakes_whoever_waits():
    pace, found = Pace(1.0, 0), []

    def wait() -> None:
        try:
            pace.wait(HOUR_US)
        except Stopped:
            found.append("stopped")

    waiting = threading.Thread(target=wait)
    waiting.start()
    pace.stop()
    waiting.join(PATIENCE_S)
    assert found == ["stopped"]
    with pytest.raises(Stopped):
        pace.wait(0)


def test_time_that_was_lost_is_not_made_up_for():
    pace = Pace(FASTEST, 0)
    pace.wait(HOUR_US)
    pace.set(1.0)
    before = pace.now_us
    assert pace.now_us - before < 60 * SECOND_US


def test_the_clock_never_runs_far_ahead_of_the_work():
    pace = Pace(FASTEST, 0)
    threading.Event().wait(0.02)
    assert pace.now_us <= FASTEST * SECOND_US  # half a second of it at most, whatever time has gone by
    pace.wait(HOUR_US)
    assert pace.now_us >= HOUR_US
