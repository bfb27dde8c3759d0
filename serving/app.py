"""The REST endpoint: POST /v1/rank, GET /v1/model, /healthz, /readyz and /metrics.  Built by `serving.serve` and by tests.

Bodies go through msgspec and numpy, not through pydantic rows: those cost several times the model itself.  The scorer runs in
the event loop on purpose: it is short and bound by the processor, so a hand-over to threads would only add to it; more
processes scale it.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from features.catalogue import Kind
from infra.errors import ExplainedError
from infra.redaction import redacted
from infra.settings import Settings
from serving.document import SCHEMAS, describe
from serving.messages import (
    ErrorAnswer,
    InvalidRequest,
    ModelAnswer,
    Problem,
    decode,
    to_answer,
    to_request,
)
from serving.metrics import ServingMetrics
from serving.scorer import Scorer

_JSON = "application/json"
_log = logging.getLogger("clickproof.serving")


@dataclass(frozen=True, slots=True)
class Service:
    """What the endpoint serves: a scorer, the context fields that it takes, and how it describes itself."""

    scorer: Scorer
    context: Mapping[str, Kind]
    description: ModelAnswer


class _State:
    """What changes while the server runs: the service once loaded, or why it could not be loaded."""

    def __init__(self) -> None:
        self.service: Service | None = None
        self.failure: str | None = None


def create_app(load: Callable[[], Service], settings: Settings, metrics: ServingMetrics | None = None) -> FastAPI:
    """The endpoint.  `load` runs in a thread when the server starts; until it is done /readyz and /v1/rank answer 503.

    Where `load` raises, /readyz goes on answering 503 with the reason.  `metrics` is for who wants to keep single timings.
    """
    state, metrics = _State(), metrics or ServingMetrics()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        loading = asyncio.create_task(_load(load, state, metrics))
        yield
        await loading  # a thread can't be cancelled; its log must be closed too
        if state.service is not None and state.service.scorer.log is not None:
            state.service.scorer.log.close()

    app = FastAPI(
        title="Clickproof",
        version="1",
        description="Ranks ads by click probability.",
        lifespan=lifespan,
        docs_url=None,  # these pages fetch their scripts from another host; /openapi.json is the document itself
        redoc_url=None,
        redirect_slashes=False,  # its redirects would repeat whatever the Host header says
    )

    @app.post(
        "/v1/rank",
        summary="Choose the ads to show",
        openapi_extra={"requestBody": {"required": True, "content": _content("RankBody")}},
        responses=_responses("RankAnswer", "The slate, top slot first.", 400, 413, 415, 422, 503),
    )
    async def rank(request: Request) -> Response:
        started = perf_counter_ns()
        service = state.service
        if service is None:
            raise _unready(state)
        about = service.description
        body = await read_body(request, settings.max_body_bytes)
        received = perf_counter_ns()
        wanted = to_request(decode(body), service.context, settings.max_candidates)
        decoded = perf_counter_ns()
        try:
            answer = service.scorer.rank(wanted)
        except OSError as error:
            _log.exception("a request could not be answered")
            raise HTTPException(503, "the prediction log or the feature store failed; the server's own log says why") from error
        ranked = perf_counter_ns()
        content = msgspec.json.encode(to_answer(wanted, answer, about.model, about.policy))
        ended = perf_counter_ns()
        metrics.ranked(answer, decoded - received, ended - ranked, ended - started)
        metrics.ended("rank", 200)
        return Response(content, media_type=_JSON)

    @app.get("/v1/model", summary="What is served", responses=_responses("ModelAnswer", "The model version.", 503))
    async def model() -> Response:
        if state.service is None:
            raise _unready(state)
        return Response(msgspec.json.encode(state.service.description), media_type=_JSON)

    @app.get("/healthz", summary="The process runs")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz", summary="A model is loaded", responses=_responses(None, "Ready.", 503))
    async def readyz() -> Response:
        if state.service is None:
            raise _unready(state)
        return Response(msgspec.json.encode({"status": "ready", "model": state.service.description.model}), media_type=_JSON)

    @app.get("/metrics", summary="Prometheus metrics", response_class=Response)
    async def metrics_text() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    def failed(
        request: Request, status: int, field: str | None, message: str, headers: Mapping[str, str] | None = None
    ) -> Response:
        metrics.ended("rank" if request.url.path == "/v1/rank" else "other", status)
        return _error(status, field, message, headers)

    @app.exception_handler(InvalidRequest)
    async def invalid(request: Request, error: InvalidRequest) -> Response:
        return failed(request, error.status, error.field, error.message)

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        return failed(request, error.status_code, None, str(error.detail), error.headers)

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: ClientDisconnect) -> Response:
        return failed(request, 400, None, "the client left before its request was complete")

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> Response:
        return failed(request, 500, None, "the server failed; its own log says why")

    def document() -> dict[str, Any]:
        return describe(app, settings.max_candidates, state.service.context if state.service else None)

    app.openapi = document  # type: ignore[method-assign]  # how FastAPI lets its document be replaced
    return app


async def _load(load: Callable[[], Service], state: _State, metrics: ServingMetrics) -> None:
    """Load in a thread, so that /healthz answers meanwhile; a failure is kept for /readyz rather than ending the process."""
    try:
        service = await asyncio.to_thread(load)
    except ExplainedError as error:
        _log.error("no model could be loaded: %s", error)
        state.failure = redacted(str(error))
        return
    except Exception as error:  # noqa: BLE001 - whatever it is, /readyz says it
        _log.exception("no model could be loaded")
        state.failure = redacted(f"{type(error).__name__}: {error}")
        return
    about = service.description
    metrics.loaded(about.model, about.encoder, about.family, list(about.arms))
    state.service = service


async def read_body(request: Request, limit: int) -> bytes:
    """The body of a JSON request, never holding more than `limit` bytes and what came with the last packet.

    Raises InvalidRequest: 415 for another content type or encoding, 413 as soon as the body is known to be too long.
    """
    kind, _, parameters = request.headers.get("content-type", "").lower().partition(";")
    charset = parameters.strip().removeprefix("charset=").strip('"')
    if kind.strip() != _JSON or charset not in ("", "utf-8"):
        raise InvalidRequest(415, None, "send JSON in UTF-8, with the header 'Content-Type: application/json'")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise InvalidRequest(415, None, "send the body uncompressed, without a Content-Encoding")
    too_long = InvalidRequest(413, None, f"the body is longer than {limit} bytes, the most this server takes")
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise too_long
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > limit:
            raise too_long
    return bytes(body)


def _error(status: int, field: str | None, message: str, headers: Mapping[str, str] | None = None) -> Response:
    content = msgspec.json.encode(ErrorAnswer(Problem(field, message)))
    return Response(content, status, media_type=_JSON, headers=dict(headers or {}))


def _unready(state: _State) -> HTTPException:
    if state.failure is not None:
        return HTTPException(503, f"no model could be loaded: {state.failure}")
    return HTTPException(503, "the model is being loaded; try again shortly", {"Retry-After": "1"})


def _content(schema: str) -> dict[str, Any]:
    return {_JSON: {"schema": {"$ref": SCHEMAS + schema}}}


def _responses(success: str | None, description: str, *errors: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route in the OpenAPI document: its success, and the error body for each status it may have."""
    reasons = {
        400: "The body is not JSON.",
        413: "The body is too long.",
        415: "Not JSON in UTF-8, or compressed.",
        422: "A field is wrong; it is named.",
        503: "Not ready.",
    }
    found: dict[int | str, dict[str, Any]] = {
        status: {"description": reasons[status], "content": _content("ErrorAnswer")} for status in errors
    }
    found[200] = {"description": description, **({"content": _content(success)} if success else {})}
    return found
