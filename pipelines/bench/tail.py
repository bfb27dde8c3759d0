"""Where the slowest answers come from: the server's own histogram beside the client's, and a queue that does nothing else.

A part of `clickproof bench serve`.  Half the knee is half of a core: requests that come at random wait for each other also in
front of a server that always takes the same time.  `queue` is that server, computed; what the client sees beyond it is the
server's own doing, or another process' on the same core: `waited_for_core` says how much of the time its thread was ready to
run and did not.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from infra.home import Home
from pipelines.bench.knee import DEADLINE_S
from pipelines.bench.open_loop import F64, OpenLoop, poisson
from pipelines.bench.population import message
from pipelines.bench.processes import SERVE, Server, get, server
from pipelines.bench.stages import WHOLE
from pipelines.console import say

LOOKS = 3  # the middle one counts
POOL = 480
SETTINGS = '{"max_wait_ms": 5000}'
SEED = 26


def tail(work: Home, bodies: Sequence[bytes], rate: float, on: set[int], look_s: float = 8.0) -> dict[str, Any]:
    """p50 and p99, ms, at `rate` requests a second: of the queue, by the server's histogram and by the client."""
    say(f"the tail at {rate:.0f} requests/s")
    messages, rng = [message(of_one) for of_one in bodies], np.random.default_rng(SEED)
    with server(SERVE, work.root, SETTINGS, on=on) as one:
        _look(one, messages, rate, 1.0, rng)  # to warm up
        looks = [_look(one, messages, rate, look_s, rng) for _ in range(LOOKS)]
    return sorted(looks, key=lambda look: float(look["client"]["p99_over_p50"] or 0.0))[LOOKS // 2]


def _look(one: Server, messages: Sequence[bytes], rate: float, seconds: float, rng: np.random.Generator) -> dict[str, Any]:
    at_s = poisson(rate, seconds, rng)
    counted, cpu_s, waited_s = counts(_metrics(one)), one.settle(), waited_for_core_s(one.pid)
    pool = OpenLoop(one.port, POOL)
    try:
        tally, _ = pool.run(messages, at_s, DEADLINE_S)
    finally:
        pool.close()
    service_s = (one.settle() - cpu_s) / max(len(at_s), 1)
    waited_s = waited_for_core_s(one.pid) - waited_s
    after = counts(_metrics(one))
    return {
        "rate": round(rate, 1),
        "offered": len(at_s),
        "answered": len(tally.latencies_s),
        "queue": _figures(*np.percentile(queue_s(at_s, service_s), (50, 99)).tolist()),
        "server": _figures(*quantiles_s({le: after[le] - counted[le] for le in after}, (0.5, 0.99))),
        "client": _figures(*(np.percentile(tally.latencies_s, (50, 99)).tolist() if tally.latencies_s else (None, None))),
        "client_late_p99_ms": round(float(np.percentile(tally.late_s, 99)) * 1e3, 3),
        "waited_for_core": round(waited_s / seconds, 3),
    }


def _metrics(one: Server) -> str:
    return get(one.port, "/metrics").partition(b"\r\n\r\n")[2].decode()


def _figures(p50_s: float | None, p99_s: float | None) -> dict[str, float | None]:
    if p50_s is None or p99_s is None:
        return {"p50_ms": None, "p99_ms": None, "p99_over_p50": None}
    return {"p50_ms": round(p50_s * 1e3, 3), "p99_ms": round(p99_s * 1e3, 3), "p99_over_p50": round(p99_s / p50_s, 2)}


def queue_s(at_s: F64, service_s: float) -> F64:
    """Seconds [n] that requests due at `at_s` [n] (ascending) spend with one server that takes `service_s` for each, one after
    the other (Lindley 1952)."""
    served = np.arange(len(at_s)) * service_s
    begun = np.maximum.accumulate(at_s - served) + served
    return np.asarray(begun + service_s - at_s)


def counts(metrics: str) -> dict[float, float]:
    """{upper bound of a bucket, s: requests up to it} of the histogram of whole requests."""
    families = text_string_to_metric_families(metrics)
    samples = [sample for family in families for sample in family.samples if sample.name == f"{WHOLE}_bucket"]
    return {float(sample.labels["le"]): sample.value for sample in samples}


def quantiles_s(cumulative: Mapping[float, float], wanted: Sequence[float]) -> list[float | None]:
    """Quantiles of a histogram as Prometheus' `histogram_quantile` has them: on a straight line inside a bucket; the last
    bucket's lower bound where it is the last, None where nothing was counted."""
    bounds = sorted(cumulative)
    total = cumulative[bounds[-1]] if bounds else 0.0
    found: list[float | None] = []
    for share in wanted:
        if not total:
            found.append(None)
            continue
        at = next(i for i, bound in enumerate(bounds) if cumulative[bound] >= share * total)
        low, below = (bounds[at - 1], cumulative[bounds[at - 1]]) if at else (0.0, 0.0)
        inside = cumulative[bounds[at]] - below
        high = bounds[at] if np.isfinite(bounds[at]) else low
        found.append(low + (high - low) * (share * total - below) / inside if inside else low)
    return found


def waited_for_core_s(pid: int) -> float:
    """Seconds that a process' first thread was ready and had no core (Linux' schedstat)."""
    return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[1]) / 1e9
