"""The REST endpoint: POST /v1/rank, GET /v1/model, /healthz, /readyz and /metrics.  Built by `serving.serve` and by tests.

What POST /v1/rank does is in `serving.rank_handler`; a server answers it through `serving.front_door` before it gets here, and
this module has the same route for whoever mounts the application elsewhere, its description, and everything else.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from time import perf_counter_ns
from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from features.online import OnlineSource
from infra.errors import ExplainedError
from infra.redaction import redacted
from infra.settings import Settings
from serving.document import content, describe, responses
from serving.event_loop import feel
from serving.messages import InvalidRequest
from serving.metrics import ROUTES, ServingMetrics
from serving.rank_handler import JSON, RankHandler, Reply, ServerState, Service, body_problem, problem, too_long, unready

RETRY_S = 2.0  # between attempts to load a model
HELD_S = 0.02  # between looks whether to listen
RENEW_S = 0.1  # between looks whether another is wanted
_log = logging.getLogger("clickproof.serving")


def create_app(
    load: Callable[[], Service],
    settings: Settings,
    metrics: ServingMetrics | None = None,
    renew: Callable[[], Service | None] | None = None,
    held: Callable[[bool], bool] | None = None,
) -> FastAPI:
    """The endpoint.  `load` runs in a thread when the server starts; until it is done /readyz and /v1/rank answer 503.

    Where `load` raises, /readyz goes on answering 503 with the reason.  `renew` is called in a thread every RENEW_S from
    then on; what it returns takes the service's place between two requests, None changes nothing.  `metrics` is for who wants
    to keep single timings.  While `held`, told whether a model is loaded, says so, the server does not begin to listen.
    `app.state.rank` is the handler that `serving.front_door` shares.
    """
    state, metrics = ServerState(), metrics or ServingMetrics()
    handler = RankHandler(state, settings, metrics)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        stopping = asyncio.Event()
        loading = asyncio.create_task(_load(load, renew, handler, stopping))
        while held is not None and held(state.service is not None):
            await asyncio.sleep(HELD_S)
        feeling = asyncio.create_task(feel(metrics.counts.loop))
        yield
        stopping.set()
        feeling.cancel()
        await loading  # a thread can't be cancelled; its log must be closed too
        if state.service is not None:
            try:
                state.service.scorer.close()
            except OSError as error:  # it says what to do; the event log must be closed too
                _log.error("%s", error)

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
        openapi_extra={"requestBody": {"required": True, "content": content("RankBody")}},
        responses=responses(200, "RankAnswer", "The slate, top slot first.", _REASONS, 400, 413, 415, 422, 503),
    )
    async def rank(request: Request) -> Response:
        started = perf_counter_ns()
        body = await read_body(request, settings.max_body_bytes)
        wanted = handler.refused(body) if isinstance(body, Reply) else handler.read(body)
        if isinstance(wanted, Reply):
            return response(wanted)
        ahead = handler.ahead(wanted)
        if ahead is not None:
            await ahead
        return response(handler.answer(wanted, started))

    @app.get(
        "/v1/model", summary="What is served", responses=responses(200, "ModelAnswer", "The model version.", _REASONS, 503)
    )
    async def model() -> Response:
        if state.service is None:
            return response(_other(unready(state)))
        return Response(msgspec.json.encode(state.service.description), media_type=JSON)

    @app.get("/healthz", summary="The process runs")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz", summary="A model is loaded", responses=responses(200, None, "Ready.", _REASONS, 503))
    async def readyz() -> Response:
        if state.service is None:
            return response(_other(unready(state)))
        return Response(msgspec.json.encode({"status": "ready", "model": state.service.description.model}), media_type=JSON)

    @app.get("/metrics", summary="Prometheus metrics", response_class=Response)
    async def metrics_text() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    def _other(reply: Reply) -> Reply:
        metrics.ended("other", reply.status)
        return reply

    def failed(request: Request, reply: Reply, headers: Mapping[str, str] | None = None) -> Response:
        route = request.url.path.removeprefix("/v1/").partition("/")[0]
        route = route if route in ROUTES else "other"
        metrics.ended(route, reply.status)
        handler.refusals.tell(route, reply.status)
        return response(reply, headers)

    @app.exception_handler(InvalidRequest)
    async def invalid(request: Request, error: InvalidRequest) -> Response:
        return failed(request, problem(error.status, error.field, error.message))

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        return failed(request, problem(error.status_code, None, str(error.detail)), error.headers)

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: ClientDisconnect) -> Response:
        return failed(request, problem(400, None, "the client left before its request was complete"))

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> Response:
        return failed(request, problem(500, None, "the server failed; its own log says why"))

    def document() -> dict[str, Any]:
        return describe(app, settings.max_candidates, state.service.context if state.service else None)

    app.state.rank = handler
    app.openapi = document  # type: ignore[method-assign]  # how FastAPI lets its document be replaced
    return app


async def _load(
    load: Callable[[], Service], renew: Callable[[], Service | None] | None, handler: RankHandler, stopping: asyncio.Event
) -> None:
    """Load in a thread, so that /healthz answers meanwhile, and load again what takes its place.

    A failure is kept for /readyz rather than ending the process, and tried again: a registry, a store or a disk comes back, and
    a first model may still be in training.  A failure to renew leaves the service as it is."""
    state, pause, said = handler.state, RETRY_S, ""
    attempt: Callable[[], Service | None] = load
    while not stopping.is_set():
        try:
            service = await asyncio.to_thread(attempt)
        except Exception as error:  # noqa: BLE001 - whatever it is, /readyz or the log says it
            expected = isinstance(error, ExplainedError)
            failure = redacted(str(error) if expected else f"{type(error).__name__}: {error}")
            if failure != said:
                _log.error("no model could be loaded: %s", failure, exc_info=not expected)
            said = failure
            state.failure = failure if state.service is None else None
        else:
            said = ""
            if service is not None:
                _put(service, handler)
            if renew is None:
                return
            attempt, pause = renew, RENEW_S
        with suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), pause)


def _put(service: Service, handler: RankHandler) -> None:
    """From now on this is what answers: one assignment between two requests."""
    state, about = handler.state, service.description
    arms = {arm: about.others.get(arm, about.model) for arm in about.arms}
    handler.metrics.loaded(about.model, about.encoder, about.family, arms)
    source = service.scorer.source
    if isinstance(source, OnlineSource) and (state.service is None or state.service.scorer.source is not source):
        handler.metrics.watch([source], service.scorer.clock)
        source.read_ahead(handler.settings.store_timeout_ms / 1e3)
    if service.scorer.log is not None:
        handler.metrics.watch_log("predictions", service.scorer.log.files)
    state.service, state.failure = service, None


async def read_body(request: Request, limit: int) -> bytes | Reply:
    """The body of a JSON request, never holding more than `limit` bytes and what came with the last packet; or what is wrong
    with it, as soon as that is known."""
    headers = request.headers
    refusal = body_problem(
        headers.get("content-type", ""), headers.get("content-encoding", ""), headers.get("content-length", ""), limit
    )
    if refusal is not None:
        return refusal
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > limit:
            return too_long(limit)
    return bytes(body)


def response(reply: Reply, headers: Mapping[str, str] | None = None) -> Response:
    """A reply as FastAPI sends it."""
    more = {} if reply.retry_after_s is None else {"Retry-After": str(reply.retry_after_s)}
    return Response(reply.json, reply.status, media_type=JSON, headers={**(headers or {}), **more})


_REASONS = {
    400: "The body is not JSON.",
    413: "The body is too long.",
    415: "Not JSON in UTF-8, or compressed.",
    422: "A field is wrong; it is named.",
    503: "Not ready.",
}
