"""POST /v1/rank without a web framework between: the server's HTTP protocol, with a short way for this one route.

A framework's scope, task, routing and response messages cost more than reading a user's features.  So this protocol keeps the
requests for one path to itself, from the parser's callbacks to the transport; all others, and all that are pipelined behind one
that isn't answered yet, take uvicorn's usual way to the application, whose own route gives the same bytes.

A request waits in a `WaitingRoom`: bounded in number and in time, so that under overload the excess is refused at once, with
Retry-After.  Three times what a server can answer is two refusals for each answer, so they must cost next to nothing: while the
room is full, a request that came as a whole is not even taken apart (`serving.whole`).
"""

import asyncio
import os
from collections import deque
from functools import partial
from time import perf_counter_ns
from typing import Any, Protocol

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from serving.connections import Connection
from serving.rank_handler import REST, RankHandler, Reply, Wanted, Wire, body_problem, problem, too_long
from serving.whole import is_whole

PATH = b"/v1/rank"
DRAIN_S = 0.25
LOOKS = 5  # turns of the loop in which gRPC has handed over its next call, if there is one
AT_ONCE = 16  # calls taken between two answers: more, and refusing would leave no time for answering
STEP = 1.05  # by which an estimate follows what is seen
SPARE = 0.75  # of the time that somebody may wait, how much is given to those before
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


class Waiting(Protocol):
    """A request that is whole and waits for its answer."""

    body: list[bytes]
    started_ns: int

    @property
    def disconnected(self) -> bool:
        """Whether nobody takes the answer any more."""
        ...


class Door(Protocol):
    """Where requests come in and their answers go out."""

    @property
    def wire(self) -> Wire: ...

    def reply(self, turn: Any, reply: Reply) -> None:
        """Send the answer to one of its requests."""
        ...


class Pace:
    """How long one answer takes while others wait: the median of what was seen, followed in steps of a twentieth up or down
    (Robbins and Monro 1951), so that one pause of the machine says little."""

    def __init__(self) -> None:
        self.each_ns = 0.0  # 0: nobody has waited yet
        self._since = self._count = 0

    def began(self, now: int) -> None:
        """The next answers are begun."""
        if self._count:
            seen = (now - self._since) / self._count
            step = STEP if seen > self.each_ns else 1 / STEP
            self.each_ns = self.each_ns * step if self.each_ns else seen
        self._since, self._count = now, 0

    def ended(self, count: int) -> None:
        """So many were given, and others wait."""
        self._count = count


class WaitingRoom:
    """Requests of all doors in order of arrival.  Between two answers the loop looks at the sockets, so that what arrives
    meanwhile is seen, and refused where the room is full.

    It is full where `max_waiting` wait, or as many as are answered in the time that somebody may wait: who would be answered
    too late is told so at once instead of then.  Whoever waits for too long all the same, since the machine paused, is refused
    when it is their turn."""

    def __init__(self, handler: RankHandler) -> None:
        self.handler = handler
        self._most = handler.settings.max_waiting
        self._together = handler.settings.micro_batch
        self._patience_ns = int(handler.settings.max_wait_ms * 1e6)
        self._waiting: deque[tuple[Door, Waiting]] = deque()
        self._reading = 0  # requests that wait for a remote store
        self._read: deque[tuple[Door, Waiting, Wanted]] = deque()  # those that no longer do
        self._pace = Pace()
        self._called = False
        self._looks = self._taken = 0  # looks still to be had before the next answer; requests that the ones before showed
        self._refusal = problem(503, None, "too many requests are waiting; try again shortly", retry_after_s=1)._replace(
            shed=True
        )

    @property
    def full(self) -> bool:
        """Whether who enters is refused."""
        waiting = len(self._waiting) + self._reading
        if waiting >= self._most:
            return True
        return waiting >= self._together and waiting * self._pace.each_ns > SPARE * self._patience_ns

    def enter(self, door: Door, turn: Waiting, one_by_one: bool = False) -> None:
        """A request is whole.  To be called in the event loop, which is the same for all doors.

        `one_by_one` says that others may have come which the door is only given after this one: they are looked for, so that
        they wait here, where waiting is bounded."""
        if one_by_one:
            self._looks, self._taken = LOOKS, self._taken + 1
        if self.full:
            door.reply(turn, self.refusal("full", door.wire))
            return
        self._waiting.append((door, turn))
        self._call()

    def _call(self) -> None:
        if not self._called:
            self._called = True
            asyncio.get_running_loop().call_soon(self._serve)

    def _serve(self) -> None:
        """Answer one request, or as many as are there and go into one call of the model: those that were read, then those that
        have waited longest.  Those whose time is up are refused on the way to them."""
        if self._looks and self._taken < AT_ONCE:
            self._looks -= 1
            os.sched_yield()  # it is a thread that hands them over, and it may be waiting for this core
            asyncio.get_running_loop().call_soon(self._serve)
            return
        self._looks = self._taken = 0
        now = perf_counter_ns()
        self._pace.began(now)
        batch: list[tuple[Door, Waiting, Wanted]] = []
        while (self._read or self._waiting) and len(batch) < self._together:
            found = self._next(now)
            if found is not None:
                batch.append(found)
        if batch:
            service = batch[0][2].service
            same = [one for one in batch if one[2].service is service]
            self._read.extendleft(one for one in reversed(batch) if one[2].service is not service)  # swapped in between
            self._reading += len(batch) - len(same)
            replies = self.handler.answer_many([wanted for _, _, wanted in same], [turn.started_ns for _, turn, _ in same])
            for (door, turn, _), reply in zip(same, replies, strict=True):
                door.reply(turn, reply)
        self._called = False
        if self._read or self._waiting:
            self._pace.ended(len(batch))
            self._call()

    def _next(self, now: int) -> tuple[Door, Waiting, Wanted] | None:
        """The next request that can be answered; None where it was refused, or has to wait for a remote store."""
        if self._read:
            self._reading -= 1
            door, turn, wanted = self._read.popleft()
            return None if turn.disconnected else (door, turn, wanted)
        door, turn = self._waiting.popleft()
        if turn.disconnected:
            return None
        if now - turn.started_ns > self._patience_ns and self._waiting:  # late, and others wait behind it
            door.reply(turn, self.refusal("late", door.wire))
            return None
        found = self.handler.read(b"".join(turn.body), door.wire)
        if isinstance(found, Reply):
            door.reply(turn, found)
            return None
        ahead = self.handler.ahead(found)
        if ahead is None:
            return door, turn, found
        self._reading += 1
        ahead.add_done_callback(partial(self._was_read, door, turn, found))
        return None

    def _was_read(self, door: Door, turn: Waiting, wanted: Wanted, _: "asyncio.Future[None]") -> None:
        self._read.append((door, turn, wanted))
        self._call()

    def refusal(self, why: str, wire: Wire) -> Reply:
        """What somebody gets who is refused, "full" or "late"; it is counted."""
        self.handler.metrics.shed(why)
        return self.handler.refused(self._refusal, wire)


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
