"""Requests a second a core, and from them the boxes for 100,000 requests a second: measured costs, then arithmetic."""

import gc
import math
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import redis

from features.online_redis import RedisStore
from features.spec import service_views
from infra.clock import FixedClock
from infra.home import Home
from infra.lake import Lake, watermark_us
from infra.settings import Settings
from pipelines.answers.workplace import times, workplace
from pipelines.bench.boxes import BUSY, CORES_A_BOX, TARGET, boxes
from pipelines.bench.closed_loop import Load, by_asyncio
from pipelines.bench.population import Population, body
from pipelines.bench.processes import SERVE, cpu_seconds, server
from pipelines.console import say
from pipelines.markdown import table
from pipelines.materialize import materialize_online
from pipelines.prediction_ingest import TABLE, ingest_predictions
from pipelines.sources.contract import SourceSpec
from pipelines.sources.registry import source_of
from pipelines.training import SERVICE
from serving.champion import champion
from serving.prediction_log import segments
from serving.serve import load_service

QUESTION = "Requests a second a core, and the boxes for 100,000 a second?"
NUMBER = 13

COPIES = 3  # of each Redis shard's data and of the log
USERS = 100_000_000  # for the memory of the store
REQUESTS, SECONDS, CONNECTIONS = 1500, 6.0, 16
LOGGED = 300  # requests whose log is weighed
READS = 4000  # user rows read from Redis
DAY_S = 86_400


def run(chosen: Settings) -> dict[str, Any]:
    """What a request costs in processor time, log bytes and store reads; and the same times 100,000."""
    home, spec = chosen.base(), source_of(chosen).spec
    load_before = os.getloadavg()[0]
    with workplace(home, "capacity") as work:
        say("driving the server")
        driven = _driven(work, times(chosen, REQUESTS))
        say("weighing the log and the store")
        cells = [{**cell, **_log_bytes(work, chosen, int(cell["candidates"]))} for cell in driven]
        store = _redis(work, spec)
    return {
        "family": champion(home).family,
        "cells": cells,
        "store": store,
        "arithmetic": [arithmetic(cell, store) for cell in cells],
        "cores": os.cpu_count(),
        "load_before": round(load_before, 1),
    }


def _driven(work: Home, requests: int) -> list[dict[str, float]]:
    """What a request costs the real server, with 20 and 100 candidates on many connections."""
    asked, found = Population.of(work, champion(work), seed=13), []
    with server(SERVE, work.root) as one:
        for n in (20, 100):
            bodies = [body(asked.request(n)) for _ in range(requests)]
            by_asyncio(one.port, "/v1/rank", bodies, 0, Load(n, CONNECTIONS, 100, SECONDS))
            before = one.settle()
            seen = by_asyncio(one.port, "/v1/rank", bodies, 0, Load(n, CONNECTIONS, requests, SECONDS))
            found.append(
                {
                    "candidates": n,
                    "connections": CONNECTIONS,
                    "rps": round(seen.requests / seen.seconds, 1),
                    "p50_ms": round(seen.p50_ms, 3),
                    "p99_ms": round(seen.p99_ms, 3),
                    "cpu_us": round((one.cpu_s() - before) / seen.requests * 1e6, 1),
                }
            )
    return found


def arithmetic(cell: dict[str, Any], store: dict[str, float] | None) -> dict[str, float]:
    """From one request to TARGET requests a second."""
    found: dict[str, float] = {
        "candidates": cell["candidates"],
        **boxes(cell["cpu_us"]),
        "scores_a_second": float(TARGET * cell["candidates"]),
        "log_tb_a_day": TARGET * DAY_S * cell["log_bytes"] / 1e12,
        "lake_tb_a_day": TARGET * DAY_S * cell["lake_bytes"] / 1e12,
    }
    if store is not None:
        found["redis_cores"] = TARGET * store["cpu_us"] / 1e6
        found["redis_shards"] = math.ceil(found["redis_cores"] / BUSY)
        found["redis_gb"] = USERS * store["bytes_a_user"] / 1e9
    return found


def _log_bytes(work: Home, chosen: Settings, candidates: int) -> dict[str, float]:
    """Bytes a request in the log's segments and, ingested, in the lake's parquet files."""
    service = load_service(work, chosen)
    gc.unfreeze()  # a server freezes what it loaded for good; this process goes on to other things
    service.scorer.clock = FixedClock(watermark_us(work))
    asked = Population.of(work, champion(work), seed=13)
    ingest_predictions(work)  # what was asked before is not what is measured
    before, lake_before = _size(segments(work)), _size((work.lake / TABLE).rglob("*.parquet"))
    logged = times(chosen, LOGGED)
    for _ in range(logged):
        service.scorer.rank(asked.request(candidates))
    assert service.scorer.log is not None
    service.scorer.log.close()
    ingest_predictions(work)
    lake_bytes = _size((work.lake / TABLE).rglob("*.parquet")) - lake_before
    assert Lake.of(work).has(TABLE)
    return {"log_bytes": (_size(segments(work)) - before) / logged, "lake_bytes": lake_bytes / logged}


