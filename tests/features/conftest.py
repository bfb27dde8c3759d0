"""What several feature tests need: a small market with all its features made."""

from typing import NamedTuple

import made_up_lake
import pytest

from infra.clock import DAY_US, HOUR_US
from infra.home import Home
from pipelines.materialize import materialize_all, materialize_online
from pipelines.sources.contract import SourceSpec


class Market(NamedTuple):
    """A home with snapshots of four days; `now_us` is an hour after the last."""

    home: Home
    spec: SourceSpec
    now_us: int


@pytest.fixture(scope="session")
def market(tmp_path_factory: pytest.TempPathFactory) -> Market:
    """Not to be written by tests, except for the online store, which stands at `now_us`."""
    home = Home(tmp_path_factory.mktemp("market"))
    spec = made_up_lake.fill(home)
    materialize_all(home, spec, progress=False)
    now_us = made_up_lake.FIRST_US + spec.days * DAY_US + HOUR_US
    materialize_online(home, spec, now_us)
    return Market(home, spec, now_us)
