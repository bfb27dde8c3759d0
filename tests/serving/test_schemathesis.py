"""The OpenAPI document against the server it describes: Schemathesis makes requests that fit it and requests that don't."""

import json
import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from front_door_server import running
from patience import PATIENCE_S
from real_server import RealServer, request, serving
from schemathesis.checks import not_a_server_error
from schemathesis.config import GenerationConfig, HealthCheck, ProjectConfig, ProjectsConfig, SchemathesisConfig
from schemathesis.specs.openapi.checks import positive_data_acceptance
from small_market import SPEC

from infra.errors import ExplainedError
from infra.home import Home
from infra.settings import Settings
from serving.app import create_app
from serving.document import describe
from serving.messages import context_kinds
from serving.metrics import ServingMetrics
from serving.rank_handler import Service
from serving.serve import home_app

Seen = Counter[tuple[str, int]]  # answers by path and status
TOKEN = "a-rollout-token-nobody-guesses"
EXAMPLES = 200  # of a route, besides the cases at the borders of the document


def config(examples: int) -> SchemathesisConfig:
    generation = GenerationConfig(max_examples=examples, deterministic=True)
    project = ProjectConfig(generation=generation, request_timeout=PATIENCE_S)
    return SchemathesisConfig(seed=1, suppress_health_check=[HealthCheck.too_slow], projects=ProjectsConfig(default=project))


def said() -> dict[str, Any]:
    """The document of a server with the small market's model, of which it says what a request's context may hold."""
    app = home_app(Home(Path("nowhere")), Settings(), 0, ServingMetrics())
    document = app.openapi()
    with_context = describe(app, Settings().max_candidates, context_kinds(SPEC.context))
    document["components"]["schemas"]["RankBody"] = with_context["components"]["schemas"]["RankBody"]
    return dict(json.loads(json.dumps(document)))


SAID = said()
DOCUMENT = schemathesis.openapi.from_dict(SAID, config=config(EXAMPLES))
CHANGES = schemathesis.openapi.from_dict(SAID, config=config(100)).include(path_regex="^/v1/rollout")
NEED_NO_MODEL = "^/v1/(events|rollout)"
STILL_LOADING = schemathesis.openapi.from_dict(SAID, config=config(20)).exclude(path_regex=NEED_NO_MODEL)


@pytest.fixture(scope="module")
def seen() -> Iterator[Seen]:
    """Counts answers, and fails at the end where a kind of request was hardly made: then nothing was tried."""
    counted: Seen = Counter()
    yield counted
    for path, good in (("/v1/rank", 200), ("/v1/events", 202)):
        of_path = {status: n for (asked, status), n in counted.items() if asked == path}
        if of_path:
            assert of_path[good] > 30
            assert of_path[422] > 100
            assert {400, 405, 415} <= set(of_path)


@DOCUMENT.parametrize()
def test_every_route_answers_as_its_document_says(case, real_server: RealServer, seen: Seen) -> None:
    """No 5xx; documented status, content type, body and headers; what the document allows is taken, the rest is refused."""
    answer = case.call(base_url=real_server.url)
    seen[case.path, answer.status_code] += 1
    body = case.body if isinstance(case.body, dict) else {}
    if case.path.startswith("/v1/rollout"):  # a server without a rollout token, as this one, takes no change
        case.validate_response(answer, excluded_checks=[positive_data_acceptance])
        assert answer.status_code in (403, 405)
    elif same_ad_at_two_prices(body) or written_with_a_point(body):
        assert answer.status_code == 422
    elif has_a_time_or_a_long_id(body):  # whether it may be depends on the clock, and on digits
        case.validate_response(answer, excluded_checks=[positive_data_acceptance])
        assert answer.status_code in (202, 400, 405, 415, 422)
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
    ids += [click.get(name) for click in clicks(body) for name in ("impression_id", "click_id", "time")]
    return any(isinstance(each, float) for each in ids)


def candidates(body: dict[str, Any]) -> list[Any]:
    given = body.get("candidates")
    return given if isinstance(given, list) else []


def has_a_time_or_a_long_id(body: dict[str, Any]) -> bool:
    """A click of last year is refused, and so is an id in nineteen digits that is above 2**63."""
    ids = [click.get(name) for click in clicks(body) for name in ("impression_id", "click_id")]
    return any(click.get("time") is not None for click in clicks(body)) or any(len(str(each)) == 19 for each in ids)


def clicks(body: dict[str, Any]) -> list[dict[str, Any]]:
    given = body.get("clicks")
    return [each for each in ([body] if not isinstance(given, list) else given) if isinstance(each, dict)]


@pytest.fixture(scope="module")
def changeable(market_state: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    """A server whose rollout may be changed by HTTP."""
    state = tmp_path_factory.mktemp("changeable") / "state"
    shutil.copytree(market_state, state)
    with serving(state, state / "server.log", rollout_token=TOKEN) as server:
        yield server
    assert "Traceback" not in (state / "server.log").read_text()


@CHANGES.parametrize()
def test_every_change_of_a_rollout_is_answered_as_the_document_says(case, changeable: RealServer) -> None:
    """A change that fits the document may still make no sense now, or name a model that is not there."""
    answer = case.call(base_url=changeable.url, headers={"Authorization": f"Bearer {TOKEN}"})
    case.validate_response(answer, excluded_checks=[positive_data_acceptance])
    assert answer.status_code in (200, 400, 405, 409, 415, 422)
    assert changeable.is_well()


@pytest.fixture(scope="module")
def loading() -> Iterator[int]:
    """The port of a server whose model is still being loaded."""
    go = threading.Event()

    def load() -> Service:
        go.wait(600)
        raise ExplainedError("the test is over")

    with running(create_app(load, Settings())) as port:
        yield port
        go.set()


@STILL_LOADING.parametrize()
def test_while_a_model_is_loaded_every_answer_is_documented_too(case, loading: int) -> None:
    answer = case.call(base_url=f"http://127.0.0.1:{loading}")
    case.validate_response(answer, excluded_checks=[not_a_server_error])
    if answer.status_code >= 500:
        assert (answer.status_code, answer.json()["error"]["message"]) == (503, "the model is being loaded; try again shortly")
        assert answer.headers["retry-after"] == ["1"]


def test_the_server_gives_that_document(real_server: RealServer) -> None:
    said = real_server.send(request("GET", "/openapi.json"))
    assert said is not None
    assert json.loads(said.body) == SAID
    assert set(SAID["paths"]) >= {"/v1/rank", "/v1/events", "/v1/model", "/healthz", "/readyz", "/metrics"}
