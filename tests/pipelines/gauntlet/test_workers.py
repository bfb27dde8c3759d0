"""Workers end together: after an error nobody waits for what the others still do."""

import multiprocessing as mp
import time
from pathlib import Path

import pytest

from pipelines.gauntlet.workers import workers


def fail(started: Path) -> None:
    while not started.exists():
        time.sleep(0.05)
    raise KeyError("no such column")


def linger(started: Path, done: Path) -> None:
    started.touch()
    time.sleep(300)
    done.touch()


def run_both(started: Path, done: Path) -> None:
    with workers(2) as pool:
        failing = pool.submit(fail, started)
        pool.submit(linger, started, done)
        failing.result()


@pytest.mark.timeout(120)
def test_an_error_ends_the_others(tmp_path: Path) -> None:
    started, done = tmp_path / "started", tmp_path / "done"
    with pytest.raises(KeyError, match="no such column"):
        run_both(started, done)
    assert not done.exists()
    assert not mp.active_children()


def test_results_come_back() -> None:
    with workers(2) as pool:
        assert [task.result() for task in [pool.submit(abs, n) for n in (-1, -2, -3)]] == [1, 2, 3]
