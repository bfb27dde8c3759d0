"""The short way to POST /v1/rank: HTTP's corners, one connection's order, and what happens when too many wait."""

import json
import socket
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from front_door_server import client_of, running
from patience import PATIENCE_S, until
from slow_models import PausingArtefact, SlowArtefact, slow
from small_world import DictSource
from test_app import BODY, service

from infra.settings import Settings
from serving.app import create_app
from serving.prediction_log import read, segments
from serving.waiting_room import Pace, WaitingRoom


def message(body: bytes, *headers: str, path: str = "/v1/rank", version: str = "1.1") -> bytes:
    head = [
        f"POST {path} HTTP/{version}",
        "Host: localhost",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *headers,
    ]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def asked(request_id: int) -> bytes:
    return json.dumps(BODY | {"request_id": request_id}).encode()


def answers(link: socket.socket, count: int) -> list[tuple[bytes, bytes]]:
    """(head, body) of `count` answers on a connection, in the order in which they come."""
    found, data = [], b""
    while len(found) < count:
        part = link.recv(65536)
        if not part:
            break
        data += part
        while b"\r\n\r\n" in data:
            head, _, rest = data.partition(b"\r\n\r\n")
            length = next(
                int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
            )
            if len(rest) < length:
                break
            found.append((head, rest[:length]))
            data = rest[length:]
    return found


@pytest.fixture
def port(home):
    app = create_app(lambda: service(home), Settings())
    with running(app) as port:
        while app.state.rank.state.service is None:
            time.sleep(0.005)
        yield port


def test_pipelined_requests_are_answered_in_their_order(port):
    """Those behind one that isn't answered yet take the long way, and so do other paths between them."""
    with socket.create_connection(("127.0.0.1", port)) as link:
        health = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
        link.sendall(b"".join([message(asked(1)), message(asked(2)), health, message(asked(3))]))
        found = answers(link, 4)
    assert [json.loads(body).get("request_id", "health") for _, body in found] == [1, 2, "health", 3]


def test_a_body_may_come_in_pieces_and_connections_are_kept(port):
    with socket.create_connection(("127.0.0.1", port)) as link:
        for number in range(3):
            whole = message(asked(number))
            for at in range(0, len(whole), 37):
                link.sendall(whole[at : at + 37])
            ((head, body),) = answers(link, 1)
            assert head.startswith(b"HTTP/1.1 200 OK\r\n")
            assert b"date: " in head
            assert json.loads(body)["request_id"] == number


def test_who_asks_before_sending_is_told_to_go_on(port):
    with socket.create_connection(("127.0.0.1", port)) as link:
        whole = message(asked(5), "Expect: 100-continue")
        head, _, body = whole.partition(b"\r\n\r\n")
        link.sendall(head + b"\r\n\r\n")
        assert link.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        link.sendall(body)
        assert json.loads(answers(link, 1)[0][1])["request_id"] == 5


@pytest.mark.parametrize(("headers", "version"), [(["Connection: close"], "1.1"), ([], "1.0")])
def test_a_connection_is_closed_where_that_is_asked(port, headers, version):
    with socket.create_connection(("127.0.0.1", port)) as link:
        link.sendall(message(asked(6), *headers, version=version))
        ((head, body),) = answers(link, 1)
        assert b"connection: close" in head.lower()
        assert json.loads(body)["request_id"] == 6
        assert link.recv(10) == b""


def test_a_client_that_leaves_harms_nobody(port):
    for cut in (20, 90, 150):
        with socket.create_connection(("127.0.0.1", port)) as link:
            link.sendall(message(asked(7))[:cut])
    with socket.create_connection(("127.0.0.1", port)) as link:
        link.sendall(message(asked(8)))
        link.close()
    with socket.create_connection(("127.0.0.1", port)) as link:
        link.sendall(message(asked(9)))
        assert json.loads(answers(link, 1)[0][1])["request_id"] == 9


class Poisoned(DictSource):
    def fetch(self, requests):
        if (requests.user_id == 13).any():
            raise KeyError("this user breaks something")
        return super().fetch(requests)


@pytest.mark.parametrize(
    ("artefact", "settings", "why"),
    [
        (SlowArtefact(), Settings(micro_batch=1, max_waiting=3, max_wait_ms=60_000), "full"),
        (SlowArtefact(), Settings(micro_batch=1, max_waiting=1000, max_wait_ms=100), "full"),  # 5 can be answered in time
        (PausingArtefact(), Settings(micro_batch=1, max_waiting=1000, max_wait_ms=500), "late"),
    ],
)
def test_what_is_too_much_is_refused_with_a_time_to_ask_again_and_the_rest_is_answered(home, artefact, settings, why):
    app = create_app(lambda: slow(home, artefact), settings)
    with client_of(app) as client, ThreadPoolExecutor(16) as pool:
        while client.get("/readyz").status_code != 200:
            time.sleep(0.01)
        found = list(pool.map(lambda i: client.post("/v1/rank", json=BODY | {"request_id": i}), range(48)))
        statuses = Counter(answer.status_code for answer in found)
        assert set(statuses) == {200, 503}
        assert all(answer.headers["retry-after"] == "1" for answer in found if answer.status_code == 503)
        shed = f'clickproof_shed_total{{why="{why}"}} {statuses[503]}.0'
        text = client.get("/metrics").text
        assert shed in text
        until(lambda: client.post("/v1/rank", json=BODY).status_code == 200)  # a busy machine may be late once more
    logged = {record.request_id for path in segments(home) for record, _ in read(path)}
    assert {answer.json()["request_id"] for answer in found if answer.status_code == 200} <= logged


