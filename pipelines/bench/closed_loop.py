"""Closed-loop clients: so many connections, each asking again as soon as it was answered.  Used by `pipelines.bench.serve`
and by answers.

`wrk` (Debian's package) where it is installed, because a client in C leaves the cores to the server; else asyncio, which counts
the same things.  wrk ends by time and leaves a request a connection unanswered, the asyncio client waits for every answer: that
one is for servers so slow that those few would matter.
"""

import asyncio
import json
import re
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from infra.errors import ExplainedError
from pipelines.bench.population import message

TIMEOUT_S = 30
SCRIPT = """
local requests, at = {}, 0
function init(args)
  wrk.headers["Content-Type"] = "application/json"
  for line in io.lines(args[1]) do requests[#requests + 1] = wrk.format("POST", nil, nil, line) end
  at = tonumber(args[2]) - 1 -- wrk asks for one request before the first, to look at it
end
function request()
  at = at % #requests + 1
  return requests[at]
end
function done(summary, latency, _)
  local e = summary.errors
  io.write(string.format('found {"requests": %d, "us": %d, "p50_us": %d, "p99_us": %d, "refused": %d, "broken": %d}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), e.status,
    e.connect + e.read + e.write + e.timeout))
end
"""


@dataclass(frozen=True, slots=True)
class Load:
    """How one measurement drives the server."""

    candidates: int
    connections: int
    requests: int
    seconds: float  # ends earlier than `requests` when this is over


@dataclass(frozen=True, slots=True)
class Closed:
    """What a closed loop saw."""

    client: str
    requests: int  # answered 200
    seconds: float
    p50_ms: float
    p99_ms: float
    client_cpu: float  # of one core


def have_wrk() -> bool:
    """Whether wrk can be run."""
    return shutil.which("wrk") is not None


def by_wrk(port: int, path: str, bodies: Sequence[bytes], first: int, connections: int, seconds: int) -> Closed:
    """Drive with wrk for whole seconds, with the bodies in turn from the one after `first` on.

    Its percentiles are corrected for what a waiting connection did not ask (wrk 4: `stats_correct`), to the microsecond.
    Raises ExplainedError where a request was refused or a connection broke."""
    with tempfile.TemporaryDirectory() as folder:
        script, lines = Path(folder, "cycle.lua"), Path(folder, "bodies.jsonl")
        script.write_text(SCRIPT)
        lines.write_bytes(b"\n".join(bodies) + b"\n")
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", f"--timeout={TIMEOUT_S}s", "-s", str(script)]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [*command, f"http://127.0.0.1:{port}{path}", "--", str(lines), str(first % len(bodies))],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        raise ExplainedError(f"wrk ended with status {done.returncode}:\n{done.stdout}{done.stderr}")
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return read_wrk(done.stdout, used)


def read_wrk(said: str, cpu_s: float) -> Closed:
    """The line that SCRIPT's `done` printed."""
    line = re.search(r"^found (\{.*\})$", said, re.MULTILINE)
    if line is None:
        raise ExplainedError(f"wrk printed no line of figures; it said:\n{said}")
    found = json.loads(line[1])
    if found["refused"] or found["broken"] or not found["requests"]:
        raise ExplainedError(
            f"wrk: {found['requests']} requests, of which {found['refused']} were refused; {found['broken']} connections broke"
        )
    seconds = found["us"] / 1e6
    return Closed("wrk", found["requests"], seconds, found["p50_us"] / 1e3, found["p99_us"] / 1e3, cpu_s / seconds)


def by_asyncio(port: int, path: str, bodies: Sequence[bytes], first: int, load: Load) -> Closed:
    """Drive with asyncio until `load` is over; every request that was sent is answered."""
    sent = [message(bodies[(first + i) % len(bodies)], path) for i in range(min(load.requests, len(bodies)))]
    return timed("asyncio", drive(port, load, sent))


def timed(client: str, driving: Coroutine[Any, Any, list[float]]) -> Closed:
    """What a client of asyncio saw, that gives its latencies in seconds."""
    cpu, started = time.process_time(), time.perf_counter()
    latencies = asyncio.run(driving)
    seconds, used = time.perf_counter() - started, time.process_time() - cpu
    p50, p99 = np.percentile(latencies, (50, 99)) * 1e3
    return Closed(client, len(latencies), seconds, float(p50), float(p99), used / seconds)


async def drive(port: int, load: Load, bodies: Sequence[bytes]) -> list[float]:
    """Latencies, seconds, of a closed loop over whole HTTP messages: each connection sends its next request when the answer to
    the last one is whole.  Raises ExplainedError where the server refuses one."""
    latencies: list[float] = []
    sent = iter(range(load.requests))
    end = time.perf_counter() + load.seconds

    async def connection() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
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
        finally:
            writer.close()
            await writer.wait_closed()

    await asyncio.gather(*(connection() for _ in range(load.connections)))
    return latencies
