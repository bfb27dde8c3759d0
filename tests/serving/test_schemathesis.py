"""The OpenAPI document against the server it describes: Schemathesis makes requests that fit it and requests that don't."""

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from real_server import RealServer, request
from schemathesis.config import GenerationConfig, ProjectConfig, ProjectsConfig, SchemathesisConfig
from small_market import SPEC

from infra.settings import Settings
from serving.app import Service, create_app
from serving.document import describe
from serving.messages import context_kinds

Seen = Counter[tuple[str, int]]  # answers by path and status
EXAMPLES = 200  # of a route, besides the cases at the borders of the document


def nothing() -> Service:
    raise AssertionError("only the document is asked for here")


PROJECT = ProjectConfig(generation=GenerationConfig(max_examples=EXAMPLES, deterministic=True))
CONFIG = SchemathesisConfig(seed=1, projects=ProjectsConfig(default=PROJECT))
CONTEXT = context_kinds(SPEC.context)
SAID = describe(create_app(nothing, Settings()), Settings().max_candidates, CONTEXT)
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


@DOCUMENT.parametrize()
def test_every_route_answers_as_its_document_says(case, real_server: RealServer, seen: Seen) -> None:
    """No 5xx; documented status, content type, body and headers; what the document allows is taken, the rest is refused."""
    answer = case.call(base_url=real_server.url)
    seen[case.path, answer.status_code] += 1
    if isinstance(case.body, dict) and (same_ad_at_two_prices(case.body) or written_with_a_point(case.body)):
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


def candidates(body: dict[str, Any]) -> list[Any]:
    given = body.get("candidates")
    return given if isinstance(given, list) else []


def test_the_server_gives_that_document(real_server: RealServer) -> None:
    said = real_server.send(request("GET", "/openapi.json"))
    assert said is not None
    assert json.loads(said.body) == SAID
    assert set(SAID["paths"]) >= {"/v1/rank", "/v1/model", "/healthz", "/readyz", "/metrics"}
