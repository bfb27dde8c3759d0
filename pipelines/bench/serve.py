"""What a request costs end to end: the real server as its own process, driven over keep-alive connections.  Called by
`clickproof bench serve`.

Physics first: the model alone takes what `raw_inference_us` says, an endpoint that does nothing but read a body what `noop`
says; all else is finding features, encoding, deciding and logging.  Closed loop, bounded in requests and in time, on a
branch of the home, so that the prediction log that people monitor stays as it is.
"""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
import pyarrow as pa

from features.catalogue import Entity
from features.requests import context_column
from features.sources import AsOfSource
from infra import branch
from infra.errors import ExplainedError
from infra.home import Home
from infra.lake import Lake, watermark_us
from models.artefact import Artefact
from serving.champion import champion
from serving.messages import context_names
from serving.scorer import RankRequest, candidate_rows, fetch

SERVE = """
import sys
from pathlib import Path
from infra.home import Home
from infra.settings import Settings
from serving.serve import serve
serve(Home(Path(sys.argv[1])), Settings(host="127.0.0.1", port=int(sys.argv[2])))
"""
_NOOP = """
import sys
from pipelines.bench.serve import serve_noop
serve_noop(int(sys.argv[2]))
"""
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
START_S = 90.0  # a busy machine takes its time to import everything


@dataclass(frozen=True, slots=True)
class Load:
    """How one measurement drives the server."""

    candidates: int
    connections: int
    requests: int
    seconds: float  # ends earlier than `requests` when this is over


def run(home: Home, requests: int = 2000, seconds: float = 10.0, seed: int = 0) -> dict[str, Any]:
    """Requests a second, latencies (ms) and processor time a request (us) for 20 and 100 candidates on 1 and 16 connections.

    Each measurement ends after `requests` or `seconds`, whichever is first.  Raises ExplainedError where the server
    does not start.
    """
    artefact = champion(home)
    asked = Population.of(home, artefact, seed)
    loads = [Load(n, connections, requests, seconds) for n in (20, 100) for connections in (1, 16)]
    bodies = {n: asked.bodies(n, 512) for n in (20, 100)}
    workplace = branch.create(home, f"bench-serve-{os.getpid()}")
    try:
        served = _measured(SERVE, workplace.root, loads, bodies)
    finally:
        branch.drop(workplace)
    noop = _measured(_NOOP, home.root, loads, bodies)
    raw = {n: _raw_inference_us(home, artefact, asked, n) for n in (20, 100)}
    cells = []
    for load, ours, floor in zip(loads, served, noop, strict=True):
        cells.append(
            {
                "candidates": load.candidates,
                "connections": load.connections,
                **ours,
                "cpu_over_noop": round(ours["cpu_us"] / floor["cpu_us"], 2),
                "cpu_over_raw_inference": round(ours["cpu_us"] / raw[load.candidates], 2),
                "noop": floor,
            }
        )
    return {
        "family": artefact.family,
        "model": artefact.hash,
        "raw_inference_us": {str(n): round(us, 1) for n, us in raw.items()},
        "cells": cells,
    }


@dataclass(frozen=True, slots=True)
class Population:
    """Users, ads and contexts that occur on the lake's last day, to ask about."""

    users: np.ndarray
    ads: np.ndarray
    context: dict[str, list[Any]]  # by name, values aligned with each other
    rng: np.random.Generator

    @classmethod
    def of(cls, home: Home, artefact: Artefact, seed: int) -> "Population":
        lake, names = Lake.of(home), context_names(artefact.spec.names)
        rows: pa.Table = lake.read("impressions", ["user_id", "ad_id", *names], lake.days("impressions")[-1:])
        context = {name: context_column(rows[name]).tolist() for name in names}
        users = rows["user_id"].fill_null(-1).to_numpy()
        return cls(users, np.unique(rows["ad_id"].to_numpy()), context, np.random.default_rng(seed))

    def request(self, n: int) -> RankRequest:
        """A user of the day in a context of the day, with n of its ads (with all of them, where there are fewer)."""
        row = int(self.rng.integers(len(self.users)))
        ads = self.rng.choice(self.ads, min(n, len(self.ads)), replace=False)
        return RankRequest(int(self.users[row]), ads, 4, {name: values[row] for name, values in self.context.items()})

    def bodies(self, n: int, count: int) -> list[bytes]:
        """Requests as whole HTTP/1.1 messages."""
        return [_message(self.request(n)) for _ in range(count)]


def _message(request: RankRequest) -> bytes:
    fields: dict[str, Any] = {"candidates": request.ad_id.tolist(), "slots": request.slots, "context": request.context}
    if request.user_id >= 0:
        fields["user_id"] = request.user_id
    body = msgspec.json.encode(fields)
    head = f"POST /v1/rank HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _raw_inference_us(home: Home, artefact: Artefact, asked: Population, n: int) -> float:
    """Processor time of the model alone on n rows that are encoded already, us; of the whole artefact where a family
    can't be split."""
    at_us = watermark_us(home)
    entities = cast(tuple[Entity, ...], artefact.entities)
    source = AsOfSource(home, entities, context_names(artefact.spec.names), artefact.service)
    columns = fetch(source, candidate_rows(asked.request(n), at_us)).columns
    return cpu_us(raw_model(artefact, columns), 500)


