"""Fixtures of all rooms."""

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from as_a_user import MainJob, clickproof
from hypothesis import settings as hypothesis_settings

from infra import settings as settings_room
from infra.home import Home
from infra.settings import Settings

# A busy machine takes longer; no test is about time.
hypothesis_settings.register_profile("untimed", deadline=None)
hypothesis_settings.load_profile("untimed")


@pytest.fixture(scope="session")
def main_job(tmp_path_factory: pytest.TempPathFactory) -> MainJob:
    """The main job at size tiny, run once a session as users run it.  Tests that write to its home work on a branch."""
    state = tmp_path_factory.mktemp("state")
    done = clickproof("train", "--size", "tiny", "--json", home=state)
    chosen = Settings(home=state, size="tiny")
    return MainJob(chosen, chosen.base(), json.loads(done.stdout.splitlines()[-1]), done.stderr)


@pytest.fixture(scope="session")
def tiny_home(main_job: MainJob) -> Home:
    """A home with everything in it: events, features, online store, champion.  Not to be written."""
    return Home(main_job.home.root, writable=False)


@pytest.fixture(autouse=True)
def _settings_are_left_as_found() -> Iterator[None]:
    """A test that makes settings of its own does not leave them to the next."""
    before = list(settings_room._in_use)
    yield
    settings_room._in_use[:] = before


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[str]:
    """The URL of an empty Redis server of this test's own."""
    server = shutil.which("redis-server")
    if server is None:
        if os.environ.get("CI") == "true":
            pytest.fail("redis-server is not on PATH; CI must install it")
        pytest.skip("redis-server is not on PATH; install it (apt install redis-server) to test the Redis store")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [server, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)], stdout=subprocess.DEVNULL
    )
    try:
        for _ in range(100):
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield f"redis://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)
