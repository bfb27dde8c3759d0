"""What outsiders may do to a connection of a real server: nothing that is no HTTP gets a 5xx, nothing slow holds up others."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from real_server import GOOD, JSON, RealServer, Said, answers, request, serving

from serving.connections import PIPELINED, may_be_asked_by

BODY = json.dumps(GOOD).encode()
HEAD = b"POST /v1/rank HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
RANK = request("POST", "/v1/rank", BODY)
HEALTH = request("GET", "/healthz", headers={})
SECONDS = 1.5  # that the impatient server gives a client


def headed(*lines: str, body: bytes = BODY) -> bytes:
    """A request to rank with these lines in the place of its Content-Length."""
    return HEAD + "".join(f"{line}\r\n" for line in lines).encode("latin-1") + b"\r\n" + body


def no_harm(found: list[Said]) -> list[int]:
    """The statuses; fails where one is 5xx, or where an error is not in the form of errors."""
    for said in found:
        assert said.status < 500, said
        assert len(said.body) < 2000
        if said.status >= 400:
            assert said.message
    return [said.status for said in found]


# -- how long is the body? -------------------------------------------------------------------------------------------------


LIES = [
    ("Content-Length: -1",),
    ("Content-Length: +5",),
    ("Content-Length: 5, 5",),
    ("Content-Length: 5x",),
    ("Content-Length:",),
    ("Content-Length: 0x10",),
    ("Content-Length: " + "9" * 30,),
    ("Content-Length: " + "9" * 5000,),
    (f"Content-Length: {len(BODY)}", "Content-Length: 3"),
    (f"Content-Length: {len(BODY)}", "Transfer-Encoding: chunked"),
    ("Transfer-Encoding: chunked", "Content-Length: 3"),
    ("Transfer-Encoding: xchunked",),
    ("Transfer-Encoding: chunked, identity",),
    (f"Content-Length : {len(BODY)}",),
    (f"Content-Length: {len(BODY)}\x00",),
    (f"Content-Length: {len(BODY)}\rX: y",),
    ("No colon",),
    (": no name",),
    ("Name\x00: x",),
    (" folded: x",),
]


@pytest.mark.parametrize("lines", LIES)
def test_heads_that_lie_or_are_none_are_400_and_the_end(unharmed: RealServer, lines: tuple[str, ...]) -> None:
    assert no_harm(unharmed.talk(headed(*lines), RANK)) == [400]


def test_a_length_that_is_too_small_ends_the_connection(unharmed: RealServer) -> None:
    """The body ends too soon, and the rest of it is no request."""
    assert set(no_harm(unharmed.talk(headed(f"Content-Length: {len(BODY) - 10}")))) <= {400}


def test_the_largest_length_is_refused_before_a_byte_of_it_is_sent(unharmed: RealServer) -> None:
    said = unharmed.send(headed(f"Content-Length: {2**62}", body=b""))
    assert said is not None
    assert said.status == 413


CHUNKS = {
    "whole": (b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY), 200),
    "byte by byte": (b"".join(b"1\r\n%c\r\n" % byte for byte in BODY) + b"0\r\n\r\n", 200),
    "trailers": (b"%x\r\n%s\r\n0\r\nX: y\r\n\r\n" % (len(BODY), BODY), 200),
    "extension": (b"%x;a=b\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY), 200),
    "too long": (b"%x\r\n%s\r\n" % (300_000, b" " * 300_000), 413),
    "too many": (b"1\r\n \r\n" * 300_000, 413),
    "negative": (b"-1\r\n", 400),
    "huge": (b"f" * 17 + b"\r\n", 400),
    "no number": (b"x\r\n", 400),
}


@pytest.mark.parametrize(("chunks", "status"), CHUNKS.values(), ids=CHUNKS)
def test_bodies_in_chunks(unharmed: RealServer, chunks: bytes, status: int) -> None:
    said = unharmed.send(headed("Transfer-Encoding: chunked", body=chunks))
    assert said is not None
    assert no_harm([said]) == [status]


# -- heads -----------------------------------------------------------------------------------------------------------------


LONG_HEADS = {
    "many headers": headed(*(f"X-{i}: y" for i in range(10_000)), f"Content-Length: {len(BODY)}"),
    "a long header": headed("X: " + "y" * 1_000_000, f"Content-Length: {len(BODY)}"),
    "a long name": headed("X" * 1_000_000 + ": y", f"Content-Length: {len(BODY)}"),
    "a long address": request("GET", "/" + "x" * 1_000_000),
    "a long query": request("GET", "/healthz?" + "x" * 1_000_000),
    "just too long": request("GET", "/healthz?" + "x" * 16_384),
    "no end": b"GET /healthz HTTP/1.1\r\nX: " + b"y" * 50_000_000,
    "no end of the address": b"GET /" + b"y" * 50_000_000,
}


@pytest.mark.parametrize("head", LONG_HEADS.values(), ids=LONG_HEADS)
def test_long_heads_are_refused(unharmed: RealServer, head: bytes) -> None:
    found = unharmed.talk(*(head[at : at + 65_536] for at in range(0, len(head), 65_536)))
    assert no_harm(found) in ([431], [])  # none where bytes were still on their way: the connection is reset


def test_a_head_within_the_limit_is_read(unharmed: RealServer) -> None:
    assert no_harm(unharmed.talk(request("GET", "/healthz?" + "x" * 16_000), most=1)) == [200]


def most_memory(server: RealServer) -> int:
    """Bytes of memory that a server had when it had most."""
    (line,) = [line for line in Path(f"/proc/{server.pid}/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def test_memory_does_not_grow_with_a_head_that_never_ends(unharmed: RealServer) -> None:
    before = most_memory(unharmed)
    no_harm(unharmed.talk(HEAD + b"X: ", *([b"y" * 1_000_000] * 200)))
    no_harm(unharmed.talk(*([RANK * 1000] * 200)))
    assert most_memory(unharmed) - before < 50_000_000


METHODS = ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "HEAD"]


@pytest.mark.parametrize("method", METHODS)
def test_other_methods_are_405(unharmed: RealServer, method: str) -> None:
    headers = {**JSON, "X-HTTP-Method-Override": "POST"}
    said = unharmed.send(request(method, "/v1/rank", BODY, headers), method=method)
    assert said is not None
    assert (said.status, said.headers["allow"]) == (405, "POST")


FIRST_LINES = [
    b"BREW /v1/rank HTTP/1.1",
    b"post /v1/rank HTTP/1.1",
    b"CONNECT 127.0.0.1:22 HTTP/1.1",
    b"PRI * HTTP/2.0",
    b"GET /healthz HTTP/9.9",
    b"GET /healthz HTTP/1.1 x",
    b"GET\x00 /healthz HTTP/1.1",
    b"GET /\xff HTTP/1.1",
    b"GET /a\x00b HTTP/1.1",
    b"GET http:// HTTP/1.1",
    b"GET //[ HTTP/1.1",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
    b"\x00" * 100,
    b"{}",
]


@pytest.mark.parametrize("line", FIRST_LINES)
def test_first_lines_that_are_none(unharmed: RealServer, line: bytes) -> None:
    (status,) = no_harm(unharmed.talk(line + b"\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"))
    assert status in (400, 404)


PATHS = [
    "//v1/rank",
    "/v1//rank",
    "/v1/rank/",
    "/v1/./rank",
    "/v1/x/../rank",
    "/v1/rank/../model",
    "/v1/rank%00",
    "/v1/rank%2f",
    "/v1/rank;a=b",
    "/V1/RANK",
    "/../../etc/passwd",
    "/..%2f..%2fetc/passwd",
    "/%2e%2e/%2e%2e/etc/passwd",
    "/%ff",
    "/%",
    "/%zz",
    "*",
    "/\\evil.example/",
    "//evil.example/%2f..",
    "/docs",
    "/redoc",
    "/drill/inject",
    "/api/inject",
    "/static/../serving/app.py",
]


@pytest.mark.parametrize("path", PATHS)
def test_paths_that_are_no_routes_are_404(unharmed: RealServer, path: str) -> None:
    for method in ("GET", "POST"):
        said = unharmed.send(request(method, path, BODY if method == "POST" else b""))
        assert said is not None
        assert no_harm([said]) == [404]
        assert "location" not in said.headers


def test_an_encoded_path_is_the_path_and_a_query_changes_nothing(unharmed: RealServer) -> None:
    for path in ("/%761/rank", "/v1%2frank", "/v1/rank?slots=999&x=%00%ff", "http://127.0.0.1/v1/rank"):
        assert no_harm(unharmed.talk(request("POST", path, BODY), most=1)) == [200]


@pytest.mark.parametrize("upgrade", ["websocket", "h2c", "TLS/1.0"])
def test_nothing_is_upgraded(unharmed: RealServer, upgrade: str) -> None:
    """Of a request with a body uvicorn would drop the body, as if it were of the other protocol."""
    headers = {"Connection": "Upgrade", "Upgrade": upgrade, "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "eA=="}
    assert no_harm(unharmed.talk(request("GET", "/healthz", headers=headers), most=1)) == [200]
    said = unharmed.send(request("POST", "/v1/rank", BODY, {**JSON, **headers}))
    assert said is not None
    assert (said.status, "Upgrade" in said.message) == (400, True)


def test_old_clients_and_those_that_ask_first(unharmed: RealServer) -> None:
    old = RANK.replace(b"HTTP/1.1", b"HTTP/1.0")
    assert no_harm(unharmed.talk(old)) == [200]
    asks = headed(f"Content-Length: {len(BODY)}", "Expect: 100-continue", "Connection: close", body=b"")
    assert no_harm(unharmed.talk(asks, BODY)) == [200]


# -- by which name ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.evil.example", "a@127.0.0.1"]
)
def test_a_page_that_makes_its_name_lead_here_reads_nothing(unharmed: RealServer, host: str) -> None:
    for wanted in (RANK, HEALTH, request("GET", "/metrics"), request("GET", "/v1/model")):
        (said,) = unharmed.talk(wanted.replace(b"Host: 127.0.0.1", f"Host: {host}".encode()))
        assert said.status == 421
        assert "CLICKPROOF_ALLOWED_HOSTS" in said.message
        assert host not in said.message


def test_the_second_name_counts_too(unharmed: RealServer) -> None:
    (said,) = unharmed.talk(RANK.replace(b"Host: 127.0.0.1", b"Host: 127.0.0.1\r\nHost: evil.example"))
    assert said.status == 421


HOSTS = [
    (b"127.0.0.1", set(), True),
    (b"127.0.0.1:8000", set(), True),
    (b"10.1.2.3", set(), True),
    (b"[::1]", set(), True),
    (b"[::1]:8000", set(), True),
    (b"localhost:8000", {"localhost"}, True),
    (b"LOCALHOST", {"localhost"}, True),
    (b"localhost.", {"localhost"}, True),
    (b"ranker:80", {"ranker"}, True),
    (b"ranker", {"localhost"}, False),
    (b"", set(), False),
    (b"[evil]", set(), False),
    (b"::1", set(), False),
    (b"2130706433", set(), False),
    (b"evil\xff", set(), False),
    (b"evil", None, True),
]


@pytest.mark.parametrize(("host", "names", "may"), HOSTS)
def test_addresses_and_listed_names_are_fine(host: bytes, names: set[str] | None, may: bool) -> None:
    assert may_be_asked_by(host, None if names is None else frozenset(names)) is may


def test_a_server_listens_on_loopback_only_unless_told_otherwise(unharmed: RealServer) -> None:
    """The kernel's own list: local address and state, in hexadecimal digits; 0A is listening."""
    rows = [line.split() for table in ("tcp", "tcp6") for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]]
    mine = {row[1] for row in rows if row[1].endswith(f":{unharmed.port:04X}") and row[3] == "0A"}
    assert mine == {f"0100007F:{unharmed.port:04X}"}


