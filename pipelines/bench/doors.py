"""REST and gRPC: the same requests to the same process by two doors, from clients of the same kind.

Called by `pipelines.bench.serve`.  Both clients are Python's asyncio: one that writes HTTP/1.1 itself, on so many connections,
and `grpc.aio`, with so many calls under way on one connection.  gRPC's takes more of the client's core, which is not compared;
it delays answers, though, so latencies are of door and client together.
"""

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import grpc.aio
import msgspec

from infra.errors import ExplainedError
from infra.home import Home
from pipelines.bench.closed_loop import Closed, Load, by_asyncio, timed
from pipelines.bench.contest import SLOW_S, Contestant, side_by_side
from pipelines.bench.processes import SERVE, free_port, server
from pipelines.console import say
from serving import clickproof_pb2 as pb

RANK = "/clickproof.v1.Ranking/Rank"
SECONDS = 2  # a round


def compare(
    work: Home, bodies: Mapping[int, Sequence[bytes]], loads: Sequence[tuple[int, int]], rounds: int, on: set[int]
) -> dict[str, Any]:
    """{candidates: {connections: {rest, grpc: figures, cpu_ratio: gRPC's processor time over REST's, bytes: of a request}}}."""
    say("REST and gRPC")
    port = free_port()
    settings = {"grpc_port": port, "max_wait_ms": SLOW_S * 1e3}
    written = {n: [message(body) for body in several] for n, several in bodies.items()}
    with server(SERVE, work.root, json.dumps(settings), on=on) as one:
        rest = Contestant("rest", one, bodies, client=by_asyncio)
        rpc = Contestant("grpc", one._replace(port=port), written, RANK, client=by_grpc)
        cells = side_by_side([rest, rpc], loads, rounds, SECONDS)
    found: dict[str, dict[str, Any]] = {}
    for n, connections in loads:
        both = {name: of_one[n, connections] for name, of_one in cells.items()}
        found.setdefault(str(n), {})[str(connections)] = {
            **{name: cell.figures() for name, cell in both.items()},
            "cpu_ratio": round(both["grpc"].cpu_us / both["rest"].cpu_us, 3),
            "bytes": {"rest": _mean_length(bodies[n]), "grpc": _mean_length(written[n])},
        }
    return found


def _mean_length(bodies: Sequence[bytes]) -> int:
    return round(sum(map(len, bodies)) / len(bodies))


def message(body: bytes) -> bytes:
    """The `RankRequest` that asks what this body of POST /v1/rank does; candidates without bids."""
    given: dict[str, Any] = msgspec.json.decode(body)
    context = {
        name: pb.ContextValue(text=value) if isinstance(value, str) else pb.ContextValue(number=value)
        for name, value in given.pop("context").items()
    }
    return pb.RankRequest(**given, context=context).SerializeToString()


def by_grpc(port: int, path: str, bodies: Sequence[bytes], first: int, load: Load) -> Closed:
    """`by_asyncio` with calls on one connection; bodies are whole messages."""
    return timed("grpc.aio", _drive(port, path, bodies, first, load))


async def _drive(port: int, path: str, bodies: Sequence[bytes], first: int, load: Load) -> list[float]:
    latencies: list[float] = []
    sent = iter(range(first, first + load.requests))
    end = time.perf_counter() + load.seconds
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", [("grpc.enable_http_proxy", 0)]) as channel:
        call = channel.unary_unary(path)

        async def stream() -> None:
            for number in sent:
                started = time.perf_counter()
                if started > end:
                    break
                try:
                    await call(bodies[number % len(bodies)])
                except grpc.aio.AioRpcError as error:
                    raise ExplainedError(f"the server refused a call: {error.code()}: {error.details()}") from error
                latencies.append(time.perf_counter() - started)

        await asyncio.gather(*(stream() for _ in range(load.connections)))
    return latencies