def raw_model(artefact: Artefact, columns: Any) -> Callable[[], Any]:
    """The model without encoder and calibration on rows encoded beforehand: XGBoost's inplace_predict; `score` of other
    families."""
    from models.boosted_trees import BoostedTrees

    model = artefact.model
    if not isinstance(model, BoostedTrees) or model.booster is None:
        return lambda: artefact.score(columns)
    booster, encoder = model.booster, model.encoder
    small = [encoder.spec.categorical[i] for i in model.small]
    matrix = np.concatenate([encoder.numbers(columns), encoder.codes(columns, small).astype(np.float32)], axis=1)
    return lambda: booster.inplace_predict(matrix, predict_type="margin", validate_features=False)


def cpu_us(call: Callable[[], Any], times: int) -> float:
    """Processor time of one call, us: the median of ten batches."""
    call()
    batches = []
    for _ in range(10):
        started = time.process_time()
        for _ in range(max(times // 10, 1)):
            call()
        batches.append((time.process_time() - started) / max(times // 10, 1))
    return float(np.median(batches) * 1e6)


def _measured(program: str, root: Path, loads: list[Load], bodies: dict[int, list[bytes]]) -> list[dict[str, float]]:
    """Start a server, drive it with each load after a short warm-up, end it."""
    with server(program, root) as (port, pid):
        found = []
        for load in loads:
            warm = Load(load.candidates, load.connections, 100, load.seconds)
            asyncio.run(drive(port, warm, bodies[load.candidates]))
            before, started = cpu_seconds(pid), time.perf_counter()
            latencies = asyncio.run(drive(port, load, bodies[load.candidates]))
            wall = time.perf_counter() - started
            found.append(
                {
                    "requests": len(latencies),
                    "rps": round(len(latencies) / wall, 1),
                    "p50_ms": round(float(np.percentile(latencies, 50)) * 1e3, 3),
                    "p99_ms": round(float(np.percentile(latencies, 99)) * 1e3, 3),
                    "cpu_us": round(max(cpu_seconds(pid) - before, 1 / _TICKS_PER_S) / len(latencies) * 1e6, 1),
                }
            )
    return found


@contextmanager
def server(program: str, root: Path) -> Iterator[tuple[int, int]]:
    """(port, pid) of a server process on a free loopback port, ready; ended by its pid afterwards."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-c", program, str(root), str(port)], stderr=subprocess.PIPE)
    try:
        _wait_ready(process, port)
        yield port, process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def _wait_ready(process: "subprocess.Popen[bytes]", port: int) -> None:
    end = time.perf_counter() + START_S
    last = b"no answer"
    while time.perf_counter() < end:
        if process.poll() is not None:
            assert process.stderr is not None
            said = process.stderr.read().decode()[-2000:]
            raise ExplainedError(f"the server ended with status {process.returncode}:\n{said}")
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=5) as link:
                link.sendall(b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
                last = link.makefile("rb").read()
        except ConnectionError:
            last = b"no connection"
        if last.startswith(b"HTTP/1.1 200"):
            return
        if b"no model could be loaded" in last:
            break
        time.sleep(0.1)
    raise ExplainedError(f"the server was not ready after {START_S:g} s; /readyz said: {last.decode()[-500:]}")


def cpu_seconds(pid: int) -> float:
    """Processor seconds that a process has used, user and system, all threads; in ticks of 10 ms on most systems."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


async def drive(port: int, load: Load, bodies: list[bytes]) -> list[float]:
    """Latencies, seconds, of a closed loop: each connection sends its next request when the answer to the last one is
    whole."""
    latencies: list[float] = []
    sent = iter(range(load.requests))
    end = time.perf_counter() + load.seconds

    async def connection() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number in sent:
            started = time.perf_counter()
            if started > end:
                break
            writer.write(bodies[number % len(bodies)])
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            body = await reader.readexactly(length)
            latencies.append(time.perf_counter() - started)
            if not head.startswith(b"HTTP/1.1 200"):
                raise ExplainedError(f"the server refused a request: {head[:40].decode()} {body[:500].decode()}")
        writer.close()
        await writer.wait_closed()

    await asyncio.gather(*(connection() for _ in range(load.connections)))
    return latencies


def serve_noop(port: int) -> None:
    """A FastAPI server that reads the body and answers a constant: the floor for any endpoint made of the same parts."""
    import uvicorn
    from fastapi import FastAPI, Request, Response

    app = FastAPI()

    @app.post("/v1/rank")
    async def rank(request: Request) -> Response:
        await request.body()
        return Response(b"{}", media_type="application/json")

    @app.get("/readyz")
    async def readyz() -> dict[str, str]:
        return {"status": "ready"}

    uvicorn.run(app, host="127.0.0.1", port=port, access_log=False, log_level="warning")