def test_who_comes_through_a_proxy_on_this_machine_is_not_on_this_machine(unharmed: RealServer) -> None:
    """Without a write token only this machine may send clicks; a proxy says in a header for whom it asks."""
    click = b'{"impression_id": 1}'
    for headers, status in (
        ({}, 202),
        ({"X-Forwarded-For": "203.0.113.9"}, 403),
        ({"X-Forwarded-For": "127.0.0.1, 203.0.113.9"}, 403),
    ):
        said = unharmed.send(request("POST", "/v1/events", click, {**JSON, **headers}))
        assert said is not None
        assert said.status == status


# -- several at once -------------------------------------------------------------------------------------------------------


def test_requests_sent_ahead_are_answered_in_order(unharmed: RealServer) -> None:
    ahead = b"".join(request("POST", "/v1/rank", json.dumps(GOOD | {"request_id": i}).encode()) for i in range(PIPELINED))
    found = unharmed.talk(ahead, most=PIPELINED)
    assert [json.loads(said.body)["request_id"] for said in found] == list(range(PIPELINED))


def test_thousands_of_requests_sent_ahead_end_the_connection(unharmed: RealServer) -> None:
    assert len(unharmed.talk(RANK * 5000)) <= PIPELINED


# -- the impatient server --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def impatient(market_state: Path) -> Iterator[RealServer]:
    """A server that waits for a short time only and holds few connections."""
    with serving(market_state, market_state / "impatient.log", request_seconds=SECONDS, max_connections=20) as server:
        yield server


