"""An open-loop client: requests are sent when they are due, whatever the server does.  Used by `pipelines.bench.serve` and
`pipelines.load`.

A closed loop asks less of a server that is slow, and so never sees what users see (coordinated omission: Tene 2013).  Here each
latency counts from the moment at which its request was meant to be sent, also where the client was late or all its connections
were waiting.  One thread, one selector, prepared messages: some 20 us a request, so that a core offers far more than one
server takes; `Outcome` says how much of the core it took and how late it was.
"""

import gc
import select
import selectors
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from infra.errors import ExplainedError

F64 = npt.NDArray[np.float64]

SHED = (b"429", b"503")  # the server says that it has too much to do
PATIENCE = 4.0  # deadlines that the client waits after the last request before it counts the rest as unanswered
LEAST_PATIENCE_S = 1.0
RECEIVE = 1 << 16
IDLE_S = 3.0  # an idle connection is not trusted longer: uvicorn closes it after five seconds


@dataclass(slots=True)
class Tally:
    """What came of the requests that were due so far.  Their sum is the number of requests offered."""

    latencies_s: list[float] = field(default_factory=list)  # answered 200, from the moment it was meant to be sent
    shed: int = 0  # answered 429 or 503
    failed: int = 0  # any other answer, or the connection broke
    unsent: int = 0  # given up: no connection became free within the deadline
    unanswered: int = 0  # sent, and no answer by the end
    late_s: list[float] = field(default_factory=list)  # sending after it was meant to, of those sent

    @property
    def offered(self) -> int:
        """All that were due."""
        return len(self.latencies_s) + self.shed + self.failed + self.unsent + self.unanswered


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run at one rate."""

    rate: float  # requests a second, as planned
    seconds: float  # from the first to the last moment at which a request was due
    offered: int
    answered: int  # 200
    good: int  # 200 within the deadline
    shed: int
    failed: int
    unsent: int
    unanswered: int
    p50_ms: float | None  # of those answered 200; None where none was
    p99_ms: float | None
    late_p99_ms: float | None  # how late the client itself was
    client_cpu: float  # of one core

    @classmethod
    def of(cls, tally: Tally, rate: float, seconds: float, deadline_s: float, client_cpu: float) -> "Outcome":
        """Figures of a finished run."""
        latencies = np.array(tally.latencies_s)
        p50, p99 = _percentiles_ms(latencies)
        return cls(
            round(rate, 1), round(seconds, 3), tally.offered, len(latencies), int((latencies <= deadline_s).sum()),
            tally.shed, tally.failed, tally.unsent, tally.unanswered,
            p50, p99, _percentiles_ms(np.array(tally.late_s))[1], round(client_cpu, 3),
        )  # fmt: skip

    @property
    def good_share(self) -> float:
        """Goodput over what was offered."""
        return self.good / self.offered if self.offered else 0.0

    @property
    def goodput(self) -> float:
        """Requests a second answered 200 within the deadline."""
        return self.good / self.seconds


def poisson(rate: float, seconds: float, rng: np.random.Generator) -> F64:
    """Moments, s from the start, at which independent users ask: `rate` a second on average."""
    gaps = rng.exponential(1 / rate, int(rate * seconds + 10 * (rate * seconds) ** 0.5 + 10))
    at = np.cumsum(gaps)
    return at[at < seconds]


@contextmanager
def collector_at_rest() -> Iterator[None]:
    """Python's garbage collector does nothing meanwhile: a client's pauses would be taken for the server's."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class _Line:
    """One keep-alive connection."""

    __slots__ = ("busy", "link", "meant", "received", "used", "wanted")

    def __init__(self, link: socket.socket) -> None:
        self.link = link
        self.busy = False
        self.meant = 0.0  # when the request that it carries was meant to be sent
        self.used = 0.0  # when its last answer came
        self.received = bytearray()
        self.wanted = 0  # bytes of the whole answer, once its head was read


