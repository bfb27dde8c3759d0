"""The log of a real server in JSON: every line is an object, refused and failed requests have their ids in it, and no more."""

import json
from typing import Any

import pytest
from real_server import CANARY, RealServer, request

from serving import refusals
from serving.refusals import LINES_A_SECOND, Refusals


def lines(server: RealServer) -> list[dict[str, Any]]:
    """Fails where a line is no JSON object."""
    found = [json.loads(line) for line in server.log.read_text().splitlines()]
    assert all(isinstance(line, dict) for line in found)
    return found


def test_every_line_has_time_level_logger_and_message(watched: RealServer) -> None:
    found = lines(watched)
    assert len(found) > 5
    for line in found:
        assert {"time", "level", "logger", "message"} <= line.keys()


def test_a_refused_request_is_found_by_its_id(watched: RealServer) -> None:
    refused = [(line["status"], line.get("request_id")) for line in lines(watched) if line.get("route") == "rank"]
    assert refused[:5] == [
        (422, 41),
        (422, 42),
        (422, None),
        (400, None),
        (503, 43),
    ]


def test_a_failed_request_has_its_id_beside_the_exception(watched: RealServer) -> None:
    (line,) = (line for line in lines(watched) if "exception" in line)
    assert (line["level"], line["request_id"]) == ("ERROR", 43)
    assert "File too large" in line["exception"]


def test_nothing_that_was_sent_is_repeated(watched: RealServer) -> None:
    assert CANARY not in watched.log.read_text()


def test_an_unknown_path_is_told_without_the_path(watched: RealServer) -> None:
    assert watched.send(request("GET", f"/{CANARY}")) is not None
    assert lines(watched)[-1]["status"] == 404
    assert CANARY not in watched.log.read_text()


@pytest.mark.usefixtures("caplog")
def test_a_flood_of_refusals_is_a_few_lines_and_a_number(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(refusals, "monotonic", lambda: now[0])
    told = Refusals()
    with caplog.at_level("INFO", "clickproof.serving"):
        for _ in range(LINES_A_SECOND + 5):
            told.tell("rank", 503)
        now[0] += 1.0
        told.tell("rank", 503)
    said = [line.getMessage() for line in caplog.records]
    assert len(said) == LINES_A_SECOND + 2
    assert said[-2] == "5 more requests were refused"
