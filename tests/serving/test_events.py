"""POST /v1/events: what is acknowledged is written, once; what is wrong is named; who may not write does not."""

import json
import logging
import re
import shlex
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from patience import until
from pydantic import SecretStr
from small_world import NOW_US

from features.click_matching import WAIT_DAYS
from features.ids import click_id
from infra.clock import DAY_US, MINUTE_US, FixedClock
from infra.errors import ExplainedError
from infra.home import Home
from infra.settings import Settings
from serving.app import create_app
from serving.event_log import Click, read, segments
from serving.event_messages import MAX_CLICKS, SentClick
from serving.events import PAST_US, ClickIntake, add_events, completed
from serving.metrics import ServingMetrics
from serving.write_token import on_loopback

PAGE = Path(__file__).parents[2] / "docs" / "events.md"
LOCAL = ("127.0.0.1", 4000)
TOKEN = "a-token-of-some-length"
Asker = Callable[..., TestClient]


def server(home: Home, opened: bool = True, **settings: Any) -> FastAPI:
    """An endpoint without a model."""
    intake, metrics, chosen = ClickIntake(home), ServingMetrics(), Settings(**settings)

    def load() -> Any:
        if opened:
            intake.open(FixedClock(NOW_US))
        raise ExplainedError("there is no model here")

    app = create_app(load, chosen, metrics)
    add_events(app, intake, chosen, metrics)
    return app


def wait_loaded(client: TestClient) -> None:
    until(lambda: "no model here" in client.get("/readyz").text, lambda: "the server did not try to load a model")


@pytest.fixture
def asker(home: Home) -> Iterator[Asker]:
    """Makes clients, each of a server of its own on the same home."""
    with ExitStack() as stack:

        def make(client: tuple[str, int] = LOCAL, **options: Any) -> TestClient:
            made = stack.enter_context(TestClient(server(home, **options), client=client, raise_server_exceptions=False))
            wait_loaded(made)
            return made

        yield make


@pytest.fixture
def ask(asker: Asker) -> TestClient:
    return asker()


def written(home: Home) -> list[Click]:
    return [click for path in segments(home) for record, _ in read(path) for click in record.clicks]


def test_a_click_is_written_before_it_is_acknowledged(ask: TestClient, home: Home) -> None:
    answer = ask.post("/v1/events", json={"clicks": [{"impression_id": 12}, {"impression_id": 13, "click_id": 5}]})
    assert (answer.status_code, answer.json()) == (202, {"accepted": 2, "duplicate": 0})
    assert written(home) == [Click(int(click_id(12)), 12, NOW_US), Click(5, 13, NOW_US)]
    ((record, _),) = [found for path in segments(home) for found in read(path)]
    assert record.arrived_us == NOW_US


def test_one_click_needs_no_list(ask: TestClient, home: Home) -> None:
    assert ask.post("/v1/events", json={"impression_id": 12}).json() == {"accepted": 1, "duplicate": 0}
    assert [click.impression_id for click in written(home)] == [12]


def test_no_model_is_needed_to_take_clicks(ask: TestClient) -> None:
    assert ask.get("/readyz").status_code == 503
    assert ask.post("/v1/events", json={"impression_id": 12}).status_code == 202


@given(st.lists(st.tuples(st.integers(0, 2**63 - 1), st.booleans()), min_size=1, max_size=20))
def test_ids_are_numbers_or_decimal_strings_and_derived_alike(ids: list[tuple[int, bool]]) -> None:
    made = completed([SentClick(str(number) if text else number) for number, text in ids], NOW_US, True)
    numbers = np.array([number for number, _ in ids], np.int64)
    assert [click.impression_id for click in made] == numbers.tolist()
    assert [click.click_id for click in made] == click_id(numbers).tolist()


