"""Servers that read a body and answer nothing: the floor for any endpoint made of the same parts.

Started by `pipelines.bench.serve`: a FastAPI route, a bare ASGI function, and our own front door, which goes past ASGI, with
nothing behind it.
"""

import time
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import uvicorn

from infra.settings import Settings
from serving.connections import within_limits
from serving.front_door import front_door
from serving.metrics import ServingMetrics
from serving.rank_handler import REST, RankHandler, Reply, ServerState, Service, Wanted, Wire
from serving.scorer import RankRequest

PROGRAM = """
import sys
from pipelines.bench.peers.noop import serve
serve(int(sys.argv[2]), sys.argv[3], *map(float, sys.argv[4:]))
"""
MODEL_BYTES = 256 << 10  # as the measured trees have: who scores leaves little of the code for HTTP in the caches
KINDS = ("fastapi", "asgi", "door")
_HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"2")]


def serve(port: int, kind: str, busy_us: float = 0.0) -> None:
    """Serve one of KINDS until told to stop.  Behind our front door each answer may take `busy_us` of processor time, so that
    HTTP can be measured at the pace and in the turns of a real endpoint: without, one turn serves all who wait."""
    app: Any = _fastapi() if kind == "fastapi" else _asgi
    options: dict[str, Any] = {}
    if kind == "door":
        chosen = Settings(host="127.0.0.1", port=port, max_wait_ms=1e6)  # a pause of the machine must not refuse anybody
        options = within_limits(chosen, front_door(_Busy(chosen, busy_us) if busy_us else _Nothing(chosen)))
    uvicorn.run(app, host="127.0.0.1", port=port, access_log=False, log_level="warning", lifespan="off", **options)


class _Nothing(RankHandler):
    """Has an answer to every body, as if it were refused."""

    def __init__(self, chosen: Settings) -> None:
        super().__init__(ServerState(), chosen, ServingMetrics())

    def read(self, body: bytes, wire: Wire = REST) -> "Wanted | Reply":
        return Reply(200, b"{}")


class _Busy(_Nothing):
    """Takes its time for every body, in the turns of the event loop in which requests are answered."""

    def __init__(self, chosen: Settings, busy_us: float) -> None:
        super().__init__(chosen)
        self._busy_ns = int(busy_us * 1e3)
        self._model = np.zeros(MODEL_BYTES // 8)
        self._wanted = Wanted(cast(Service, None), cast(RankRequest, None), 0, REST)

    def read(self, body: bytes, wire: Wire = REST) -> "Wanted | Reply":
        return self._wanted

    def ahead(self, wanted: Wanted) -> None:
        return None

    def answer_many(self, wanted: Sequence[Wanted], started_ns: Sequence[int]) -> list[Reply]:
        end = time.thread_time_ns() + self._busy_ns * len(wanted)
        while time.thread_time_ns() < end:
            self._model.sum()
        return [Reply(200, b"{}") for _ in wanted]


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
