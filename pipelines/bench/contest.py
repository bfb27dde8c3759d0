"""Servers side by side, asked in turn with the same requests.  Used by `pipelines.bench.serve`."""

import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipelines.bench.closed_loop import Closed, Load, by_asyncio, by_wrk, have_wrk
from pipelines.bench.processes import Server, get
from pipelines.bench.stages import Sums, sums

SLOW_S = 120.0  # a slow server's round ends then, however few requests it answered

Client = Callable[[int, str, Sequence[bytes], int, Load], Closed]  # see `by_asyncio`


@dataclass(slots=True)
class Cell:
    """One server under one load, over all rounds."""

    runs: list[Closed] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    main_thread_s: float = 0.0  # of cpu_s, what the first thread took
    inside: Sums = field(default_factory=Sums)  # what the server itself counted

    @property
    def cpu_us(self) -> float:
        """Processor time a request, us."""
        return sum(self.cpu_s) / sum(run.requests for run in self.runs) * 1e6

    @property
    def background_us(self) -> float:
        """Of that, what threads took that don't answer."""
        return self.cpu_us - self.main_thread_s / sum(run.requests for run in self.runs) * 1e6

    def figures(self) -> dict[str, Any]:
        """What is printed: totals over the rounds; percentiles are the median of the rounds'."""
        requests = sum(run.requests for run in self.runs)
        each = [s / run.requests * 1e6 for s, run in zip(self.cpu_s, self.runs, strict=True)]
        return {
            "requests": requests,
            "rps": round(requests / sum(run.seconds for run in self.runs), 1),
            "p50_ms": round(float(np.median([run.p50_ms for run in self.runs])), 3),
            "p99_ms": round(float(np.median([run.p99_ms for run in self.runs])), 3),
            "cpu_us": round(self.cpu_us, 1),
            "cpu_us_range": [round(min(each), 1), round(max(each), 1)],
            "client": self.runs[0].client,
            "client_cpu": round(max(run.client_cpu for run in self.runs), 3),
        }


@dataclass(slots=True)
class Contestant:
    """A running server, what it is asked, and how far the client has come with that."""

    name: str
    server: Server
    bodies: Mapping[int, Sequence[bytes]]  # by candidates
    path: str = "/v1/rank"
    counted: int | None = None  # requests a round of a slow server; None: as many as it answers in a time
    measured: bool = False  # whether it has /metrics of ours
    client: Client | None = None  # that it is always asked by
    asked: dict[int, int] = field(default_factory=lambda: defaultdict(int))

    def drive(self, n: int, connections: int, seconds: int, wrk: bool | None = None) -> Closed:
        """One round, with bodies that were not sent before as long as there are any; `wrk` chooses the client."""
        bodies, first = self.bodies[n], self.asked[n]
        if self.client is None and self.counted is None and (have_wrk() if wrk is None else wrk):
            found = by_wrk(self.server.port, self.path, bodies, first, connections, seconds)
        else:
            load = Load(n, connections, self.counted or sys.maxsize, SLOW_S if self.counted else seconds)
            found = (self.client or by_asyncio)(self.server.port, self.path, bodies, first, load)
        self.asked[n] += found.requests
        return found

    def measure(self, n: int, connections: int, seconds: int, cell: Cell, wrk: bool | None = None) -> None:
        """Add a round to a cell."""
        inside, before, main_before = self.inside(), self.server.settle(), self.server.main_thread_s()
        cell.runs.append(self.drive(n, connections, seconds, wrk))
        cell.cpu_s.append(self.server.cpu_s() - before)
        cell.main_thread_s += self.server.main_thread_s() - main_before
        cell.inside = cell.inside.plus(self.inside().since(inside))

    def inside(self) -> Sums:
        """What the server itself has counted so far."""
        if not self.measured:
            return Sums()
        return sums(get(self.server.port, "/metrics").partition(b"\r\n\r\n")[2].decode())


def side_by_side(
    contestants: Sequence[Contestant], loads: Sequence[tuple[int, int]], rounds: int, seconds: int
) -> dict[str, dict[tuple[int, int], Cell]]:
    """{name: {(candidates, connections): its cell}}: every load `rounds` times, every server in turn, after a warm-up."""
    cells = {one.name: {load: Cell() for load in loads} for one in contestants}
    for one in contestants:
        for n in {n for n, _ in loads}:
            (one.client or by_asyncio)(one.server.port, one.path, one.bodies[n], 0, Load(n, 2, 30, SLOW_S))
    for load in loads:
        for _ in range(rounds):
            for one in contestants:
                one.measure(*load, seconds, cells[one.name][load])
    return cells
