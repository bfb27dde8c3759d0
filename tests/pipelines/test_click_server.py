"""A real server that takes clicks, killed and starved: what it acknowledged is in the lake, once."""

import http.client
import json
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from landed_log import FIRST_DAY_US, SPEC, land_days, log_of_day
from patience import PATIENCE_S, until
from ports import free_port

from features.ids import click_id
from infra.clock import DAY_US, HOUR_US
from infra.home import Home
from infra.lake import Lake
from pipelines.event_ingest import land_clicks
from pipelines.ingest import ingest_all
from serving.event_log import segments

KILLS = 7
# The endpoint as it is, on a clock that goes on from the day after the impressions; clicks need no model.
SERVER = """
import sys
from pathlib import Path
import uvicorn
from infra.clock import LakeClock
from infra.errors import ExplainedError
from infra.home import Home
from infra.settings import Settings
from serving.app import create_app
from serving.events import ClickIntake, add_events
from serving.metrics import ServingMetrics

settings, metrics, intake = Settings(), ServingMetrics(), ClickIntake(Home(Path(sys.argv[1])))

def load():
    intake.open(LakeClock(int(sys.argv[3])))
    raise ExplainedError("no model")

app = create_app(load, settings, metrics)
add_events(app, intake, settings, metrics)
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), access_log=False, log_level="critical")
"""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A day of impressions to click on."""
    made = Home(tmp_path / "home")
    land_days(made, 1, requests=20_000)
    return made


@pytest.fixture
def port() -> int:
    return free_port()


@contextmanager
def server(home: Home, port: int, root: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """The server's process, once it listens; killed at the end unless it has ended."""
    command = [sys.executable, "-c", SERVER, str(home.root), str(port), str(FIRST_DAY_US + DAY_US + HOUR_US)]
    process = subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE)
    assert process.stderr is not None
    try:
        while send(port, {"clicks": []})[0] != 422:
            assert process.poll() is None, process.stderr.read().decode()
            time.sleep(0.02)
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stderr.close()


def send(port: int, body: dict[str, Any]) -> tuple[int, dict[str, str], dict[str, Any]]:
    """(status, headers, answer); status 0 where none came."""
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    try:
        link.request("POST", "/v1/events", json.dumps(body), {"Content-Type": "application/json"})
        with link.getresponse() as answer:
            return answer.status, dict(answer.getheaders()), json.loads(answer.read())
    except (OSError, http.client.HTTPException):
        return 0, {}, {}
    finally:
        link.close()


def clicks_in_lake(home: Home) -> Counter[int]:
    """How often each impression's click is in the lake, once all is ingested; those that were delivered are left out."""
    land_clicks(home)
    for counts in ingest_all(home, SPEC, progress=False):
        found = counts.streams["clicks"]
        assert (found.quarantined, found.pending) == (0, 0)
    rows = Lake.of(home).read("clicks")
    sent = rows["click_id"].to_numpy() == click_id(rows["impression_id"].to_numpy())
    return Counter(rows["impression_id"].to_numpy()[sent].tolist())


@dataclass
class Client:
    """Sends clicks on one impression after the other until it is stopped, and some again: mostly those without an answer."""

    port: int
    impressions: list[int]
    acknowledged: set[int] = field(default_factory=set)
    unanswered: set[int] = field(default_factory=set)  # sent, and never acknowledged
    answers: Counter[int] = field(default_factory=Counter)  # by status
    again: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """What its thread does."""
        luck, old = random.Random(self.port), []
        while not self._stop.is_set():
            if old and luck.random() < 0.3:
                batch = old.pop(luck.randrange(len(old)))
                self.again += 1
            else:
                batch = [self.impressions.pop() for _ in range(luck.randint(1, 20))]
            body = {"clicks": [{"impression_id": str(number)} for number in batch]}
            status = send(self.port, body)[0]
            self.answers[status] += 1
            if status == 202:
                self.acknowledged.update(batch)
                self.unanswered.difference_update(batch)
            else:
                self.unanswered.update(set(batch) - self.acknowledged)
                self._stop.wait(0.02)
            if luck.random() < (0.05 if status == 202 else 0.7):
                old.append(batch)

    def stop(self) -> None:
        self._stop.set()


def test_killed_at_random_moments_it_loses_nothing_that_it_acknowledged(
    home: Home, port: int, request: pytest.FixtureRequest
) -> None:
    client = Client(port, log_of_day(0, 20_000)["impressions"]["impression_id"].to_pylist())
    thread = threading.Thread(target=client.run)
    luck, lives = random.Random(os.getpid()), []
    try:
        for _ in range(KILLS):
            with server(home, port, request.config.rootpath) as process:
                before = client.answers[202]
                if not thread.is_alive():
                    thread.start()
                until(lambda before=before: client.answers[202] > before)
                time.sleep(luck.uniform(0, 0.4))
                process.send_signal(signal.SIGKILL)
                assert process.wait() == -signal.SIGKILL
                lives.append(client.answers[202] - before)
    finally:
        client.stop()
        thread.join()
    assert sum(lives) > KILLS
    assert client.answers[0] >= KILLS  # each time it died on somebody
    assert client.again > 0
    assert len(segments(home)) == KILLS
    found = clicks_in_lake(home)
    assert set(found.values()) == {1}
    assert client.acknowledged <= found.keys()
    assert found.keys() <= client.acknowledged | client.unanswered


def room(process: "subprocess.Popen[bytes]", most: int) -> None:
    """What the longest file may be that the process writes from now on: the system refuses more, as a full disk does."""
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))


def test_where_nothing_can_be_written_it_says_so_and_recovers(home: Home, port: int, request: pytest.FixtureRequest) -> None:
    shown = iter(log_of_day(0, 20_000)["impressions"]["impression_id"].to_pylist())
    taken, refused = [], []

    def click(expected: int, count: int = 20) -> dict[str, str]:
        batch = [next(shown) for _ in range(count)]
        status, headers, answer = send(port, {"clicks": [{"impression_id": number} for number in batch]})
        assert status == expected, answer
        (taken if status == 202 else refused).extend(batch)
        return headers

    with server(home, port, request.config.rootpath) as process:
        click(202)
        (first,) = segments(home)
        room(process, first.stat().st_size)  # no byte more
        for _ in range(2):
            assert click(503)["retry-after"] == "1"
        room(process, first.stat().st_size + 100)  # a part of the next record
        click(503)
        click(202, count=1)  # which has room in a new segment
        room(process, 0)
        click(503)
        room(process, resource.RLIM_INFINITY)
        click(202)
        again = send(port, {"clicks": [{"impression_id": number} for number in refused[:20]]})[2]
        assert again == {"accepted": 20, "duplicate": 0}  # what was refused is not taken for known
        taken += refused[:20]
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) in (0, -signal.SIGTERM)
    assert clicks_in_lake(home) == Counter(taken)
