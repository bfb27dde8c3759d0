"""The rollout of a running server: changed by whoever holds the token, followed by every worker, without one failed request."""

import json
import os
import re
import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from patience import PATIENCE_S, until
from real_server import GOOD, JSON, RealServer, Said, request, serving
from small_market import with_champion

from infra.home import Home
from infra.settings import Settings
from models.artefact import MANIFEST
from pipelines.incident_store import IncidentStore
from serving import rollout_store
from serving.prediction_log import read, segments
from serving.rollout import promote
from serving.shadow_log import segments as shadow_segments

TOKEN = "a-rollout-token-nobody-guesses"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
SWAPS = 20


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for --home with a champion and a second model."""
    state = tmp_path_factory.mktemp("rollouts")
    with_champion(Settings(home=state, size="tiny").base(), "xgboost")
    return state


@pytest.fixture
def state(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained, tmp_path / "state")
    return tmp_path / "state"


@pytest.fixture
def home(state: Path) -> Home:
    return Settings(home=state, size="tiny").base()


@pytest.fixture
def server(state: Path, tmp_path: Path) -> Iterator[RealServer]:
    with serving(state, tmp_path / "server.log", rollout_token=TOKEN, workers=2, max_wait_ms=60_000) as found:
        yield found


def hashes(home: Home) -> tuple[str, str]:
    """(the champion, the other one)."""
    champion = rollout_store.read(home).champion
    others = {path.parent.name for path in home.artefacts.glob(f"[!.]*/{MANIFEST}")} - {champion}
    return champion, others.pop()


def changed(server: RealServer, headers: dict[str, str] = BEARER, **body: Any) -> Said:
    content = json.dumps({"who": "test", "why": "to see", **body}).encode()
    said = server.send(request("POST", "/v1/rollout/changes", content, {**JSON, **headers}))
    assert said is not None
    return said


def model_of(server: RealServer) -> dict[str, Any]:
    said = server.send(request("GET", "/v1/model"))
    assert said is not None
    assert said.status == 200
    return dict(json.loads(said.body))


def everywhere(server: RealServer, number: int) -> None:
    """Return when several answers in a row, of whichever worker, follow that document."""
    until(lambda: all(model_of(server)["rollout"] == number for _ in range(12)))


def test_models_are_swapped_under_load_without_one_failed_request_and_every_answer_is_in_the_log(
    server: RealServer, home: Home
) -> None:
    stop, statuses, seen = threading.Event(), Counter[int](), []

    def ask(number: int) -> None:
        with httpx.Client(base_url=server.url, timeout=PATIENCE_S) as client:
            while not stop.is_set():
                answer = client.post("/v1/rank", json={**GOOD, "user_id": number})
                statuses[answer.status_code] += 1
                seen.append(answer.json()["request_id"] if answer.status_code == 200 else None)

    clients = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    one, other = hashes(home)
    for client in clients:
        client.start()
    try:
        for swap in range(SWAPS):
            number = rollout_store.change(
                home, "test", "swap", lambda now, name=(other, one)[swap % 2]: promote(now, name)
            ).number
            until(lambda number=number: model_of(server)["rollout"] == number)
        everywhere(server, SWAPS)
    finally:
        stop.set()
        for client in clients:
            client.join()
    assert set(statuses) == {200}
    found = [record for segment in segments(home) for record, _ in read(segment)]
    assert {record.request_id for record in found} == set(seen)
    assert {record.artefact for record in found} == {one, other}
    assert "Traceback" not in server.log.read_text()


def test_the_token_holder_changes_the_rollout_and_nobody_else(server: RealServer, home: Home) -> None:
    one, other = hashes(home)
    for headers in ({}, {"Authorization": "Bearer wrong-token-of-some-length"}):
        assert changed(server, headers, change="promote", artefact=other).status == 401
        said = server.send(request("GET", "/v1/rollout", headers={**JSON, **headers}))
        assert said is not None
        assert said.status == 401
    assert rollout_store.read(home).champion == one
    said = changed(server, change="canary", artefact=other, share=0.25, expected=0)
    assert said.status == 200
    told = json.loads(said.body)
    assert told["rollout"]["canary"]["artefact"] == other
    assert told["plan"]["canary"] == 0.25
    assert rollout_store.history(home)[-1].who == "test"
    until(lambda: model_of(server)["others"] == {"canary": other})
    late = changed(server, change="promote", artefact=other, expected=0)
    assert (late.status, "came first" in late.message) == (409, True)
    assert changed(server, change="rollback").status == 409  # there was no champion before
    assert changed(server, change="promote", artefact="0" * 16).status == 422
    assert changed(server, change="promote", artefact="short").status == 422
    assert changed(server, change="canary", artefact=other, share=0.9).status == 422
    assert changed(server, change="no such thing").status == 422
    assert changed(server, change="promote", artefact=other).status == 200
    until(lambda: model_of(server)["model"] == other)
    assert changed(server, change="rollback", why="worse").status == 200
    until(lambda: model_of(server)["model"] == one)
    assert TOKEN not in server.log.read_text()


def test_without_a_token_nothing_is_changed_by_http(state: Path, home: Home, tmp_path: Path) -> None:
    with serving(state, tmp_path / "log") as server:
        said = changed(server, change="promote", artefact=hashes(home)[1])
        assert said.status == 403
        assert "CLICKPROOF_ROLLOUT_TOKEN" in said.message


def test_a_damaged_model_is_refused_before_anything_changes(server: RealServer, home: Home) -> None:
    one, other = hashes(home)
    path = max((home.artefacts / other).iterdir(), key=lambda file: file.stat().st_size)
    path.write_bytes(path.read_bytes()[:-1])
    for change in ({"change": "canary", "share": 0.1}, {"change": "promote"}, {"change": "shadow"}):
        said = changed(server, artefact=other, **change)
        assert (said.status, "gets no traffic" in said.message) == (422, True)
    assert rollout_store.history(home) == ()
    assert model_of(server)["model"] == one


def test_a_canary_that_gets_no_requests_is_taken_out_by_the_servers_own_guard(state: Path, home: Home, tmp_path: Path) -> None:
    other = hashes(home)[1]
    with serving(state, tmp_path / "log", rollout_token=TOKEN, canary_grace_s=4, workers=2) as server:
        assert changed(server, change="canary", artefact=other, share=0.1).status == 200
        until(lambda: rollout_store.read(home).canary is None)
        assert rollout_store.history(home)[-1].who == "guard"
        until(lambda: model_of(server)["others"] == {})
        (incident,) = until(IncidentStore(home, "").all).values()
    assert incident["subject"] == other


def test_a_shadow_scores_beside_the_server_and_ends_with_it(server: RealServer, home: Home) -> None:
    other = hashes(home)[1]
    assert changed(server, change="shadow", artefact=other).status == 200
    until(lambda: model_of(server)["shadows"] == [other])
    until(lambda: shadow_segments(home))

    def scored() -> bool:
        assert server.rank(GOOD).status == 200
        return any(path.stat().st_size for path in shadow_segments(home))

    until(scored)
    said = httpx.get(f"{server.url}/metrics").text
    assert 0 < float(re.search(r"^clickproof_shadows_behind_seconds (\S+)$", said, re.MULTILINE)[1]) < PATIENCE_S
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    server.stop()
    until(lambda: not any(os.path.exists(f"/proc/{child}") for child in children))
