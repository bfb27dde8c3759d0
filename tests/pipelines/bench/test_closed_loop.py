"""Both closed-loop clients, against a server that counts what it answers."""

import os

import pytest
from slow_server import serving

from infra.errors import ExplainedError
from pipelines.bench.closed_loop import Load, by_asyncio, by_wrk, have_wrk, read_wrk

BODIES = [b"%d" % number for number in range(50)]
SAID = """Running 1s test @ http://127.0.0.1:1/v1/rank
  1 threads and 16 connections
Requests/sec:    581.12
found {"requests": 583, "us": 1003214, "p50_us": 1702, "p99_us": 12345, "refused": 0, "broken": 0}
"""


@pytest.fixture
def wrk() -> None:
    if not have_wrk():
        if os.environ.get("CI") == "true":
            pytest.fail("wrk is not on PATH; CI must install it")
        pytest.skip("wrk is not on PATH; install it (apt install wrk) to test the benchmark's client")


def test_wrks_figures_are_exact() -> None:
    found = read_wrk(SAID, cpu_s=0.2)
    assert (found.requests, found.seconds, found.p50_ms, found.p99_ms) == (583, 1.003214, 1.702, 12.345)
    assert found.client_cpu == pytest.approx(0.2 / 1.003214)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (SAID.replace('"refused": 0', '"refused": 7'), "refused"),
        (SAID.replace('"broken": 0', '"broken": 2'), "2 connections broke"),
        (SAID.replace('"requests": 583', '"requests": 0'), "0 requests"),
        ("unable to connect", "unable to connect"),
    ],
)
def test_a_run_with_errors_gives_no_figures(said: str, why: str) -> None:
    with pytest.raises(ExplainedError, match=why):
        read_wrk(said, 0.1)


def test_the_asyncio_client_sends_so_many_requests_in_turn_and_has_every_answer() -> None:
    with serving(lambda _: 200) as server:
        found = by_asyncio(server.port, "/v1/rank", BODIES, 7, Load(20, 1, 60, 60.0))
    assert server.received == [(7 + i) % 50 for i in range(60)]
    assert found.requests == 60
    assert 0 < found.p50_ms <= found.p99_ms
    assert found.client == "asyncio"


def test_the_asyncio_client_says_when_it_is_refused() -> None:
    with serving(lambda number: 503 if number == 3 else 200) as server, pytest.raises(ExplainedError, match="503"):
        by_asyncio(server.port, "/v1/rank", BODIES, 0, Load(20, 1, 10, 60.0))


@pytest.mark.usefixtures("wrk")
def test_wrk_sends_the_bodies_in_turn_and_counts_what_the_server_counts() -> None:
    with serving(lambda _: 200) as server:
        found = by_wrk(server.port, "/v1/rank", BODIES, 48, 1, 1)
    assert server.received == [(48 + i) % 50 for i in range(len(server.received))]
    assert found.requests <= len(server.received) <= found.requests + 1  # one may be on its way at the end
    assert found.requests > 10
    assert found.client == "wrk"


@pytest.mark.usefixtures("wrk")
def test_wrk_says_when_it_is_refused() -> None:
    with serving(lambda number: 503 if number == 3 else 200) as server, pytest.raises(ExplainedError, match="refused"):
        by_wrk(server.port, "/v1/rank", BODIES, 0, 1, 1)
