"""The OpenAPI document: FastAPI's routes with the schemas of our msgspec structs, and with this server's limits.  Made by
`serving.app`.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from features.catalogue import Kind
from serving.event_messages import Receipt, SentClicks
from serving.messages import ErrorAnswer, ModelAnswer, RankAnswer, RankBody, Whole, Word
from serving.rollout_messages import AnyChange, RolloutAnswer

SCHEMAS = "#/components/schemas/"
_EVERY_ROUTE = (
    " Besides what each route lists: 400 for what is not HTTP/1.1, 421 for a Host header that is not this server's, 431 for a"
    " head that is too long, 503 where there are too many connections, and 405 for another method; all with an ErrorAnswer."
)


def content(*schemas: str) -> dict[str, Any]:
    """A JSON body of one of the schemas, in the document's words."""
    found = [{"$ref": SCHEMAS + name} for name in schemas]
    return {"application/json": {"schema": found[0] if len(found) == 1 else {"anyOf": found}}}


def responses(
    success: int, schema: str | None, description: str, reasons: Mapping[int, str], *errors: int
) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route: its success, and an ErrorAnswer for each of `errors`, whose meanings are in `reasons`."""
    found: dict[int | str, dict[str, Any]] = {
        status: {"description": reasons[status], "content": content("ErrorAnswer")} for status in errors
    }
    found[success] = {"description": description, **({"content": content(schema)} if schema else {})}
    return found


def describe(app: FastAPI, max_candidates: int, context: Mapping[str, Kind] | None) -> dict[str, Any]:
    """The document; `context` is what a request's context may hold, None while no model is loaded that says so."""
    document = get_openapi(title=app.title, version=app.version, description=app.description + _EVERY_ROUTE, routes=app.routes)
    _, schemas = msgspec.json.schema_components(
        [RankBody, RankAnswer, ModelAnswer, ErrorAnswer, SentClicks, Receipt, RolloutAnswer, *AnyChange.__args__],
        ref_template=SCHEMAS + "{name}",
    )
    body = schemas["RankBody"]["properties"]
    body["candidates"] = _either_all_or_none_has_a_bid(body["candidates"], max_candidates)
    if context is not None:
        body["context"] |= {"properties": {name: _field(kind) for name, kind in context.items()}, "additionalProperties": False}
    document.setdefault("components", {}).setdefault("schemas", {}).update(schemas)
    return document


def _either_all_or_none_has_a_bid(candidates: dict[str, Any], most: int) -> dict[str, Any]:
    """The schema of the candidates, which Python's types can't say: all are ids, or all have bids; no id is there twice."""
    kinds = candidates["items"]["anyOf"]
    limits = {"type": "array", "minItems": candidates["minItems"], "maxItems": most, "uniqueItems": True}
    return {"anyOf": [{**limits, "items": kind} for kind in kinds], "description": "Ads, each once."}


def _field(kind: Kind) -> dict[str, Any]:
    """A field of the context: of its type, or null."""
    return msgspec.json.schema(Word | None if kind == "string" else Whole | None)
