"""The load test that anyone can start: where it may go, how much it may ask, what it says."""

import json
from itertools import count
from pathlib import Path

import pytest
from as_a_user import MainJob
from slow_server import serving

from infra.errors import ExplainedError
from infra.settings import Settings
from pipelines.bench.open_loop import Outcome
from pipelines.load import check, context_of, load_command, loopback, table


@pytest.mark.parametrize(
    ("url", "to"),
    [
        ("http://127.0.0.1:8000", ("127.0.0.1", 8000)), ("http://localhost:81/", ("localhost", 81)),
        ("http://127.9.9.9", ("127.9.9.9", 80)), ("http://[::1]:8000", ("::1", 8000)),
    ],
)  # fmt: skip
def test_loopback_may_be_loaded(url: str, to: tuple[str, int]) -> None:
    assert loopback(url) == to


@pytest.mark.parametrize(
    "url",
    [
        "http://10.0.0.1:8000", "http://example.org", "http://0.0.0.0:8000", "http://localhost.example.org:8000",
        "http://127.0.0.1.example.org", "http://[::ffff:10.0.0.1]:80", "http://127.0.0.1@10.0.0.1:8000",
    ],
)  # fmt: skip
def test_nobody_else_may_be_loaded(url: str) -> None:
    with pytest.raises(ExplainedError, match="is not this machine"):
        loopback(url)


@pytest.mark.parametrize("url", ["https://127.0.0.1:8000", "127.0.0.1:8000", "http://127.0.0.1:8000/v1/rank"])
def test_what_is_no_address_is_said(url: str) -> None:
    with pytest.raises(ExplainedError, match="give it as"):
        loopback(url)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"rate": 1e7}, "--rate"), ({"rate": 0}, "--rate"), ({"seconds": 601}, "--seconds"), ({"seconds": 0.1}, "--seconds"),
        ({"connections": 0}, "--connections"), ({"candidates": 1001}, "--candidates"), ({"rate": float("nan")}, "--rate"),
        ({"rate": 2000, "seconds": 600}, "--rate"),
    ],
)  # fmt: skip
def test_it_is_bounded(given: dict[str, float], named: str) -> None:
    usual = {"rate": 200.0, "seconds": 10.0, "connections": 64, "candidates": 20}
    check(**usual)  # type: ignore[arg-type]
    with pytest.raises(ExplainedError, match=named):
        check(**{**usual, **given})  # type: ignore[arg-type]


def test_who_is_no_endpoint_of_ours_is_said() -> None:
    with serving(lambda _: 404) as server, pytest.raises(ExplainedError, match="says 404"):
        context_of("127.0.0.1", server.port)


def test_a_home_without_impressions_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.load.context_of", lambda *_: ("device",))
    with pytest.raises(ExplainedError, match="make train"):
        load_command(Settings(home=tmp_path), "http://127.0.0.1:9", 10.0, 1.0, 1, 5, True)


def test_a_run_counts_what_the_server_did(
    main_job: MainJob, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    turn = count(1)
    monkeypatch.setattr("pipelines.load.context_of", lambda *_: ("device", "placement", "page_topic"))
    monkeypatch.setattr("pipelines.load.DEADLINE_S", 60.0)  # a busy machine gives up on nobody
    with serving(lambda _: 503 if next(turn) % 5 == 0 else 200) as server:
        load_command(main_job.settings, f"http://127.0.0.1:{server.port}", 60.0, 2.0, 8, 5, True)
    said, came = capsys.readouterr(), next(turn) - 1
    found = json.loads(said.out)
    assert found["offered"] == came
    assert found["shed"] == came // 5
    assert found["answered"] == found["offered"] - found["shed"]
    assert said.err.count("p99") >= 1  # a line a second


def test_the_table_says_all_of_it() -> None:
    text = table(Outcome(100.0, 10.0, 1000, 900, 850, 50, 20, 20, 10, 1.234, None, 0.2, 0.04))
    for part in ("1,000 requests in 10 s", "850 (85.0% of", "85.0 requests/s", "1.23 ms, none", "50", "4% of a core"):
        assert part in text
