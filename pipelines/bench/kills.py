"""Whether every answer that left is in the lake when workers are killed: two workers under load, SIGKILL, twenty times.

A part of `clickproof bench serve`.  The client keeps each answer.  Afterwards what it was told is looked for in the segments of
the prediction log, and, through ingestion, in the lake; a request whose connection broke was answered nothing, and may be in
the log or not.
"""

import asyncio
import os
import signal
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from features.ids import derived_id_one
from infra.home import Home
from infra.lake import Lake
from pipelines.bench.open_loop import poisson
from pipelines.bench.population import message
from pipelines.bench.processes import SERVE, Server, listeners, server, tree, wait_for_all
from pipelines.bench.witness import Sight, Witness, percentiles_ms
from pipelines.console import say
from pipelines.prediction_ingest import TABLE, ingest_predictions
from serving.prediction_log import read, segments, unpack

KILLS = 20
MOST_S = 150.0  # a worker takes three to four seconds to start where the machine has nothing else to do
BETWEEN_S = (0.2, 0.6)  # under load with all workers, before the next one is killed
WORKERS = 2
SETTINGS = '{"workers": 2, "max_wait_ms": 5000}'  # nobody is refused for waiting while a worker is started
SEED = 21

Shown = tuple[int, int, int]  # impression, slot, ad


def kills(work: Home, bodies: Sequence[bytes], rate: float, on: set[int], count: int = KILLS) -> dict[str, Any]:
    """Figures of `count` kills, or as many as MOST_S have room for; `rate` requests a second, sent open-loop.

    Empties the prediction log of `work` first."""
    say(f"killing a worker {count} times at {rate:.0f} requests/s")
    for old in segments(work):
        old.unlink()
    with server(SERVE, work.root, SETTINGS, on=on) as one:
        wait_for_all(one.port, WORKERS)
        seen, whole_again_s = asyncio.run(_under_load(one, [message(of_one) for of_one in bodies], rate, count))
    logged = list(in_segments(work))
    counts = ingest_predictions(work)
    again = ingest_predictions(work)
    return {
        "kills": len(whole_again_s),
        "rate": round(rate, 1),
        **account(seen, logged, in_lake(work)),
        "torn_bytes": counts.waiting_bytes,
        "ingested_again": again.rows,
        "whole_again_s": round(float(np.median(whole_again_s)), 2) if whole_again_s else None,
        **percentiles_ms(seen),
    }


def account(seen: Sequence[Sight], logged: Sequence[Shown], stored: Sequence[Shown]) -> dict[str, int]:
    """What callers were told beside what the log and the lake say was shown."""
    told = {impression for one in seen if one.ok for impression in shown(one)}
    return {
        "offered": len(seen),
        "answered": sum(one.ok for one in seen),
        "unanswered": sum(one.status == 0 for one in seen),
        "refused": sum(one.status not in (0, 200) for one in seen),
        "impressions": len(told),
        "missing_in_log": len(told.difference(logged)),
        "missing_in_lake": len(told.difference(stored)),
        "twice_in_lake": len(stored) - len(set(stored)),
    }


async def _under_load(one: Server, messages: Sequence[bytes], rate: float, count: int) -> tuple[list[Sight], list[float]]:
    """(what the client saw, seconds from each kill until all workers listened again)."""
    rng = np.random.default_rng(SEED)
    witness = Witness(one.port)
    offering = asyncio.create_task(witness.offer(messages, poisson(rate, MOST_S, rng)))
    whole_again_s: list[float] = []
    while len(whole_again_s) < count and witness.now_s < MOST_S:
        await asyncio.sleep(rng.uniform(*BETWEEN_S))
        killed_s, there = witness.now_s, listeners(one.port)
        os.kill(int(rng.choice(workers_of(one.pid))), signal.SIGKILL)
        while witness.now_s < MOST_S and ((now := listeners(one.port)) == there or len(now) < WORKERS):
            await asyncio.sleep(0.02)
        whole_again_s.append(witness.now_s - killed_s)
    await asyncio.sleep(BETWEEN_S[1])
    witness.stop()
    await offering
    return witness.seen, whole_again_s


def workers_of(pid: int) -> list[int]:
    """Processes among a server's that answer: `multiprocessing` has one of its own beside them."""
    return [child for child in tree(pid)[1:] if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


def shown(answer: Sight) -> list[Shown]:
    """What an answer told its caller to show."""
    return [(ad["impression_id"], ad["slot"], ad["ad_id"]) for ad in answer.said()["ads"]]


def in_segments(home: Home) -> Iterable[Shown]:
    """What the prediction log says was shown."""
    for segment in segments(home):
        for record, _ in read(segment):
            ads = unpack(record.ad_id)[unpack(record.shown)].tolist()
            yield from ((derived_id_one(record.request_id, slot), slot, ad) for slot, ad in enumerate(ads))


def in_lake(home: Home) -> list[Shown]:
    """What the lake says was shown."""
    rows = Lake.of(home).read(TABLE, ["impression_id", "slot", "ad_id"])
    there = rows.filter(pc.is_valid(rows["impression_id"]))
    return list(zip(*(there[name].to_pylist() for name in there.column_names), strict=True))
