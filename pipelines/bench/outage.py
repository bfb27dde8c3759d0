"""What requests get while the online store is gone: Redis under load, killed for half a minute, back with its data.

A part of `clickproof bench serve`.  One user's row is written once a second, as the live path does, so that rows which the
server keeps are out of date a second later: without, it would hardly ask Redis at all and its loss would not show.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from prometheus_client.parser import text_string_to_metric_families

from features.catalogue import view
from features.online_store import open_store, write
from features.online_values import Mark
from infra.home import Home
from infra.lake import watermark_us
from pipelines.bench.open_loop import poisson
from pipelines.bench.population import message
from pipelines.bench.processes import Server, get, server
from pipelines.bench.redis_server import SERVE, RedisServer, have_redis, redis_of
from pipelines.bench.witness import Sight, Witness, percentiles_ms
from pipelines.console import say
from pipelines.materialize import mark_at, newest_rows
from pipelines.sources.contract import SourceSpec

PHASES_S = (15.0, 30.0, 15.0)  # before, without Redis, with Redis again
NAMES = ("before", "during", "after")
PUSHED = "user_recent"  # the view that is written as events come
PUSH_S = 1.0
PATIENCE_MS = 5000.0  # what the store does to a request shows in its latency, not in a refusal
IN_A_ROW = 100  # whole answers: on a busy machine one read in some hundreds misses its deadline at any time
SEED = 22

Pushing = tuple[pa.Table, Mark | None]  # a row, and the mark of its view


def outage(
    work: Home,
    source: SourceSpec,
    bodies: Sequence[bytes],
    rate: float,
    on: set[int],
    phases_s: tuple[float, float, float] = PHASES_S,
) -> dict[str, Any] | None:
    """Figures before, during and after at `rate` requests a second, sent open-loop; None where redis-server isn't there."""
    if not have_redis():
        return None
    say(f"killing Redis for {phases_s[1]:g} s at {rate:.0f} requests/s")
    pushing, messages = _row(work), [message(of_one) for of_one in bodies]
    with redis_of(work, source) as store:
        chosen = json.dumps({"online_url": store.url, "max_wait_ms": PATIENCE_MS})
        with server(SERVE, work.root, chosen, on=on) as one:
            ran = asyncio.run(_under_load(one, store, work, pushing, messages, rate, phases_s))
            steps = degraded(get(one.port, "/metrics").partition(b"\r\n\r\n")[2].decode())
    phases = zip(NAMES, by_phase(ran.seen, ran.killed_s, ran.back_s), np.diff(ran.cpu_s).tolist(), strict=True)
    return {
        "rate": round(rate, 1),
        **{name: _figures(part, cpu_s) for name, part, cpu_s in phases},
        "down_s": round(ran.back_s - ran.killed_s, 1),
        "whole_again_s": whole_again_s(ran.seen, ran.back_s),
        "degraded": steps,
        "pushed": ran.pushed,
    }


class Ran(NamedTuple):
    """One run."""

    seen: list[Sight]
    killed_s: float  # when Redis was killed
    back_s: float  # when it answered again
    pushed: int  # rows written
    cpu_s: tuple[float, ...]  # of the server, so far: at the start, these two moments and the end


async def _under_load(
    one: Server,
    store: RedisServer,
    work: Home,
    pushing: Pushing,
    messages: Sequence[bytes],
    rate: float,
    phases_s: Sequence[float],
) -> Ran:
    before_s, during_s, after_s = phases_s
    witness, start = Witness(one.port), one.cpu_s()
    at_s = poisson(rate, sum(phases_s), np.random.default_rng(SEED))
    offering = asyncio.create_task(witness.offer(messages, at_s))
    pushed = await _push_until(witness, before_s, work, store.url, pushing)
    await asyncio.to_thread(store.kill)
    killed_s, killed = witness.now_s, one.cpu_s()
    await asyncio.sleep(before_s + during_s - killed_s)
    await asyncio.to_thread(store.start)
    back_s, back = witness.now_s, one.cpu_s()
    pushed += await _push_until(witness, back_s + after_s, work, store.url, pushing)
    witness.stop()
    await offering
    return Ran(witness.seen, killed_s, back_s, pushed, (start, killed, back, one.cpu_s()))


def _row(work: Home) -> Pushing:
    """A user's newest row as it is stored already, and its view's mark."""
    now_us = watermark_us(work)
    return newest_rows(work, view(PUSHED), now_us).slice(0, 1), mark_at(work, view(PUSHED), now_us)


async def _push_until(witness: Witness, end_s: float, work: Home, url: str, pushing: Pushing) -> int:
    """Write the row every PUSH_S; how often it was written."""
    store, pushed = open_store(work, url), 0
    try:
        while witness.now_s < end_s - PUSH_S:
            await asyncio.to_thread(write, store, PUSHED, *pushing)
            pushed += 1
            await asyncio.sleep(PUSH_S)
    finally:
        store.close()
    await asyncio.sleep(end_s - witness.now_s)
    return pushed


def by_phase(seen: Sequence[Sight], killed_s: float, back_s: float) -> tuple[list[Sight], list[Sight], list[Sight]]:
    """What was due before Redis was killed, while it was gone, and after."""
    before = [one for one in seen if one.due_s < killed_s]
    during = [one for one in seen if killed_s <= one.due_s < back_s]
    return before, during, [one for one in seen if one.due_s >= back_s]


def _figures(seen: Sequence[Sight], cpu_s: float) -> dict[str, Any]:
    steps = Counter(step for one in seen if one.ok and (step := one.said()["marks"]["degraded"]))
    answered = sum(one.ok for one in seen)
    share = round(answered / len(seen), 4) if seen else None
    cpu_us = round(cpu_s / answered * 1e6, 1) if answered else None
    found = {"offered": len(seen), "answered": answered, "share": share, "degraded": dict(steps), "cpu_us": cpu_us}
    return {**found, **percentiles_ms(seen)}


def whole_again_s(seen: Sequence[Sight], back_s: float) -> float | None:
    """Seconds from Redis' return to the first of IN_A_ROW requests in a row with whole answers; None where there are none."""
    row: list[Sight] = []
    for one in sorted((one for one in seen if one.due_s >= back_s), key=lambda one: one.due_s):
        row = [*row, one] if one.ok and not one.said()["marks"]["degraded"] else []
        if len(row) == IN_A_ROW:
            return round(row[0].ended_s - back_s, 2)
    return None


def degraded(metrics: str) -> dict[str, int]:
    """Requests by what stood in for what could not be had, as /metrics says."""
    families = text_string_to_metric_families(metrics)
    samples = [sample for family in families for sample in family.samples if sample.name == "clickproof_degraded_total"]
    return {sample.labels["step"]: int(sample.value) for sample in samples if sample.value}
