"""Fixtures of all rooms."""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from as_a_user import MainJob, clickproof
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from once import SEVERAL, once
from real_redis import RealRedis

from infra import settings as settings_room
from infra.home import Home
from infra.settings import Settings

if TYPE_CHECKING:
    from small_models import EveryFamily

# A busy machine takes longer; no test is about time.
hypothesis_settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
hypothesis_settings.load_profile("untimed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of several processes: the long files first, so that all end at about the same time.  Those that need the main job are
    the longest, and the first rooms' tests the shortest.  One process goes through the rooms in their order."""
    if SEVERAL:
        long = {item.path for item in items if "main_job" in getattr(item, "fixturenames", ())}
        items.sort(key=lambda item: (item.path in long, item.path), reverse=True)  # tests of a file stay in their order


@pytest.fixture(scope="session")
def main_job(tmp_path_factory: pytest.TempPathFactory) -> MainJob:
    """The main job at size tiny, run once a session as users run it.  Tests that write to its home work on a branch."""

    def train(folder: Path) -> None:
        done = clickproof("train", "--size", "tiny", "--json", home=folder / "state")
        (folder / "stdout").write_text(done.stdout)
        (folder / "stderr").write_text(done.stderr)

    found = once(tmp_path_factory, "main-job", train)
    chosen, result = Settings(home=found / "state", size="tiny"), (found / "stdout").read_text().splitlines()[-1]
    return MainJob(chosen, chosen.base(), json.loads(result), (found / "stderr").read_text())


@pytest.fixture(scope="session")
def tiny_home(main_job: MainJob) -> Home:
    """A home with everything in it: events, features, online store, champion.  Not to be written."""
    return Home(main_job.home.root, writable=False)


@pytest.fixture(scope="session")
def every_family(tmp_path_factory: pytest.TempPathFactory) -> "EveryFamily":
    """A few days of the small market with a model of every family, logistic the champion.  Not to be written."""
    import small_models  # as all of training does, it takes seconds to import

    folder = once(tmp_path_factory, "every-family", lambda made: small_models.fill(Home(made)))
    return small_models.EveryFamily(Home(folder), small_models.hashes(Home(folder)))


@pytest.fixture
def families(every_family: "EveryFamily", tmp_path: Path) -> "EveryFamily":
    """The same, to be changed."""
    shutil.copytree(every_family.home.root, tmp_path / "families")
    return every_family._replace(home=Home(tmp_path / "families"))


@pytest.fixture
def hashes(every_family: "EveryFamily") -> Mapping[str, str]:
    """Its models, by family."""
    return every_family.hashes


@pytest.fixture(autouse=True)
def _settings_are_left_as_found() -> Iterator[None]:
    """A test that makes settings of its own does not leave them to the next."""
    before = list(settings_room._in_use)
    yield
    settings_room._in_use[:] = before


@pytest.fixture
def real_redis(tmp_path: Path) -> Iterator[RealRedis]:
    """An empty Redis server of this test's own."""
    server = RealRedis(tmp_path)
    yield server
    server.kill()


@pytest.fixture
def redis_server(real_redis: RealRedis) -> str:
    """Its URL."""
    return real_redis.url
