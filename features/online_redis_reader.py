"""One user's rows from Redis without waiting for it in the event loop: a pipelined connection of a few lines.

The client library's asyncio interface costs more processor time a read than scoring does (`clickproof bench serve` has the
figures); this writes one prepared command and hands the parser's answer to a future.  Reads have a deadline.  While there is no
connection, or after several deadlines in a row were missed, there is nothing to wait for: the caller goes on with what it has,
and the reader tries again by itself.  Used by `features.online`.
"""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, cast

import hiredis
from redis.connection import parse_url

Rows = list[bytes | None]

LATE_IN_A_ROW = 5  # deadlines missed before reads pause
PAUSE_S = 0.5  # for which they do
RECONNECT_S = (0.05, 1.0)  # first and longest wait between attempts


class StoreUnavailable(ConnectionError):
    """The store did not answer in time, or is not there."""


class RedisReader(asyncio.Protocol):
    """Reads HMGET answers in order; belongs to one event loop."""

    def __init__(self, url: str, timeout_s: float) -> None:
        self._options: dict[str, Any] = parse_url(url)
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser = hiredis.Reader()
        self._asked: deque[tuple[float, asyncio.Future[Rows]]] = deque()  # deadline, who waits; oldest first
        self._late = 0
        self._paused_until = 0.0
        self._wait_s = RECONNECT_S[0]
        self._sweep: asyncio.TimerHandle | None = None
        self._closed = False
        self._connecting = self._loop.create_task(self._connect())

    @property
    def ready(self) -> bool:
        """Whether it makes sense to ask now."""
        return self._transport is not None and time.monotonic() >= self._paused_until

    def read(self, key: bytes, fields: Sequence[str]) -> "asyncio.Future[Rows]":
        """The values of some fields of a hash.  The future raises StoreUnavailable where they don't come in time."""
        future: asyncio.Future[Rows] = self._loop.create_future()
        if self._transport is None:
            future.set_exception(StoreUnavailable("no connection to Redis"))
            return future
        self._transport.write(_command(b"HMGET", key, *(field.encode() for field in fields)))
        self._asked.append((self._loop.time() + self._timeout_s, future))
        if self._sweep is None:
            self._sweep = self._loop.call_later(self._timeout_s, self._give_up)
        return future

    def close(self) -> None:
        """Stop, whatever is under way."""
        self._closed = True
        self._connecting.cancel()
        if self._sweep is not None:
            self._sweep.cancel()
        if self._transport is not None:
            self._transport.abort()

    def _give_up(self) -> None:
        """Deadlines that have passed; what comes for them later is dropped."""
        now = self._loop.time()
        self._sweep = None
        for deadline, future in self._asked:
            if deadline > now:
                self._sweep = self._loop.call_later(deadline - now, self._give_up)
                return
            if not future.done():
                self._late += 1
                future.set_exception(StoreUnavailable(f"Redis did not answer within {self._timeout_s * 1e3:.0f} ms"))
        if self._late >= LATE_IN_A_ROW:
            self._paused_until, self._late = time.monotonic() + PAUSE_S, 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol: introduces itself before anything is asked."""
        self._parser, self._wait_s = hiredis.Reader(), RECONNECT_S[0]
        self._transport = cast(asyncio.Transport, transport)  # uvloop's, which servers run on, is no subclass of it
        user, password, database = (self._options.get(name) for name in ("username", "password", "db"))
        if password:
            self._ask_quietly(b"AUTH", *([user.encode()] if user else []), password.encode())
        if database:
            self._ask_quietly(b"SELECT", str(database).encode())

    def _ask_quietly(self, *words: bytes) -> None:
        """A command whose answer nobody waits for; a refusal shows in every later answer."""
        assert self._transport is not None
        self._transport.write(_command(*words))
        nobody: asyncio.Future[Rows] = self._loop.create_future()
        nobody.cancel()
        self._asked.append((self._loop.time() + self._timeout_s, nobody))

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        self._parser.feed(data)
        try:
            while (answer := self._parser.gets()) is not False:
                _, future = self._asked.popleft()
                if future.done():
                    continue
                self._late = 0
                if isinstance(answer, Exception):
                    future.set_exception(StoreUnavailable(f"Redis refused: {answer}"))
                else:
                    future.set_result(answer)
        except hiredis.ProtocolError:
            if self._transport is not None:
                self._transport.abort()  # what follows can't be trusted; a new connection starts afresh

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol: who waits is told, and another connection is tried."""
        self._transport = None
        while self._asked:
            _, future = self._asked.popleft()
            if not future.done():
                future.set_exception(StoreUnavailable("the connection to Redis was lost"))
        if not self._closed:
            self._connecting = self._loop.create_task(self._connect())

    async def _connect(self) -> None:
        host, port = self._options.get("host", "127.0.0.1"), self._options.get("port", 6379)
        while not self._closed:
            try:
                await self._loop.create_connection(lambda: self, host, port)
                return
            except OSError:
                await asyncio.sleep(self._wait_s)
                self._wait_s = min(self._wait_s * 2, RECONNECT_S[1])


def _command(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join([b"$%d\r\n%s\r\n" % (len(word), word) for word in words])
