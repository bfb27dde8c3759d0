"""What one and two worker processes answer: a closed loop and the knee.  A part of `clickproof bench serve`.

The client has no core of its own here: where there are two, it takes from both workers what it needs (`client_cpu`), so two
workers look worse than they are.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from infra.home import Home
from pipelines.bench import knee
from pipelines.bench.contest import SLOW_S, Cell, Contestant
from pipelines.bench.open_loop import OpenLoop, Outcome, poisson
from pipelines.bench.population import message
from pipelines.bench.processes import SERVE, Server, server, wait_for_all
from pipelines.console import say

COUNTS = (1, 2)
POOL = 480
SEED = 24


def worker_counts(
    work: Home, bodies: dict[int, list[bytes]], load: tuple[int, int], on: set[int], seconds: int = 3, probe_s: float = 2.0
) -> dict[str, Any]:
    """{workers: figures under `load` (candidates, connections), and the knee}; all on the cores `on`, the client too."""
    found = {}
    for count in COUNTS:
        say(f"{count} worker{'s' if count > 1 else ''}")
        cell = Cell()
        with server(SERVE, work.root, json.dumps({"workers": count, "max_wait_ms": SLOW_S * 1e3}), on=on) as one:
            wait_for_all(one.port, count)
            closed = Contestant("clickproof", one, bodies)
            closed.measure(*load, 1, Cell())  # to warm up
            closed.measure(*load, seconds, cell)
        patience_ms = knee.DEADLINE_S * 1e3 / 2
        with server(SERVE, work.root, json.dumps({"workers": count, "max_wait_ms": patience_ms}), on=on) as one:
            wait_for_all(one.port, count)
            at = knee_of(one, bodies[load[0]], cell.figures()["rps"] / 2, probe_s)
        found[str(count)] = {"candidates": load[0], "connections": load[1], **cell.figures(), "knee": at}
    return found


def knee_of(one: Server, bodies: Sequence[bytes], first: float, probe_s: float) -> dict[str, Any]:
    """The largest rate that holds, and what the client saw there."""
    messages, rng = [message(of_one) for of_one in bodies], np.random.default_rng(SEED)

    def offer(rate: float) -> Outcome:
        pool = OpenLoop(one.port, POOL)
        try:
            tally, cpu_s = pool.run(messages, poisson(rate, probe_s, rng), knee.DEADLINE_S)
        finally:
            pool.close()
        one.settle()
        return Outcome.of(tally, rate, probe_s, knee.DEADLINE_S, cpu_s / probe_s)

    found, _ = knee.find(offer, first)
    return {"rate": found.rate, "p50_ms": found.p50_ms, "p99_ms": found.p99_ms, "client_cpu": found.client_cpu}
