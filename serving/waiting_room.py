"""Where requests wait for their answers: bounded in number and in time, so that under overload the excess is refused at once,
with Retry-After.  One a process, for all of its doors: `serving.front_door` and `serving.grpc_door`.
"""

import asyncio
import os
from collections import deque
from functools import partial
from time import perf_counter_ns
from typing import Any, Protocol

from serving.rank_handler import RankHandler, Reply, Wanted, Wire, problem

LOOKS = 5  # turns of the loop in which gRPC has handed over its next call, if there is one
AT_ONCE = 16  # calls taken between two answers: more, and refusing would leave no time for answering
STEP = 1.05  # by which an estimate follows what is seen
SPARE = 0.75  # of the time that somebody may wait, how much is given to those before


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
