"""Fixtures of serving tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from real_server import CANARY, RealServer, serving
from small_market import with_champion
from small_world import NOW_US, DictSource, TinyArtefact

from infra.clock import FixedClock
from infra.home import Home
from infra.settings import Settings
from serving import segment_log
from serving.assignment import Assignment
from serving.policy import EpsilonPolicy
from serving.prediction_log import PredictionLog
from serving.scorer import Scorer


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


@pytest.fixture
def scorer(home: Home) -> Iterator[Scorer]:
    log = PredictionLog(home)
    arms = Assignment("salt", ("a", "b"), (1.0, 1.0))
    yield Scorer(DictSource(), TinyArtefact(), EpsilonPolicy(0.3), arms, log, FixedClock(NOW_US))
    log.close()


@pytest.fixture(scope="package")
def market_state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for `--home` with a small market and a real champion in it."""
    state = tmp_path_factory.mktemp("market")
    with_champion(Settings(home=state, size="tiny").base())
    return state


@pytest.fixture
def unharmed(real_server: RealServer) -> Iterator[RealServer]:
    """The server; after the test it answers good requests as before, and its log has no error and nothing that was sent."""
    yield real_server
    assert real_server.is_well()
    log = real_server.log.read_text()
    assert "Traceback" not in log
    assert "ERROR" not in log
    assert CANARY not in log


@pytest.fixture(scope="package")
def real_server(market_state: Path) -> Iterator[RealServer]:
    """A server with the default limits, as users start it."""
    with serving(market_state, market_state / "server.log") as server:
        yield server


@pytest.fixture(autouse=True)
def _a_thread_of_its_own_for_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that another test left open keeps its thread, and this test does not see it."""
    monkeypatch.setattr(segment_log, "_syncers", {})