def test_sending_again_is_acknowledged_and_not_written_again(ask: TestClient, home: Home) -> None:
    body = {"clicks": [{"impression_id": 12}, {"impression_id": "13"}, {"impression_id": 13}]}
    assert ask.post("/v1/events", json=body).json() == {"accepted": 2, "duplicate": 1}
    assert ask.post("/v1/events", json=body).json() == {"accepted": 0, "duplicate": 3}
    other = {"clicks": [{"impression_id": 13, "click_id": 8}, {"impression_id": 14, "click_id": str(int(click_id(12)))}]}
    assert ask.post("/v1/events", json=other).json() == {"accepted": 1, "duplicate": 1}
    assert [click.impression_id for click in written(home)] == [12, 13, 13]


def test_memory_of_ids_is_bounded_and_forgets_the_oldest(home: Home) -> None:
    with closing(ClickIntake(home, recent=3)) as intake:
        intake.open(FixedClock(NOW_US))
        receipts = [intake.take([SentClick(number)]) for number in (1, 2, 3, 3, 4, 2, 1)]
    assert [receipt.duplicate for receipt in receipts] == [0, 0, 0, 1, 0, 1, 0]


AT = datetime.fromtimestamp(NOW_US / 1e6, UTC)


@pytest.mark.parametrize(
    ("sent", "at_us"),
    [
        (NOW_US - 5, NOW_US - 5),
        ((AT - timedelta(seconds=90)).isoformat(), NOW_US - 90_000_000),
        ((AT - timedelta(seconds=90)).astimezone(timezone(timedelta(hours=5, minutes=30))).isoformat(), NOW_US - 90_000_000),
        ("2026-01-04T23:59:59.123456Z", NOW_US - 876_544),
        (NOW_US + MINUTE_US, NOW_US),  # clocks differ: not before it arrived
        (NOW_US - PAST_US, NOW_US - PAST_US),
        (None, NOW_US),
    ],
)
def test_times_are_microseconds_or_text(ask: TestClient, home: Home, sent: int | str | None, at_us: int) -> None:
    answer = ask.post("/v1/events", json={"impression_id": 1, "time": sent})
    assert answer.status_code == 202, answer.text
    assert [click.time_us for click in written(home)] == [at_us]


def test_a_click_may_be_as_late_as_ingestion_waits_for_its_impression() -> None:
    assert PAST_US == WAIT_DAYS * DAY_US


@pytest.mark.parametrize(
    ("click", "field"),
    [
        ({"time": NOW_US + MINUTE_US + 1}, "time"),
        ({"time": NOW_US - PAST_US - 1}, "time"),
        ({"time": NOW_US // 1000}, "time"),  # milliseconds
        ({"time": "2026-01-05T00:00:00"}, "time"),  # which zone?
        ({"time": "yesterday"}, "time"),
        ({"time": 1.5}, "time"),
        ({"time": 2**70}, "time"),
        ({"time": "9999-12-31T23:59:59Z"}, "time"),
        ({"impression_id": -1}, "impression_id"),
        ({"impression_id": 2**63}, "impression_id"),
        ({"impression_id": str(2**63)}, "impression_id"),
        ({"impression_id": "12a"}, "impression_id"),
        ({"impression_id": "１２"}, "impression_id"),
        ({"impression_id": ""}, "impression_id"),
        ({"impression_id": None}, "impression_id"),
        ({"impression_id": 1.0}, "impression_id"),
        ({"impression_id": True}, "impression_id"),
        ({"click_id": -1}, "click_id"),
        ({"click_id": "9" * 20}, "click_id"),
        ({"user_id": 3}, "user_id"),
    ],
)
def test_a_wrong_field_is_named_and_nothing_is_taken(ask: TestClient, home: Home, click: dict[str, Any], field: str) -> None:
    one = {"impression_id": 7, **click}
    for body, named in ((one, field), ({"clicks": [{"impression_id": 5}, one]}, f"clicks[1].{field}")):
        answer = ask.post("/v1/events", json=body)
        assert (answer.status_code, answer.json()["error"]["field"]) == (422, named)
        assert answer.json()["error"]["message"]
    assert written(home) == []
    assert ask.post("/v1/events", json={"impression_id": 5}).json()["accepted"] == 1  # nor remembered


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "impression_id"),
        ({"clicks": []}, "clicks"),
        ({"clicks": None}, "clicks"),
        ({"clicks": [{"impression_id": i} for i in range(MAX_CLICKS + 1)]}, "clicks"),
        ({"clicks": [{"impression_id": 1}], "impression_id": 1}, "impression_id"),
        ({"clicks": [{}]}, "clicks[0].impression_id"),
        ([], None),
        (3, None),
    ],
)
def test_a_body_of_another_form_is_explained(ask: TestClient, home: Home, body: Any, field: str | None) -> None:
    answer = ask.post("/v1/events", json=body)
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, field)
    assert written(home) == []


