"""`clickproof serve` as a process of its own on a small market, spoken to over sockets: for tests of what outsiders may do."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from http.client import parse_headers
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from patience import PATIENCE_S
from ports import free_port

CANARY = "c4n4ry-of-a-person"  # stands for what people would not like to find in a log
JSON = {"Content-Type": "application/json"}
PROGRAM = "from pipelines.cli import app\napp()"
GOOD = {"user_id": 3, "candidates": [1, 2, 3, 4, 5], "slots": 2, "context": {"device": "mobile", "page_topic": 3}}


@dataclass(frozen=True)
class Said:
    """An answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def message(self) -> str:
        """What an error says; fails where it is not in the form that all of them have."""
        said = json.loads(self.body)["error"]
        assert set(said) == {"field", "message"}
        return str(said["message"])


@dataclass(frozen=True)
class RealServer:
    """A running server."""

    port: int
    process: "subprocess.Popen[bytes]"
    log: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        """End it as a user does, and wait until it is over; fails the test where that takes too long."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(PATIENCE_S)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)

    def send(self, *parts: bytes, method: str = "POST") -> Said | None:
        """The first answer to these bytes on a connection of their own; None where it is closed without one."""
        return next(iter(self.talk(*parts, method=method, most=1)), None)

    def talk(self, *parts: bytes, method: str = "POST", most: int = 1000) -> list[Said]:
        """The answers to these bytes on a connection of their own, in order, until it is closed or there are `most`."""
        with closing(self.connect()) as link, closing(link.makefile("rb")) as stream:
            with suppress(BrokenPipeError, ConnectionResetError):  # answered and closed before the end
                for part in parts:
                    link.sendall(part)
            return list(islice(answers(stream, method), most))

    def rank(self, body: bytes | Any, **headers: str) -> Said:
        """The answer to POST /v1/rank with this body, as it is or as JSON."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        said = self.send(request("POST", "/v1/rank", content, {**JSON, **headers}))
        assert said is not None
        return said

    def is_well(self) -> bool:
        """Whether a good request gets its slate."""
        said = self.rank(GOOD)
        return said.status == 200 and len(json.loads(said.body)["ads"]) == 2


def request(method: str, path: str, body: bytes = b"", headers: Mapping[str, str] = JSON) -> bytes:
    """A whole request."""
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def answers(stream: BinaryIO, method: str = "POST") -> Iterator[Said]:
    """What comes on a connection until it is closed.  Every answer of ours has a Content-Length."""
    with suppress(ConnectionResetError):
        while line := stream.readline():
            assert line.startswith(b"HTTP/1.1 "), line
            status, headers = int(line.split()[1]), parse_headers(stream)
            if status == 100:
                continue
            body = b"" if method == "HEAD" else stream.read(int(headers["content-length"]))
            yield Said(status, dict(headers), body)


@contextmanager
def serving(state: Path, log: Path, program: str = PROGRAM, status: int = 200, **settings: object) -> Iterator[RealServer]:
    """`clickproof serve` for the tiny market of `state`, with these settings, until the end of the block; `status` is what
    /readyz comes to answer."""
    port = free_port()
    told = {f"CLICKPROOF_{name.upper()}": str(value) for name, value in settings.items()}
    command = [sys.executable, "-c", program, "serve", "--size", "tiny", "--home", str(state)]
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env={**os.environ, **told, "CLICKPROOF_PORT": str(port)})
    server = RealServer(port, process, log)
    try:
        _wait_ready(server, status)
        yield server
    finally:
        server.stop()


def _wait_ready(server: RealServer, status: int) -> None:
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end and server.process.poll() is None:
        try:
            said = server.send(request("GET", "/readyz"))
        except ConnectionRefusedError:
            said = None
        if said is not None and said.status == status and b"being loaded" not in said.body:
            return
        time.sleep(0.1)
    raise AssertionError(f"the server was not ready:\n{server.log.read_text()}")
