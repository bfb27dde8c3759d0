"""Incidents on disk, people's words on them, and a webhook that may be there or not."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up_findings import found

from infra.errors import ExplainedError
from infra.home import Home
from infra.settings import Settings
from monitoring.incidents import Incident
from pipelines.incident_store import IncidentStore, plain
from pipelines.incidents_command import incidents_command


def incident(number: int = 1, state: Any = "new") -> dict[str, Any]:
    made = Incident(number, state, 7200 * 10**6, 7200 * 10**6, "page")
    made.take_in([found("nulls-up", "price", 3.0, guess="null-spike", share=np.float64(0.2))])
    return made.as_json()


class Listener:
    """A server that answers with `status` and keeps what it was sent."""

    def __init__(self, status: int = 200) -> None:
        heard: list[Any] = []

        class Answer(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(status)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Silent."""

        self.heard = heard
        self.server = HTTPServer(("127.0.0.1", 0), Answer)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def listener() -> Iterator[Listener]:
    listening = Listener()
    yield listening
    listening.stop()


def test_what_changes_is_appended_and_the_last_line_counts(tmp_path: Path) -> None:
    store = IncidentStore(Home(tmp_path))
    assert store.all() == {}
    for at in range(5):
        store.record([incident()], at)
    store.record([incident(state="resolved"), incident(2)], 9)
    lines = store.path.read_text().splitlines()
    assert [json.loads(line)["at_us"] for line in lines] == [0, 9, 9]
    assert {n: i["state"] for n, i in IncidentStore(Home(tmp_path)).all().items()} == {1: "resolved", 2: "new"}


def test_a_line_that_a_crash_cut_short_is_left_out(tmp_path: Path) -> None:
    store = IncidentStore(Home(tmp_path))
    store.record([incident()], 0)
    with store.path.open("a") as file:
        file.write('{"number": 1, "sta')
    assert store.one(1)["state"] == "new"


def test_people_say_what_it_was(tmp_path: Path) -> None:
    store = IncidentStore(Home(tmp_path))
    store.record([incident(), incident(2)], 0)
    assert store.say(1, "normal", 1)["state"] == "acknowledged"
    assert store.say(2, "false-alarm", 2)["state"] == "false-alarm"
    assert store.said() == {1: "normal", 2: "false-alarm"}
    assert store.one(2)["class"] == "null-spike"
    with pytest.raises(ExplainedError, match="is false-alarm already"):
        store.say(2, "ack", 3)
    with pytest.raises(ExplainedError, match=r"no incident 7 in .*; there are: 1, 2"):
        store.say(7, "ack", 3)


def test_the_webhook_is_told_of_new_states_only(tmp_path: Path, listener: Listener) -> None:
    store = IncidentStore(Home(tmp_path), listener.url)
    store.record([incident()], 0)
    store.record([incident()], 1)
    store.say(1, "ack", 2)
    store.record([incident(state="resolved")], 3)
    assert [(told["number"], told["state"]) for told in listener.heard] == [(1, "new"), (1, "acknowledged"), (1, "resolved")]
    assert listener.heard[0]["runbook"]["first"]
    assert (store.told, store.untold) == (3, 0)


@pytest.mark.parametrize("broken", ["refuses", "is not there"])
def test_a_webhook_that_fails_breaks_nothing(tmp_path: Path, broken: str, caplog: pytest.LogCaptureFixture) -> None:
    listening = Listener(500)
    if broken == "is not there":
        listening.stop()
    store = IncidentStore(Home(tmp_path), listening.url)
    store.record([incident()], 0)
    if broken == "refuses":
        listening.stop()
    assert (store.told, store.untold) == (0, 1)
    assert "was not told of incident 1" in caplog.text
    assert store.one(1)["state"] == "new"


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/x", "http://", "example.org/hook"])
def test_a_webhook_must_be_http(tmp_path: Path, url: str) -> None:
    with pytest.raises(ExplainedError, match="must begin with http"):
        IncidentStore(Home(tmp_path), url)


def test_the_report_of_the_day_is_linked_where_one_was_drawn(tmp_path: Path) -> None:
    home = Home(tmp_path)
    store = IncidentStore(home)
    store.record([incident()], 0)
    assert store.one(1)["report"] is None
    page = home.writing(home.reports / "drift-1970-01-01.html")
    page.touch()
    store.record([incident(2)], 0)
    assert store.one(2)["report"] == str(page)


def test_the_command_lists_shows_and_changes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = Settings(home=tmp_path)
    incidents_command(chosen, "list", None, False)
    assert "no incidents" in capsys.readouterr().out
    IncidentStore(chosen.base()).record([incident()], 0)
    incidents_command(chosen, "ack", 1, False)
    incidents_command(chosen, "list", None, False)
    assert "acknowledged" in capsys.readouterr().out
    incidents_command(chosen, "show", 1, False)
    shown = capsys.readouterr().out
    assert "null-spike in price" in shown
    assert "look first: " in shown
    incidents_command(chosen, "show", 1, True)
    assert json.loads(capsys.readouterr().out)["said"] == "ack"
    with pytest.raises(ExplainedError, match="needs the incident's number"):
        incidents_command(chosen, "show", None, False)
    with pytest.raises(ExplainedError, match="there are list, show N"):
        incidents_command(chosen, "heal", 1, False)


def test_numbers_that_json_does_not_know_become_plain() -> None:
    assert plain({"a": np.float64(0.5), "b": (np.int64(2), float("inf")), "c": {Path("x")}}) == {
        "a": 0.5,
        "b": [2, None],
        "c": ["x"],
    }
