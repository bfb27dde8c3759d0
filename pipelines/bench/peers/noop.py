"""Servers that read a body and answer nothing: the floor for any endpoint made of the same parts.

Started by `pipelines.bench.serve`: a FastAPI route, a bare ASGI function, and our own front door, which goes past ASGI, with
nothing behind it.
"""

import time
from typing import Any

import uvicorn

from infra.settings import Settings
from serving.connections import within_limits
from serving.front_door import front_door
from serving.metrics import ServingMetrics
from serving.rank_handler import REST, RankHandler, Reply, ServerState, Wanted, Wire

PROGRAM = """
import sys
from pipelines.bench.peers.noop import serve
serve(int(sys.argv[2]), sys.argv[3], *map(float, sys.argv[4:]))
"""
KINDS = ("fastapi", "asgi", "door")
_HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"2")]


def serve(port: int, kind: str, busy_us: float = 0.0) -> None:
    """Serve one of KINDS until told to stop.  Behind our front door each answer takes `busy_us` of processor time, so that
    HTTP can be measured at the pace of a real endpoint: without, one turn of the event loop serves many requests."""
    app: Any = _fastapi() if kind == "fastapi" else _asgi
    options: dict[str, Any] = {}
    if kind == "door":
        chosen = Settings(host="127.0.0.1", port=port, max_wait_ms=1e6)  # a pause of the machine must not refuse anybody
        options = within_limits(chosen, front_door(_Nothing(chosen, busy_us)))
    uvicorn.run(app, host="127.0.0.1", port=port, access_log=False, log_level="warning", lifespan="off", **options)


class _Nothing(RankHandler):
    """Has an answer to every body."""

    def __init__(self, chosen: Settings, busy_us: float) -> None:
        super().__init__(ServerState(), chosen, ServingMetrics())
        self._busy_ns = int(busy_us * 1e3)

    def read(self, body: bytes, wire: Wire = REST) -> "Wanted | Reply":
        end = time.thread_time_ns() + self._busy_ns
        while self._busy_ns and time.thread_time_ns() < end:
            pass
        return Reply(200, b"{}")


def _fastapi() -> Any:
    from fastapi import FastAPI, Request, Response

    app = FastAPI()

    @app.post("/v1/rank")
    async def rank(request: Request) -> Response:
        await request.body()
        return Response(b"{}", media_type="application/json")

    @app.get("/readyz")
    async def readyz() -> Response:
        return Response(b"{}", media_type="application/json")

    return app


async def _asgi(scope: Any, receive: Any, send: Any) -> None:
    more = True
    while more:
        message = await receive()
        more = message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
    await send({"type": "http.response.body", "body": b"{}"})
