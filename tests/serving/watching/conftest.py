"""A real server that was asked for good, refused, degraded and failing answers, for tests of what it says about itself."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from real_server import RealServer, serving
from traffic import damage, send_traffic

from infra.settings import Settings


@pytest.fixture(scope="package")
def watched(market_state: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    """The server, with a log in JSON, after the traffic."""
    state = tmp_path_factory.mktemp("watched") / "state"
    shutil.copytree(market_state, state)
    home = Settings(home=state, size="tiny").base()
    for left_by_others in (home.log, home.events):
        shutil.rmtree(left_by_others, ignore_errors=True)
    damage(home)
    with serving(state, state / "server.log", log_format="json") as server:
        send_traffic(server, home)
        yield server