def test_the_most_clicks_fit_with_all_their_fields(ask: TestClient) -> None:
    ids = [str(2**63 - 1 - i) for i in range(MAX_CLICKS)]
    time_ = AT.astimezone(timezone(timedelta(hours=1))).isoformat(timespec="microseconds")
    body = {"clicks": [{"impression_id": i, "time": time_, "click_id": i} for i in ids]}
    assert ask.post("/v1/events", json=body).json() == {"accepted": MAX_CLICKS, "duplicate": 0}


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'{"impression_id": "\xff"}', b'{"clicks":' + b"[" * 3000])
def test_what_is_not_json_is_refused(ask: TestClient, home: Home, body: bytes) -> None:
    answer = ask.post("/v1/events", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422)
    assert answer.json()["error"]["message"]
    assert written(home) == []


def test_a_body_of_another_type_or_too_long_is_refused(asker: Asker, home: Home) -> None:
    ask = asker(max_body_bytes=100)
    assert ask.post("/v1/events", content=b"impression_id=5").status_code == 415
    assert ask.post("/v1/events", json={"clicks": [{"impression_id": i} for i in range(50)]}).status_code == 413
    assert written(home) == []


def bearer(token: str | bytes) -> dict[str, bytes]:
    return {"Authorization": b"Bearer " + (token if isinstance(token, bytes) else token.encode())}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": ""},
        {"Authorization": TOKEN},
        {"Authorization": f"Basic {TOKEN}"},
        bearer(""),
        bearer(TOKEN[:-1]),
        bearer(TOKEN + "x"),
        bearer("ä".encode("latin-1")),
        {"X-Drill-Token": TOKEN},
    ],
)
def test_without_the_token_nobody_writes(asker: Asker, home: Home, headers: dict[str, Any]) -> None:
    answer = asker(write_token=TOKEN).post("/v1/events", json={"impression_id": 1}, headers=headers)
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert "Authorization: Bearer" in answer.json()["error"]["message"]
    assert written(home) == []


@pytest.mark.parametrize("client", [LOCAL, ("203.0.113.9", 4000)])
def test_with_the_token_one_writes_from_anywhere(asker: Asker, home: Home, client: tuple[str, int]) -> None:
    ask = asker(client, write_token=TOKEN)
    assert ask.post("/v1/events", json={"impression_id": 1}, headers=bearer(TOKEN)).status_code == 202
    assert ask.post("/v1/events", json={"impression_id": 2}, headers={"authorization": f"bEaReR {TOKEN}"}).status_code == 202
    assert len(written(home)) == 2


def test_the_token_is_asked_for_before_the_body_is_read(asker: Asker) -> None:
    assert asker(write_token=TOKEN).post("/v1/events", content=b"x" * 10**6).status_code == 401


@pytest.mark.parametrize("host", ["203.0.113.9", "10.0.0.5", "::ffff:10.0.0.5", "testclient", ""])
def test_without_a_token_set_only_this_machine_writes(asker: Asker, home: Home, host: str) -> None:
    answer = asker((host, 4000)).post("/v1/events", json={"impression_id": 1}, headers=bearer(""))
    assert answer.status_code == 403
    assert "CLICKPROOF_WRITE_TOKEN" in answer.json()["error"]["message"]
    assert written(home) == []