def is_closed(link: socket.socket) -> bool:
    """Waits until the server closes a connection; what it sends before is read."""
    with suppress(ConnectionResetError):
        while link.recv(65_536):
            pass
    return True  # a connection that stays open ends in socket.timeout


HALVES = {
    "nothing": b"",
    "half a first line": b"POST /v1/ra",
    "half a head": HEAD,
    "half a body": headed("Content-Length: 1000"),
    "half a chunk": headed("Transfer-Encoding: chunked", body=b"ff\r\n{"),
    "a request and half of another": HEALTH + HEAD,
    "a request and an empty line": HEALTH + b"\r\n",
    "more than was asked for": headed("Content-Length: 400000", body=b" " * 300_000),
}


@pytest.mark.parametrize("half", HALVES.values(), ids=HALVES)
def test_who_stops_sending_is_cut_off_and_holds_up_nobody(impatient: RealServer, half: bytes) -> None:
    with closing(impatient.connect()) as link:
        link.sendall(half)
        assert impatient.is_well()
        assert is_closed(link)


@pytest.mark.parametrize("part", [HEAD + b"X: ", headed("Transfer-Encoding: chunked", body=b"")], ids=["head", "body"])
def test_who_sends_byte_by_byte_is_cut_off(impatient: RealServer, part: bytes) -> None:
    drop = b"y" if part.endswith(b" ") else b"1\r\n \r\n"
    stop = threading.Event()
    with closing(impatient.connect()) as link:
        link.sendall(part)

        def dribble() -> None:
            with suppress(OSError):
                while not stop.wait(0.05):
                    link.sendall(drop)

        dribbling = threading.Thread(target=dribble)
        dribbling.start()
        try:
            assert impatient.is_well()
            assert is_closed(link)
        finally:
            stop.set()
            dribbling.join()


