"""The OpenAPI document against the server it describes: Schemathesis makes requests that fit it and requests that don't."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from real_server import RealServer, request
from schemathesis.config import GenerationConfig, ProjectConfig, ProjectsConfig, SchemathesisConfig
from small_market import SPEC

from infra.home import Home
from infra.settings import Settings
from serving.document import describe
from serving.messages import context_kinds
from serving.metrics import ServingMetrics
from serving.serve import home_app

Seen = Counter[tuple[str, int]]  # answers by path and status
EXAMPLES = 200  # of a route, besides the cases at the borders of the document


def endpoint() -> FastAPI:
    """All routes."""
    return home_app(Home(Path("nowhere")), Settings(), 0, ServingMetrics())


PROJECT = ProjectConfig(generation=GenerationConfig(max_examples=EXAMPLES, deterministic=True))
CONFIG = SchemathesisConfig(seed=1, projects=ProjectsConfig(default=PROJECT))
CONTEXT = context_kinds(SPEC.context)
SAID = describe(endpoint(), Settings().max_candidates, CONTEXT)
DOCUMENT = schemathesis.openapi.from_dict(SAID, config=CONFIG)


@pytest.fixture(scope="module")
def seen() -> Iterator[Seen]:
    """Counts answers, and fails at the end where a kind of request was hardly made: then nothing was tried."""
    counted: Seen = Counter()
    yield counted
    if any(path == "/v1/rank" for path, _ in counted):
        assert counted["/v1/rank", 200] > 30
        assert counted["/v1/rank", 422] > 100
        assert {400, 405, 415} <= {status for path, status in counted if path == "/v1/rank"}
    if any(path == "/v1/events" for path, _ in counted):
        assert counted["/v1/events", 202] > 30
        assert counted["/v1/events", 422] > 100
        assert {400, 405, 415} <= {status for path, status in counted if path == "/v1/events"}


@DOCUMENT.parametrize()
def test_every_route_answers_as_its_document_says(case, real_server: RealServer, seen: Seen) -> None:
    """No 5xx; documented status, content type, body and headers; what the document allows is taken, the rest is refused."""
    answer = case.call(base_url=real_server.url)
    seen[case.path, answer.status_code] += 1
    if isinstance(case.body, dict) and case.path == "/v1/events" and beyond_a_schema(case.body):
        assert answer.status_code in (202, 422)
    elif isinstance(case.body, dict) and (same_ad_at_two_prices(case.body) or written_with_a_point(case.body)):
        assert answer.status_code == 422
    else:
        case.validate_response(answer)


def same_ad_at_two_prices(body: dict[str, Any]) -> bool:
    """What no schema can forbid, and the description of the candidates does."""
    ads = [each.get("ad_id") for each in candidates(body) if isinstance(each, dict)]
    return len(ads) > len({repr(ad) for ad in ads})


def written_with_a_point(body: dict[str, Any]) -> bool:
    """An id such as 7.0 is an integer to JSON Schema.  It is refused, because of large ones a float keeps only the front."""
    ids = [body.get(name) for name in ("user_id", "request_id", "slots")]
    ids += [each.get("ad_id") if isinstance(each, dict) else each for each in candidates(body)]
    context = body.get("context")
    ids += context.values() if isinstance(context, dict) else ()
    return any(isinstance(each, float) for each in ids)


def beyond_a_schema(body: dict[str, Any]) -> bool:
    """A click with a time, which must be near the server's own, or with an id above 2**63 - 1 in digits, or 7.0 for 7."""
    given = body.get("clicks", [body])
    clicks = [each for each in given if isinstance(each, dict)] if isinstance(given, list) else []
    ids = [each.get(name) for each in clicks for name in ("impression_id", "click_id")]
    large = any(isinstance(each, str) and each.isdecimal() and int(each) >= 2**63 for each in ids)
    return large or any(isinstance(each, float) for each in ids) or any(each.get("time") is not None for each in clicks)


def candidates(body: dict[str, Any]) -> list[Any]:
    given = body.get("candidates")
    return given if isinstance(given, list) else []


def test_the_server_gives_that_document(real_server: RealServer) -> None:
    said = real_server.send(request("GET", "/openapi.json"))
    assert said is not None
    assert json.loads(said.body) == SAID
    assert set(SAID["paths"]) >= {"/v1/rank", "/v1/model", "/healthz", "/readyz", "/metrics"}
