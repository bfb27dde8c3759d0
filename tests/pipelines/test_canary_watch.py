"""The guard at work on real logs: what it counts, when it takes a canary out, and what is left behind."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from features.ids import derived_id
from infra.home import Home
from infra.settings import Settings
from monitoring.canary.counting import LABEL_US
from pipelines.canary_watch import Guard
from pipelines.guarded import unguarded
from pipelines.incident_store import IncidentStore
from serving import rollout_store
from serving.event_log import Click, Clicks, EventLog
from serving.prediction_log import PredictionLog, Record, matrix, pack
from serving.rollout import CANARY, Rollout, Router, encode, start_canary

ONE, TWO = f"{1:016x}", f"{2:016x}"
START_US = 1_767_571_200_000_000
STEP_US = 20_000


class Traffic:
    """Writes the two logs as the endpoint does: users with their own click rates, two shown ads a request."""

    def __init__(self, home: Home) -> None:
        self.home, self.log, self.events = home, PredictionLog(home), EventLog(home)
        self.rng = np.random.default_rng(5)
        self.now_us, self.number = START_US, 0

    def close(self) -> None:
        self.log.close()
        self.events.close()

    def go(self, requests: int, odds: float = 1.0, fails: float = 0.0, slow: int = 1) -> None:
        """So many requests; the canary's predictions are `odds` times too high, a share of its answers fails, it is slow."""
        router = Router(rollout_store.read(self.home))
        for _ in range(requests):
            self.number += 1
            self.now_us += STEP_US
            user = int(self.rng.integers(0, 4000))
            arm = router.arm(user, self.number)
            mine = arm == CANARY
            true = 1 / (1 + np.exp(-(-2.0 + 0.4 * np.sin(user) + 0.3 * self.rng.normal(size=2))))
            shift = odds if mine else 1.0
            p = (true * shift / (1 - true + true * shift)).astype(np.float32)
            failed = mine and self.rng.random() < fails
            took_us = int(800 * np.exp(0.2 * self.rng.normal()) * (slow if mine else 1))
            self.log.append(self.record(arm, "popularity" if failed else router.artefacts[arm], user, took_us, p))
            ids = derived_id(np.full(2, self.number), np.arange(2))
            clicked = [
                Click(int(i), int(i), self.now_us + 60_000_000)
                for i, c in zip(ids, self.rng.random(2) < true, strict=True)
                if c
            ]
            if clicked:
                self.events.append(Clicks(self.now_us, clicked))

    def record(self, arm: str, artefact: str, user: int, took_us: int, p: np.ndarray) -> Record:
        rows = np.arange(2)
        whole, numbers = np.empty((2, 0), np.int64), np.empty((2, 0), np.float32)
        return Record(
            request_id=self.number,
            time_us=self.now_us,
            user_id=user,
            policy="greedy",
            randomised=False,
            arm=arm,
            artefact=artefact,
            encoder="e",
            took_us=took_us,
            ad_id=pack(rows),
            s=pack(np.log(p / (1 - p))),
            bid=None,
            fallback_mask=pack(np.zeros(2, np.int32)),
            shown=pack(rows),
            p=pack(p),
            propensity=pack(np.ones(2, np.float32)),
            logged=pack(rows),
            sampled=2,
            numbers=matrix((), numbers),
            whole=matrix((), whole),
            others={},
            snapshots=matrix((), whole),
            ages=matrix((), numbers),
        )


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A champion and a canary at a fifth of the traffic."""
    home = Home(tmp_path)
    home.writing(rollout_store.document(home)).write_bytes(encode(Rollout(1, ONE)))
    rollout_store.change(home, "test", "to see", lambda now: start_canary(now, TWO, 0.2, 1))
    return home


@pytest.fixture
def traffic(home: Home) -> Iterator[Traffic]:
    found = Traffic(home)
    yield found
    found.close()


def looks(guard: Guard, traffic: Traffic, count: int, **bad: float) -> str:
    """The last action, after so many looks with 250 requests before each."""
    action = ""
    for _ in range(count):
        traffic.go(250, **bad)  # type: ignore[arg-type]
        verdict = guard.look()
        if verdict is None:
            return "gone"
        action = verdict.action
        if action == "roll back":
            return action
    return action


def test_a_good_canary_stays(home: Home, traffic: Traffic) -> None:
    assert looks(Guard(home, Settings()), traffic, 100) in ("continue", "ready")
    assert rollout_store.read(home).canary is not None
    assert IncidentStore(home, "").all() == {}


@pytest.mark.parametrize(
    ("bad", "metric"), [({"fails": 0.3}, "errors"), ({"slow": 4}, "latency"), ({"odds": 2.5}, "calibration")]
)
def test_a_bad_canary_is_taken_out_by_itself_with_an_incident(
    home: Home, traffic: Traffic, bad: dict[str, float], metric: str
) -> None:
    guard = Guard(home, Settings())
    assert looks(guard, traffic, 240, **bad) == "roll back"
    now = rollout_store.read(home)
    assert now.canary is None
    assert now.champion == ONE
    last = rollout_store.history(home)[-1]
    assert last.who == "guard"
    assert metric in last.why
    (incident,) = IncidentStore(home, "").all().values()
    assert incident["subject"] == TWO
    assert incident["severity"] == "page"
    assert guard.look() is None
    if metric == "calibration":  # known by labels, so not before they are due
        assert traffic.now_us > START_US + LABEL_US


def test_a_canary_that_nobody_hears_of_goes_back(home: Home, traffic: Traffic) -> None:
    guard = Guard(home, Settings(canary_grace_s=1e-9))
    guard.look()
    guard.look()
    assert rollout_store.read(home).canary is None
    assert "no requests" in rollout_store.history(home)[-1].why


def test_counting_begins_anew_when_the_share_changes(home: Home, traffic: Traffic) -> None:
    guard = Guard(home, Settings())
    looks(guard, traffic, 4)
    assert guard._counting is not None
    before = guard._counting.canary.requests
    assert before > 100
    rollout_store.change(home, "test", "more", lambda now: start_canary(now, TWO, 0.4, 2))
    guard.look()
    assert guard._counting.canary.requests == 0


def test_what_was_answered_before_the_guard_began_does_not_count(home: Home, traffic: Traffic) -> None:
    traffic.go(300, fails=1.0)
    guard = Guard(home, Settings())
    traffic.go(50)
    verdict = guard.look()
    assert verdict is not None
    assert verdict.action == "continue"
    assert guard._counting is not None
    assert guard._counting.canary.errors == 0


def test_a_canary_without_a_guard_goes_back_unless_another_change_came_first(home: Home) -> None:
    now = rollout_store.read(home)
    unguarded(home, replace(now, number=now.number - 1))
    assert rollout_store.read(home) == now
    unguarded(home, now)
    assert rollout_store.read(home).canary is None
    assert "guard" in rollout_store.history(home)[-1].why
