"""Servers that read a body and answer nothing: the floor for any endpoint made of the same parts.

Started by `pipelines.bench.serve`; with FastAPI, and as a bare ASGI function under the same uvicorn.
"""

from typing import Any

PROGRAM = """
import sys
from pipelines.bench.peers.noop import serve
serve(int(sys.argv[2]), sys.argv[3])
"""
KINDS = ("fastapi", "asgi")
_HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"2")]


def serve(port: int, kind: str) -> None:
    """Serve one of KINDS until told to stop."""
    import uvicorn

    app = _fastapi() if kind == "fastapi" else _asgi
    uvicorn.run(app, host="127.0.0.1", port=port, access_log=False, log_level="warning", lifespan="off")


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