class OpenLoop:
    """A pool of at most `connections` keep-alive connections to one server: the one used last is used next, and a new one is
    opened where none is free."""

    def __init__(self, port: int, connections: int, host: str = "127.0.0.1") -> None:
        """Raises ExplainedError where nobody listens."""
        self._to = host, port
        self._most = connections
        self._selector = selectors.DefaultSelector()
        self._lines: set[_Line] = set()
        self._free: list[_Line] = [self._open()]
        self._tally = Tally()

    def close(self) -> None:
        """Close every connection."""
        for line in list(self._lines):
            self._close(line)
        self._selector.close()

    def run(
        self,
        messages: Sequence[bytes],
        at_s: F64,
        deadline_s: float,
        watch: Callable[[float, Tally], None] | None = None,
    ) -> tuple[Tally, float]:
        """(what came of it, processor seconds) of sending the messages in turn at the moments `at_s` [n], s from now.

        `watch` is called once a second with the seconds passed and the tally so far.  The garbage collector is off meanwhile:
        its pauses would be counted as the server's.  Raises ExplainedError where the server goes away."""
        self._tally = Tally()
        gc.collect()
        with collector_at_rest():
            cpu, start = time.process_time(), time.perf_counter()
            self._drive(messages, (start + at_s).tolist(), deadline_s, start, watch)
        return self._tally, time.process_time() - cpu

    def _drive(
        self,
        messages: Sequence[bytes],
        meant: list[float],
        deadline_s: float,
        start: float,
        watch: Callable[[float, Tally], None] | None,
    ) -> None:
        tally, n, count = self._tally, len(meant), len(messages)
        end = (meant[-1] if meant else start) + max(PATIENCE * deadline_s, LEAST_PATIENCE_S)
        due, next_look = 0, start + 1.0 if watch is not None else end
        while due < n or self._waiting:
            now = time.perf_counter()
            if now > end:
                break
            while due < n and meant[due] <= now:
                line = self._idle_line(now)
                if line is not None:
                    self._send(line, messages[due % count], meant[due])
                elif now - meant[due] > deadline_s:
                    tally.unsent += 1
                else:
                    break
                due += 1
            if watch is not None and now >= next_look:
                watch(now - start, tally)
                next_look += 1.0
            wake = end
            if due < n:
                wake = meant[due] if meant[due] > now else meant[due] + deadline_s
            self._receive(min(wake, next_look) - time.perf_counter())
        tally.unsent += n - due
        for line in [line for line in self._lines if line.busy]:  # so that no late answer is taken for another's
            tally.unanswered += 1
            self._close(line)

    @property
    def _waiting(self) -> bool:
        return len(self._free) < len(self._lines)

    def _idle_line(self, now: float) -> _Line | None:
        """A connection to send on, or None where all that there may be are busy."""
        while self._free:
            line = self._free.pop()
            if now - line.used < IDLE_S:
                return line
            self._close(line)
        return self._open() if len(self._lines) < self._most else None

    def _send(self, line: _Line, message: bytes, meant: float) -> None:
        line.busy, line.meant = True, meant
        self._tally.late_s.append(time.perf_counter() - meant)
        try:
            line.link.sendall(message)
        except OSError:
            self._broken(line)

    def _receive(self, seconds: float) -> None:
        """Read what came, waiting up to `seconds` for the first of it: a selector by itself waits in whole milliseconds."""
        if seconds > 0:
            select.select([self._selector], [], [], seconds)
        ready = self._selector.select(0)
        now = time.perf_counter()
        for key, _ in ready:
            line: _Line = key.data
            try:
                part = line.link.recv(RECEIVE)
            except OSError:
                part = b""
            if part:
                self._read(line, part, now)
            else:
                self._broken(line)

    def _read(self, line: _Line, part: bytes, now: float) -> None:
        received = line.received
        received += part
        if not line.wanted:
            head_end = received.find(b"\r\n\r\n")
            if head_end < 0:
                return
            head = bytes(received[:head_end]).lower()
            _, found, rest = head.partition(b"\r\ncontent-length:")
            if not found:
                raise ExplainedError(f"an answer without Content-Length can't be read by this client: {head[:200]!r}")
            line.wanted = head_end + 4 + int(rest.partition(b"\r\n")[0])
        if len(received) >= line.wanted:
            self._answered(line, now)

    def _answered(self, line: _Line, now: float) -> None:
        status = bytes(line.received[9:12])
        if status == b"200":
            self._tally.latencies_s.append(now - line.meant)
        elif status in SHED:
            self._tally.shed += 1
        else:
            self._tally.failed += 1
        line.busy, line.used, line.wanted = False, now, 0
        line.received.clear()
        self._free.append(line)

    def _broken(self, line: _Line) -> None:
        """The server closed a connection: what it carried has failed."""
        if line.busy:
            self._tally.failed += 1
        else:
            self._free.remove(line)
        self._close(line)

    def _open(self) -> _Line:
        host, port = self._to
        try:
            link = socket.create_connection((host, port), timeout=5)
        except OSError as error:
            raise ExplainedError(f"no connection to {host}:{port}: {error}; is the endpoint running (make serve)?") from error
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link.setblocking(False)
        line = _Line(link)
        line.used = time.perf_counter()
        self._selector.register(link, selectors.EVENT_READ, line)
        self._lines.add(line)
        return line

    def _close(self, line: _Line) -> None:
        self._selector.unregister(line.link)
        line.link.close()
        self._lines.remove(line)


def _percentiles_ms(seconds: F64) -> tuple[float | None, float | None]:
    if not len(seconds):
        return None, None
    p50, p99 = np.percentile(seconds, (50, 99)) * 1e3
    return round(float(p50), 3), round(float(p99), 3)
