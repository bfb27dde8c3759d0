"""POST /v1/rank without a web framework between: the server's HTTP protocol, with a short way for this one route.

A framework's scope, task, routing and response messages cost more than reading a user's features.  So this protocol keeps the
requests for one path to itself, from the parser's callbacks to the transport; all others, and all that are pipelined behind one
that isn't answered yet, take uvicorn's usual way to the application, whose own route gives the same bytes.

A request waits in the `serving.waiting_room`.  Three times what a server can answer is two refusals for each answer, so they
must cost next to nothing: while the room is full, a request that came as a whole is not even taken apart (`serving.whole`).
"""

from time import perf_counter_ns
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from serving.connections import Connection
from serving.rank_handler import REST, RankHandler, Reply, body_problem, too_long
from serving.waiting_room import WaitingRoom
from serving.whole import is_whole

PATH = b"/v1/rank"
DRAIN_S = 0.25
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Turn:
    """One request's place in its connection, in the form in which uvicorn keeps its own (`RequestResponseCycle`)."""

    __slots__ = (
        "body", "disconnected", "keep_alive", "length", "message_event", "more_body", "response_complete", "response_started",
        "started_ns",
    )  # fmt: skip

    def __init__(self, keep_alive: bool) -> None:
        self.keep_alive = keep_alive
        self.response_started = self.response_complete = False  # a reply goes out as a whole
        self.more_body = True
        self.disconnected = False
        self.message_event = _NOBODY_WAITS
        self.body: list[bytes] = []
        self.length = 0
        self.started_ns = perf_counter_ns()


class _Nobody:
    def set(self) -> None:
        """Nobody waits for more of the body: the parser hands it over when it is whole."""


_NOBODY_WAITS = _Nobody()


class FrontDoor(Connection):
    """The server's protocol with the short way; `room` is put in by `front_door`."""

    room: WaitingRoom
    wire = REST
    _turn: Turn | None = None
    _draining = False
    _shed_at = 0.0  # the loop's time when a request was last refused unread

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        if self.room.full and self._between_requests and is_whole(data):
            self._shed_at = self.loop.time()
            self.transport.write(self._bytes(self.room.refusal("full", REST), keep_alive=True))
        else:
            super().data_received(data)

    @property
    def _between_requests(self) -> bool:
        """Whether what comes now is a request's first byte, on a connection that is kept and waits for nothing."""
        before: Any = self.cycle
        idle = self._arriving is None and before is not None and before.response_complete
        return idle and not self._draining and not self.transport.is_closing()

    def timeout_keep_alive_handler(self) -> None:
        """See uvicorn: the connection is closed where nothing has come for so long, refused or not."""
        rest = self._shed_at + self.timeout_keep_alive - self.loop.time()
        if rest <= 0:
            super().timeout_keep_alive_handler()
        else:
            self.timeout_keep_alive_task = self.loop.call_later(rest, self.timeout_keep_alive_handler)

    def shutdown(self) -> None:
        """The server stops: an idle connection stays open for a moment more, since a request may be on its way."""
        before: Any = self.cycle
        if before is None or before.response_complete:
            self._draining = True
            self.loop.call_later(DRAIN_S, super().shutdown)
        else:
            before.keep_alive = False

    def on_message_begin(self) -> None:
        """A request begins; whose it is, its head will say."""
        super().on_message_begin()
        self._turn = None

    def on_headers_complete(self) -> None:
        """Here it is decided who answers."""
        before: Any = self.cycle
        free = before is None or before.response_complete
        if not (self.url == PATH and free and self.parser.get_method() == b"POST" and self.parser.get_http_version() == "1.1"):
            super().on_headers_complete()
            return
        self.check_head()
        self._turn = self.cycle = Turn(self.parser.should_keep_alive() and not self._draining)  # type: ignore[assignment]  # see Turn
        given = dict(self.headers)
        refusal = body_problem(
            given.get(b"content-type", b"").decode("latin-1"),
            given.get(b"content-encoding", b"").decode("latin-1"),
            given.get(b"content-length", b"").decode("latin-1"),
            self.room.handler.settings.max_body_bytes,
        )
        if refusal is not None:
            self.reply(self._turn, self.room.handler.refused(refusal))
        elif self.expect_100_continue:
            self.transport.write(_CONTINUE)

    def on_body(self, body: bytes) -> None:
        """A part of a body."""
        turn = self._turn
        if turn is None:
            super().on_body(body)
        elif not turn.response_complete:
            turn.body.append(body)
            turn.length += len(body)
            limit = self.room.handler.settings.max_body_bytes
            if turn.length > limit:
                self.reply(turn, self.room.handler.refused(too_long(limit)))

    def on_message_complete(self) -> None:
        """The request is whole."""
        turn = self._turn
        if turn is None:
            super().on_message_complete()
            return
        self.arrived()
        turn.more_body = False
        if not turn.response_complete:
            self.room.enter(self, turn)

    def reply(self, turn: Turn, reply: Reply) -> None:
        """Send a reply and be ready for what comes next on the connection."""
        if turn.disconnected or self.transport.is_closing():
            return
        self.transport.write(self._bytes(reply, turn.keep_alive))
        turn.response_started = turn.response_complete = True
        if not turn.keep_alive:
            self.transport.close()
        self.on_response_complete()

    def _bytes(self, reply: Reply, keep_alive: bool) -> bytes:
        """A reply as HTTP has it."""
        head = [STATUS_LINE[reply.status], b"content-type: application/json\r\n"]
        if reply.retry_after_s is not None:
            head.append(b"retry-after: %d\r\n" % reply.retry_after_s)
        for name, value in self.server_state.default_headers:
            head.append(b"%s: %s\r\n" % (name, value))
        if not keep_alive:
            head.append(b"connection: close\r\n")
        content = reply.json
        head.append(b"content-length: %d\r\n\r\n" % len(content))
        head.append(content)
        return b"".join(head)


def front_door(handler: RankHandler, room: WaitingRoom | None = None) -> type[FrontDoor]:
    """The protocol for `serving.connections.within_limits`: one room for all connections of a process, which is `room` where
    other doors share it."""
    return type("RankDoor", (FrontDoor,), {"room": room or WaitingRoom(handler)})
