"""The control room's parts on a small market: a home with a champion, and a branch of it whose world goes on."""

from collections.abc import Iterator

import pytest
from small_market import SOURCE, with_champion

from infra import branch
from infra.home import Home
from infra.settings import Settings


@pytest.fixture(scope="package")
def served(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A market with its features online and a logistic champion.  Not to be written: work on a branch."""
    home = with_champion(Home(tmp_path_factory.mktemp("room")))
    return Home(home.root, writable=False)


@pytest.fixture
def work(served: Home, request: pytest.FixtureRequest) -> Iterator[Home]:
    """A branch to go on in."""
    made = branch.create(served, "live")
    yield made
    branch.drop(made)


@pytest.fixture(scope="package")
def chosen(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings that no drill's home is the base of."""
    return Settings(home=tmp_path_factory.mktemp("chosen"), size="tiny", epsilon=0.2)


@pytest.fixture(scope="session")
def source():
    """The small market."""
    return SOURCE
