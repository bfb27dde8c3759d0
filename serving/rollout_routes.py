"""GET /v1/rollout and POST /v1/rollout/changes: the rollout document, read and changed by whoever holds the rollout token.

`add_rollout` puts the routes on the app; `serving.serve` does.  They do what `clickproof rollout` does: a model that would get
traffic is tried first, the change is written down and takes effect, and every worker follows within moments.
"""

import asyncio
from collections.abc import Callable
from functools import partial

import msgspec
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from infra.errors import ExplainedError
from infra.home import Home
from infra.redaction import redacted
from infra.settings import Settings
from serving import rollout_store
from serving.app import read_body, response
from serving.document import content, responses
from serving.messages import InvalidRequest, decode_as
from serving.metrics import ServingMetrics
from serving.rank_handler import JSON, Reply
from serving.rollout import Rollout, RolloutError, plan
from serving.rollout_messages import AnyChange, Rollback, RolloutAnswer
from serving.write_token import check_token

_DECODER = msgspec.json.Decoder(AnyChange)
_OFF = "this server takes no changes of its rollout by HTTP: start it with CLICKPROOF_ROLLOUT_TOKEN, or use clickproof rollout"
_NEEDED = "this needs the rollout token, as the header 'Authorization: Bearer TOKEN'"


def add_rollout(
    app: FastAPI, home: Home, settings: Settings, metrics: ServingMetrics, tried: Callable[[str], tuple[str, ...]]
) -> None:
    """Add the routes.  `tried` says why a model may not get traffic; it is called in a thread."""

    @app.get(
        "/v1/rollout",
        summary="Who answers requests",
        responses=responses(200, "RolloutAnswer", "The document.", _REASONS, 401, 403, 503),
    )
    async def show(request: Request) -> Response:
        _check(request, settings)
        return _answer(await _explained(partial(rollout_store.read, home)), metrics)

    @app.post(
        "/v1/rollout/changes",
        summary="Change who answers requests",
        openapi_extra={"requestBody": {"required": True, "content": content(*(kind.__name__ for kind in AnyChange.__args__))}},
        responses=responses(
            200, "RolloutAnswer", "The document after the change.", _REASONS, 400, 401, 403, 409, 413, 415, 422, 503
        ),
    )
    async def change(request: Request) -> Response:
        _check(request, settings)
        body = await read_body(request, settings.max_body_bytes)
        if isinstance(body, Reply):
            metrics.ended("rollout", body.status)
            return response(body)
        wanted = decode_as(_DECODER, body)
        return _answer(await _explained(partial(_changed, home, wanted, tried)), metrics)


def _changed(home: Home, wanted: AnyChange, tried: Callable[[str], tuple[str, ...]]) -> Rollout:
    if isinstance(wanted, Rollback):
        return rollout_store.rollback(home, wanted.who, wanted.why, wanted.expected).after
    transition = wanted.transition
    now = rollout_store.read(home)
    transition(now)  # refused before anything is loaded
    for name in wanted.newcomers:
        reasons = tried(name)
        if reasons:
            raise InvalidRequest(422, "artefact", f"{name} gets no traffic: {'; '.join(reasons)}")
    expected = now.number if wanted.expected is None else wanted.expected
    return rollout_store.change(home, wanted.who, wanted.why, transition, expected).after


async def _explained(work: Callable[[], Rollout]) -> Rollout:
    """The result of work in a thread, or its error as an answer."""
    try:
        return await asyncio.to_thread(work)
    except RolloutError as error:
        raise HTTPException(409, redacted(str(error))) from None
    except ExplainedError as error:
        raise HTTPException(503, redacted(str(error))) from None


def _check(request: Request, settings: Settings) -> None:
    if not settings.rollout_token.get_secret_value():
        raise HTTPException(403, _OFF)
    check_token(request, settings.rollout_token, _NEEDED)


def _answer(rollout: Rollout, metrics: ServingMetrics) -> Response:
    metrics.ended("rollout", 200)
    return Response(msgspec.json.encode(RolloutAnswer(rollout, dict(plan(rollout)))), media_type=JSON)


_REASONS = {
    400: "The body is not JSON.",
    401: "The rollout token is missing or wrong.",
    403: "No rollout token is set.",
    409: "The change makes no sense now, or another came first.",
    413: "The body is too long.",
    415: "Not JSON in UTF-8, or compressed.",
    422: "A field is wrong, or the model may not get traffic.",
    503: "There is no champion, or the registry does not answer.",
}