def test_what_loopback_is() -> None:
    assert all(map(on_loopback, ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1"]))
    assert not any(map(on_loopback, ["0.0.0.0", "::", "localhost.example.com", "192.168.0.1"]))


def test_the_token_is_said_nowhere(asker: Asker, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    caplog.set_level(logging.DEBUG)
    ask = asker(write_token=TOKEN)
    answers = [ask.post("/v1/events", json={"impression_id": 1}, headers=bearer(given)) for given in (TOKEN, TOKEN + "x", "")]
    seen = [answer.text for answer in answers] + [ask.get(path).text for path in ("/metrics", "/openapi.json", "/readyz")]
    settings = Settings(write_token=TOKEN)
    seen += [repr(settings), str(settings), settings.model_dump_json(), caplog.text, *capfd.readouterr()]
    assert not any(TOKEN in text for text in seen)
    assert settings.write_token == SecretStr(TOKEN)


def test_before_the_intake_is_open_clients_are_told_to_try_again(asker: Asker) -> None:
    answer = asker(opened=False).post("/v1/events", json={"impression_id": 1})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert "readyz" in answer.json()["error"]["message"]


def test_outcomes_are_counted(ask: TestClient) -> None:
    ask.post("/v1/events", json={"clicks": [{"impression_id": 1}, {"impression_id": 1}, {"impression_id": 2}]})
    ask.post("/v1/events", json={})
    lines = ask.get("/metrics").text.splitlines()
    for line in (
        'clickproof_clicks_total{outcome="accepted"} 2.0',
        'clickproof_clicks_total{outcome="duplicate"} 1.0',
        'clickproof_requests_total{route="events",status="202"} 1.0',
        'clickproof_requests_total{route="events",status="422"} 1.0',
    ):
        assert line in lines


def test_the_openapi_document_describes_both_bodies(ask: TestClient) -> None:
    document = ask.get("/openapi.json").json()
    operation = document["paths"]["/v1/events"]["post"]
    assert set(operation["responses"]) == {"202", "400", "401", "403", "413", "415", "422", "503"}
    references = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)))
    assert {"SentClicks", "SentClick", "Receipt", "ErrorAnswer", "RankBody"} <= references
    assert references <= set(document["components"]["schemas"])


def test_loading_again_does_not_open_again(home: Home) -> None:
    """A server tries again and again to load its model, with all that comes before."""
    with closing(ClickIntake(home)) as intake:
        for _ in range(3):
            intake.open(FixedClock(NOW_US))
        assert len(segments(home)) == 1


def test_the_end_of_the_server_closes_its_segment(home: Home) -> None:
    before = set(threading.enumerate())
    for number, clicks in enumerate((1, 0)):
        with TestClient(server(home), client=LOCAL) as client:
            wait_loaded(client)
            assert len(segments(home)) == number + 1
            for _ in range(clicks):
                client.post("/v1/events", json={"impression_id": 1})
        assert len(segments(home)) == 1  # an empty one leaves nothing
    assert not [thread for thread in set(threading.enumerate()) - before if thread.name == "fsync"]


def test_the_documented_commands_work(asker: Asker, home: Home) -> None:
    """Every `curl` of docs/events.md, as its words say."""
    commands = re.findall(r"^```\n(curl .*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(commands) >= 2
    open_to_all, guarded = asker(), asker(("203.0.113.9", 4000), write_token=TOKEN)
    for command in commands:
        words = shlex.split(command.replace("$CLICKPROOF_WRITE_TOKEN", TOKEN))
        options = list(pairwise(words))
        (url,) = (word for word in words if word.startswith("http://127.0.0.1:8000"))
        headers = dict(value.split(": ", 1) for flag, value in options if flag == "-H")
        (body,) = (value for flag, value in options if flag == "-d")
        ask = guarded if "Authorization" in headers else open_to_all
        answer = ask.post(url.removeprefix("http://127.0.0.1:8000"), content=body, headers=headers)
        assert answer.status_code == 202, (command, answer.text)
    assert len(written(home)) >= len(commands)
