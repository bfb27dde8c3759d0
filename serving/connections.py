"""What a client may do to a connection: how long a request's head may be, how long it may take to come, how many connections
there may be, and by which names the server may be asked.

uvicorn with httptools has no such limits: it waits for ever for the rest of a request, and keeps a head of any length.  This is
its protocol with them; whoever breaks one gets a JSON error like any other, and is cut off.  Used by `serving.serve` and by the
control room.
"""

import asyncio
import ipaddress
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from typing import Any, ClassVar

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from infra.settings import Settings
from serving.messages import ErrorAnswer, Problem

AGAIN_S = 0.05  # between finding a client too slow and cutting it off
PIPELINED = 64  # requests sent ahead of their answers on one connection; programs that do this send some tens


@dataclass(frozen=True, slots=True)
class Limits:
    """See the settings of the same names."""

    head_bytes: int
    connections: int
    request_seconds: float
    names: frozenset[str] | None  # besides IP addresses; None for any

    @classmethod
    def of(cls, chosen: Settings) -> "Limits":
        given = [name.strip().lower() for name in chosen.allowed_hosts.split(",")]
        names = None if "*" in given else frozenset({"localhost", chosen.host.lower(), *given} - {""})
        return cls(chosen.max_head_bytes, chosen.max_connections, chosen.request_seconds, names)


def within_limits(chosen: Settings, door: "type[Connection] | None" = None) -> dict[str, Any]:
    """uvicorn's options for a server that holds the settings' limits and takes no upgrades; `door` is its protocol where that
    isn't `Connection` itself."""
    protocol = type("Door", (door or Connection,), {"limits": Limits.of(chosen)})
    return {"http": protocol, "ws": "none", "server_header": False}


@lru_cache(maxsize=256)
def may_be_asked_by(host: bytes, names: frozenset[str] | None) -> bool:
    """Whether a Host header names this server.

    A web page can make its own name lead to this machine (DNS rebinding) and then read what is served here.  It cannot do that
    with an address, so addresses are always fine, and names are if they are in the list.
    """
    if names is None:
        return True
    name, _, after = host.decode("latin-1").lower().rpartition("]")  # [IPv6]:port
    name = name.lstrip("[") if name else after.partition(":")[0].rstrip(".")
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name in names
    return True


class Refused(Exception):
    """Raised inside the parser's callbacks, which ends it; what to answer is in `Connection._refusal`."""


class Connection(HttpToolsProtocol):
    """One client's connection."""

    limits: ClassVar[Limits]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # always TCP here
        """See asyncio."""
        super().connection_made(transport)
        self._arriving: float | None = self.loop.time()  # since when the rest of a request is waited for
        self._stalled: float | None = None  # since when the client takes none of its answer
        self._late: float | None = None  # what was found to last too long, at the last look
        self._head_bytes: int | None = None  # of the head that is coming in; None when none is
        self._refusal: tuple[int, str] | None = None
        self._watch = self.loop.call_later(self.limits.request_seconds, self._look)
        if len(self.connections) > self.limits.connections:
            self._refuse(503, f"this server has {self.limits.connections} connections, the most it takes; try again shortly")

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        self._watch.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        if self._arriving is None:
            self._arriving = self.loop.time()
        if self._head_bytes is not None:  # a head that came with a packet's end is counted from the next packet on
            self._head_bytes += len(data)
        super().data_received(data)
        if self._head_bytes is not None and self._head_bytes > self.limits.head_bytes:
            self._refuse(*self._too_long())

    # -- what the parser finds; an exception here ends it, and uvicorn then calls `send_400_response` ----------------------

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._head_bytes = 0
        if self._arriving is None:
            self._arriving = self.loop.time()

    def on_headers_complete(self) -> None:
        """A request's head is here."""
        self.check_head()
        super().on_headers_complete()

    def check_head(self) -> None:
        """Raises Refused where a request's head breaks a limit."""
        self._head_bytes = None
        length = len(self.url)
        for name, value in self.headers:
            length += len(name) + len(value)
            if name == b"host" and not may_be_asked_by(value, self.limits.names):
                self._end(421, "this server is not asked by that name; CLICKPROOF_ALLOWED_HOSTS lists the names it has")
        if length > self.limits.head_bytes:
            self._end(*self._too_long())
        if (
            self.parser.should_upgrade() and self.parser.get_method() != b"GET"
        ):  # its body would be taken for the other protocol
            self._end(400, "this server speaks HTTP/1.1 and nothing else: leave the Upgrade header out")
        if len(self.pipeline) >= PIPELINED:
            raise Refused  # an answer is under way, so this one can't be said why it is cut off

    def on_message_complete(self) -> None:
        """A request is here."""
        self.arrived()
        super().on_message_complete()

    def arrived(self) -> None:
        """Nothing more is waited for."""
        self._arriving = None

    # -- what a client gets who breaks a limit -----------------------------------------------------------------------------

    def send_400_response(self, msg: str) -> None:
        """uvicorn calls this where the parser stopped: at what is not HTTP, or at a limit; its own words are left out."""
        self._refuse(*(self._refusal or (400, "this is not a request in HTTP/1.1")))

    def _end(self, status: int, message: str) -> None:
        self._refusal = (status, message)
        raise Refused

    def _too_long(self) -> tuple[int, str]:
        return (
            431,
            f"the request line and the headers are longer than {self.limits.head_bytes} bytes, the most this server takes",
        )

    def _refuse(self, status: int, message: str) -> None:
        """Answer and hang up; only hang up where another request's answer is under way, which this must not be mixed with."""
        if self.transport.is_closing():
            return
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            if self.pipeline or cycle.response_started or not cycle.more_body:
                self.transport.abort()
                return
            cycle.disconnected = True  # its own body is what was wrong: this is its answer
            cycle.message_event.set()
        content = msgspec.json.encode(ErrorAnswer(Problem(None, message)))
        head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\nconnection: close\r\n"
        self.transport.write(f"{head}content-length: {len(content)}\r\n\r\n".encode() + content)
        self.transport.close()

    # -- clients that are slow ---------------------------------------------------------------------------------------------

    def pause_writing(self) -> None:
        """See asyncio: the client does not take what is sent.  Nothing more is read from it, so nothing more is kept for it."""
        self._stalled = self.loop.time()
        super().pause_writing()
        self.flow.pause_reading()

    def resume_writing(self) -> None:
        """See asyncio."""
        self._stalled = None
        super().resume_writing()
        if not self.transport.is_closing():
            self.flow.resume_reading()

    def on_response_complete(self) -> None:
        """An answer is written; uvicorn then reads on."""
        super().on_response_complete()
        if self._stalled is not None and not self.transport.is_closing():
            self.flow.pause_reading()

    def _look(self) -> None:
        """Cut the connection off where the client has kept it waiting for too long; otherwise look again when it might have."""
        now = self.loop.time()
        if self.transport.is_closing() and self._stalled is None:
            self._stalled = now  # it was hung up, and what is left for the client must not wait for ever either
        since = min((at for at in (self._arriving, self._stalled) if at is not None), default=now)
        rest = since + self.limits.request_seconds - now
        if rest <= 0 and self._late == since:
            self.transport.abort()
            return
        self._late = since if rest <= 0 else None  # if it was the server that was busy, what has come meanwhile is read first
        self._watch = self.loop.call_later(max(rest, AGAIN_S), self._look)