@pytest.mark.parametrize("pause_s", [0.0, 0.02], ids=["all at once", "one after the other"])
def test_who_does_not_take_the_answers_is_cut_off(impatient: RealServer, pause_s: float) -> None:
    """Answers of a megabyte or so wait in the system's buffers; then the server would have to keep them."""
    many = request("POST", "/v1/rank", json.dumps({"candidates": list(range(1000)), "slots": 1000}).encode())
    assert [said.status for said in impatient.talk(many * 3, most=3)] == [200] * 3
    before = most_memory(impatient)
    with closing(socket.socket()) as link:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        link.settimeout(60)
        link.connect(("127.0.0.1", impatient.port))
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            send_for_ever(link, many, pause_s)
        assert impatient.is_well()
    assert most_memory(impatient) - before < 3_000_000


def send_for_ever(link: socket.socket, what: bytes, pause_s: float) -> None:
    while True:
        link.sendall(what)
        threading.Event().wait(pause_s)


def test_more_connections_than_allowed_are_refused_and_leave_room_again(impatient: RealServer) -> None:
    with ExitStack() as stack:
        held = [stack.enter_context(closing(impatient.connect())) for _ in range(20)]
        with closing(impatient.connect()) as one_more, closing(one_more.makefile("rb")) as stream:
            (said,) = answers(stream)
        assert (said.status, "20 connections" in said.message) == (503, True)
        assert all(is_closed(link) for link in held)
    assert impatient.is_well()


def test_whoever_waits_between_requests_keeps_the_connection(impatient: RealServer) -> None:
    """uvicorn's keep-alive, five seconds, is longer than what this server waits within a request."""
    with closing(impatient.connect()) as link, closing(link.makefile("rb")) as stream:
        found = answers(stream)
        for pause_s in (SECONDS + 0.5, 0.0):
            link.sendall(RANK)
            assert next(found).status == 200
            threading.Event().wait(pause_s)


def test_a_slow_client_does_not_keep_the_server_from_ending(market_state: Path, tmp_path: Path) -> None:
    with serving(market_state, tmp_path / "log", request_seconds=SECONDS) as server, closing(server.connect()) as link:
        link.sendall(headed("Content-Length: 1000"))
        assert server.is_well()
        server.stop()
    assert "Traceback" not in server.log.read_text()


# -- anything --------------------------------------------------------------------------------------------------------------

PIECES = [
    b"POST /v1/rank HTTP/1.1\r\n",
    b"GET /healthz HTTP/1.1\r\n",
    b"Host: 127.0.0.1\r\n",
    b"Content-Type: application/json\r\n",
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Connection: close\r\n",
    b"Connection: Upgrade\r\n",
    b"Upgrade: h2c\r\n",
    b"Expect: 100-continue\r\n",
    *(b"\r\n", b"\n", b"\r", b" ", b":", b"\x00"),
    *(b"0\r\n\r\n", b"5\r\n{}   \r\n"),
    *(BODY, RANK, HEALTH),
]


@settings(
    max_examples=150,
    derandomize=True,
    deadline=None,
    database=None,
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(parts=st.lists(st.sampled_from(PIECES) | st.binary(max_size=20), max_size=12))
def test_any_pieces_of_http_in_any_order(unharmed: RealServer, parts: list[bytes]) -> None:
    with closing(unharmed.connect()) as link, closing(link.makefile("rb")) as stream:
        with suppress(BrokenPipeError, ConnectionResetError):
            link.sendall(b"".join(parts))
            link.shutdown(socket.SHUT_WR)  # so that nobody waits for the rest
        no_harm(list(answers(stream)))
