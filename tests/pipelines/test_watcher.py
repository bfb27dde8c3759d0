"""The monitor's own process says what the monitor in this one would say, and knows nothing but windows."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from infra.clock import HOUR_US
from monitoring.monitor import Monitor
from monitoring.window import LogColumns, Window
from pipelines.watcher import Watcher

START = 20_454 * 24 * HOUR_US
COLUMNS = LogColumns(("device",), ("price",))


def hour(at: int, broken: bool = False) -> Window:
    """One hour of 60 rows; broken ones hold some rows twice."""
    rng = np.random.default_rng(at)
    start = START + at * HOUR_US
    ids = at * 1000 + np.arange(60)
    if broken:
        ids[30:] = ids[:30]
    log = pa.table(
        {
            "id": ids,
            "time": start + np.sort(rng.integers(0, HOUR_US, 60)),
            "p": rng.uniform(0.01, 0.1, 60),
            "f_device": rng.choice(["a", "b"], 60),
            "f_price": rng.normal(size=60),
        }
    )
    return Window(start, start + HOUR_US, log, plan={"a": 0.5, "b": 0.5})


@pytest.fixture
def watcher() -> Iterator[Watcher]:
    with Watcher(COLUMNS) as child:
        for at in range(48):
            child.warm_up(hour(at))
        yield child


def test_it_says_what_the_monitor_says_and_can_be_put_back(watcher: Watcher) -> None:
    here = Monitor(COLUMNS)
    for at in range(48):
        here.warm_up(hour(at))
    watcher.keep("start")
    expected = here.copy().observe(hour(48, broken=True))
    assert expected.opened
    for _ in range(2):  # the second time from where it was put back to
        said = watcher.observe(hour(48, broken=True))
        assert [found.as_json() for found in said.findings] == [found.as_json() for found in expected.findings]
        assert (said.ran, said.skipped) == (expected.ran, expected.skipped)
        assert [incident["number"] for incident in said.opened] == [1]
        assert watcher.open_incidents()[0]["class"] == "duplicated-events"
        watcher.back_to("start")
        assert watcher.incidents() == []
    assert watcher.observe(hour(48)).opened == []
    assert watcher.cpu_s() > 0


def test_a_persons_word_closes_an_incident(watcher: Watcher) -> None:
    watcher.observe(hour(48, broken=True))
    watcher.set_state(1, "false-alarm")
    assert watcher.open_incidents() == []
    assert watcher.incidents()[0]["state"] == "false-alarm"


def test_the_child_starts_in_an_empty_folder_without_this_environment(
    watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = Path(f"/proc/{watcher._process.pid}")
    if not process.exists():
        pytest.skip("this system has no /proc to look at")
    environment = (process / "environ").read_bytes().decode().split("\0")
    names = {line.partition("=")[0] for line in environment if line}
    assert names <= {"PATH", "LANG", "LC_ALL", "HOME", "OMP_NUM_THREADS", "PYTHONPATH"}
    assert not any((process / "cwd").resolve().iterdir())


def test_a_child_that_died_is_said_so(watcher: Watcher) -> None:
    watcher._process.kill()
    watcher._process.wait()
    with pytest.raises(RuntimeError, match="the monitor's process ended"):
        watcher.keep("x")