def _size(files: Any) -> int:
    return sum(path.stat().st_size for path in files)


def _redis(work: Home, spec: SourceSpec) -> dict[str, float] | None:
    """Redis' processor time for the reads of one request, and bytes a user; None where there is no redis-server to measure."""
    program = shutil.which("redis-server")
    views = tuple(view for view in service_views(spec.entities, SERVICE) if view.entity == "user")
    if program is None or not views:
        return None
    with _redis_server(program, work.root / "redis") as (url, pid):
        store = RedisStore(url)
        empty = _memory(url)
        materialize_online(work, replace(spec, entities=("user",)), watermark_us(work), url)
        users = store.everything(views[0])[0]
        bytes_a_user = (_memory(url) - empty) / len(users)
        before, started = cpu_seconds(pid), time.perf_counter()
        for number in range(READS):
            store.marks()
            store.rows(views, [users[number * 7919 % len(users)]])
        wall, used = time.perf_counter() - started, cpu_seconds(pid) - before
        store.close()
    return {"cpu_us": used / READS * 1e6, "reads_us": wall / READS * 1e6, "bytes_a_user": bytes_a_user, "users": len(users)}


def _memory(url: str) -> int:
    with redis.Redis.from_url(url) as client:
        found: Any = client.info("memory")
    return int(found["used_memory"])


@contextmanager
def _redis_server(program: str, folder: Path) -> Iterator[tuple[str, int]]:
    """(url, pid) of a Redis of our own, without persistence; ended by its pid."""
    folder.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        for _ in range(200):
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield f"redis://127.0.0.1:{port}", process.pid
    finally:
        process.terminate()
        process.wait(10)


def markdown(result: dict[str, Any]) -> str:
    """Measured, then multiplied."""
    cells, sums, store = result["cells"], result["arithmetic"], result["store"]
    head = ["", *(f"N={cell['candidates']}" for cell in cells)]
    measured: list[list[object]] = [
        ["processor time a request, us", *(f"{c['cpu_us']:,.0f}" for c in cells)],
        ["requests a second a core", *(f"{s['rps_a_core']:,.0f}" for s in sums)],
        ["requests a second seen, one process, 16 connections", *(f"{c['rps']:,.0f}" for c in cells)],
        ["p50 / p99 then, ms", *(f"{c['p50_ms']:.1f} / {c['p99_ms']:.1f}" for c in cells)],
        ["log, bytes a request", *(f"{c['log_bytes']:,.0f}" for c in cells)],
        ["the same in the lake (parquet), bytes", *(f"{c['lake_bytes']:,.0f}" for c in cells)],
    ]
    if store:
        measured.append(["Redis: processor time a request, us", *[f"{store['cpu_us']:,.0f}"] * len(cells)])
        measured.append([f"Redis: bytes a user ({store['users']:,} users)", *[f"{store['bytes_a_user']:,.0f}"] * len(cells)])
    derived: list[list[object]] = [
        ["cores = requests x time", *(f"{s['cores']:,.0f}" for s in sums)],
        [f"boxes of {CORES_A_BOX} cores, {BUSY:.0%} busy", *(f"{s['boxes']:,.0f}" for s in sums)],
        ["scores a second", *(f"{s['scores_a_second'] / 1e6:,.0f} M" for s in sums)],
        [f"log a day, before {COPIES} copies", *(f"{s['log_tb_a_day']:,.0f} TB" for s in sums)],
        [f"in the lake a day, before {COPIES} copies", *(f"{s['lake_tb_a_day']:,.0f} TB" for s in sums)],
    ]
    if store:
        derived.append([f"Redis shards, {BUSY:.0%} of a core busy", *(f"{s['redis_shards']:,.0f}" for s in sums)])
        derived.append(
            [f"memory for {USERS / 1e6:,.0f} M users, before {COPIES} copies", *(f"{s['redis_gb']:,.0f} GB" for s in sums)]
        )
    else:
        derived.append(["Redis shards", *["not measured: no redis-server on PATH"] * len(cells)])
    return (
        f"Measured with {result['family']}; the machine has {result['cores']} cores and a load of {result['load_before']:g} "
        f"before the run.\n\n{table(head, measured)}\n\nFor {TARGET:,} requests a second:\n\n{table(head, derived)}"
    )