KEPT_S = 5.0  # uvicorn keeps a connection for so long on which nothing comes


class Shut(WaitingRoom):
    """Full for as long as the test says so."""

    shut = False

    @property
    def full(self) -> bool:
        return self.shut


@pytest.fixture
def shut(home):
    """(port, room) of a server that has a model."""
    app = create_app(lambda: service(home), Settings())
    room = Shut(app.state.rank)
    with running(app, room) as port:
        until(lambda: app.state.rank.state.service is not None)
        yield port, room


def test_who_is_refused_keeps_the_connection_and_its_order(shut):
    port, room = shut
    one = message(asked(1))
    with socket.create_connection(("127.0.0.1", port)) as link:

        def said(count: int = 1) -> list[int]:
            return [int(head[9:12]) for head, _ in answers(link, count)]

        room.shut = True
        for _ in range(2):  # the first one of a connection, and one more
            link.sendall(one)
            assert said() == [503]
        link.sendall(one + one)
        assert said(2) == [503, 503]
        for part in (one[:70], one[70:-5], one[-5:]):
            link.sendall(part)
            time.sleep(0.02)
        assert said() == [503]
        room.shut = False
        link.sendall(one[:100])
        time.sleep(0.02)
        room.shut = True
        link.sendall(one[100:])
        assert said() == [503]
        room.shut = False
        link.sendall(one + one)
        assert said(2) == [200, 200]
        room.shut = True
        link.sendall(message(asked(1), "Connection: close"))
        ((head, body),) = answers(link, 1)
        assert head.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1" in head
        assert json.loads(body)["error"]["message"].startswith("too many")
        assert link.recv(10) == b""


def test_a_connection_on_which_all_is_refused_counts_as_used(shut):
    port, room = shut
    with socket.create_connection(("127.0.0.1", port)) as link:
        link.sendall(message(asked(1)))
        assert answers(link, 1)[0][0].startswith(b"HTTP/1.1 200 ")
        room.shut = True
        began = time.monotonic()
        while time.monotonic() - began < KEPT_S + 1.0:
            time.sleep(0.2)
            link.sendall(message(asked(1)))
            assert answers(link, 1)[0][0].startswith(b"HTTP/1.1 503 ")
        link.settimeout(PATIENCE_S)
        assert link.recv(10) == b""  # in the end it is closed, like any idle one


def test_the_pace_follows_what_is_seen_and_one_pause_says_little():
    pace, now = Pace(), 0
    for took in [8_000] * 3 + [8_000_000] + [8_000] * 3:
        pace.began(now)
        pace.ended(8)
        now += took
    assert 900 < pace.each_ns < 1100
    pace.began(now)  # nobody waits behind this one: how long it is until the next is no matter of pace
    before = pace.each_ns
    pace.began(now + 10**9)
    assert pace.each_ns == before
    for _ in range(100):
        pace.began(now)
        pace.ended(8)
        now += 40_000
    assert pace.each_ns == pytest.approx(5_000, rel=0.1)


def test_requests_that_wait_together_are_scored_together(home):
    app = create_app(lambda: slow(home, SlowArtefact()), Settings(micro_batch=8, max_wait_ms=60_000))
    calls: list[int] = []
    with client_of(app) as client, ThreadPoolExecutor(8) as pool:
        while client.get("/readyz").status_code != 200:
            time.sleep(0.01)
        scorer = app.state.rank.state.service.scorer
        many = scorer.rank_many
        scorer.rank_many = lambda requests: calls.append(len(requests)) or many(requests)
        found = list(pool.map(lambda i: client.post("/v1/rank", json=BODY | {"request_id": i}), range(40)))
        scorer.source = Poisoned()
        users = [1, 2, 3, 4, 13, 1, 2, 3]
        mixed = list(pool.map(lambda user: client.post("/v1/rank", json=BODY | {"user_id": user}).status_code, users))
    assert [answer.json()["request_id"] for answer in found] == list(range(40))
    assert 1 < max(calls) <= 8
    assert mixed == [500 if user == 13 else 200 for user in users]


def test_stopping_answers_those_who_wait(home, monkeypatch):
    came, enter = [], WaitingRoom.enter
    monkeypatch.setattr(WaitingRoom, "enter", lambda room, door, turn: (came.append(turn), enter(room, door, turn)))
    app = create_app(lambda: slow(home, SlowArtefact()), Settings(max_wait_ms=60_000))
    with ThreadPoolExecutor(8) as pool, httpx.Client(timeout=PATIENCE_S) as client:
        with running(app) as port:
            url = f"http://127.0.0.1:{port}"
            while client.get(f"{url}/readyz").status_code != 200:
                time.sleep(0.01)
            ready = [pool.submit(client.get, f"{url}/readyz") for _ in range(64)]  # a connection for each of the eight
            assert all(answer.result().status_code == 200 for answer in ready)
            waiting = [pool.submit(client.post, f"{url}/v1/rank", json=BODY | {"request_id": i}) for i in range(8)]
            while len(came) < len(waiting):
                time.sleep(0.001)
        statuses = [answer.result().status_code for answer in waiting]
    # The server was told to stop when the last of the eight had arrived.
    assert statuses == [200] * 8
