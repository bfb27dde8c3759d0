"""An open-loop client that keeps every answer and outlives whoever gives it: for benchmarks that break something on purpose.

Requests are due at given moments, whatever happens, and each latency counts from its moment.  Unlike
`pipelines.bench.open_loop`, which is faster, it runs beside other coroutines (those that break things), goes on where a
connection breaks or can't be made, and remembers who was told what and when.  Used by the parts of `pipelines.bench.serve`
about faults.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from pipelines.bench.open_loop import F64, collector_at_rest

RENEW = 50  # requests on one connection: later ones see workers that were started meanwhile
GIVE_UP_S = 5.0


@dataclass(frozen=True, slots=True)
class Sight:
    """What became of one request."""

    due_s: float  # when it was meant to be sent, s from the start
    ended_s: float
    status: int  # 0: there was no answer
    body: bytes

    @property
    def ok(self) -> bool:
        """Whether it got its slate."""
        return self.status == 200

    @property
    def latency_s(self) -> float:
        """From the moment it was due."""
        return self.ended_s - self.due_s

    def said(self) -> dict[str, Any]:
        """The answer's JSON."""
        found: dict[str, Any] = msgspec.json.decode(self.body)
        return found


@dataclass(slots=True)
class Witness:
    """One run against the port: `seen` grows as answers come."""

    port: int
    connections: int = 16
    seen: list[Sight] = field(default_factory=list)
    began: float = field(default_factory=time.perf_counter)
    _over: bool = False

    @property
    def now_s(self) -> float:
        """Seconds since the start, as in `Sight`."""
        return time.perf_counter() - self.began

    def stop(self) -> None:
        """Send nothing more; what was sent is waited for."""
        self._over = True

    async def offer(self, messages: Sequence[bytes], at_s: F64) -> None:
        """Send the messages in turn at the moments `at_s` [n], s after the start; ends when each has its answer or none.

        Python's garbage collector rests meanwhile: with every answer kept it would take a tenth of a second now and then, which
        callers elsewhere don't."""
        with collector_at_rest():
            await self._offer(messages, at_s)

    async def _offer(self, messages: Sequence[bytes], at_s: F64) -> None:
        due: asyncio.Queue[tuple[float, bytes] | None] = asyncio.Queue()
        lines = [asyncio.create_task(self._line(due)) for _ in range(self.connections)]
        try:
            for number, at in enumerate(at_s.tolist()):
                wait = at - self.now_s
                if wait > 0:
                    await asyncio.sleep(wait)
                if self._over:
                    break
                due.put_nowait((at, messages[number % len(messages)]))
            for _ in lines:
                due.put_nowait(None)
            await asyncio.gather(*lines)
        finally:
            for line in lines:
                line.cancel()

    async def _line(self, due: "asyncio.Queue[tuple[float, bytes] | None]") -> None:
        """One connection after the other."""
        link: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        left = 0
        while (wanted := await due.get()) is not None:
            at, message = wanted
            body = b""
            try:
                async with asyncio.timeout(GIVE_UP_S):
                    if link is None or left == 0 or link[0].at_eof():
                        _hang_up(link)
                        link, left = await asyncio.open_connection("127.0.0.1", self.port), RENEW
                    status, body = await _ask(*link, message)
                    left -= 1
            except (OSError, asyncio.IncompleteReadError):  # a time-out is an OSError too
                status = 0
            self.seen.append(Sight(at, self.now_s, status, body))
            if status != 200:  # what refuses or breaks is not asked again on the same connection
                _hang_up(link)
                link = None
        _hang_up(link)


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, message: bytes) -> tuple[int, bytes]:
    writer.write(message)
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0])
    return int(head[9:12]), await reader.readexactly(length)


def _hang_up(link: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None) -> None:
    if link is not None:
        link[1].close()


def percentiles_ms(seen: Sequence[Sight]) -> dict[str, float | None]:
    """Of those that got their slate."""
    found = [one.latency_s * 1e3 for one in seen if one.ok]
    p50, p99 = np.percentile(found, (50, 99)) if found else (None, None)
    return {"p50_ms": None if p50 is None else round(float(p50), 3), "p99_ms": None if p99 is None else round(float(p99), 3)}
