"""What several feature tests need: a small market with all its features made, and a Redis server."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
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
