"""The REST endpoint, through its route (Starlette's test client) and through the front door of a real server."""

import asyncio
import json
import threading
from contextlib import contextmanager

import httpx
import pytest
from fastapi.testclient import TestClient
from front_door_server import client_of, running
from patience import PATIENCE_S, until
from small_world import NOW_US, DictSource, TinyArtefact

from infra.clock import FixedClock
from infra.settings import Settings
from serving.app import create_app
from serving.assignment import Assignment
from serving.messages import ModelAnswer, context_kinds
from serving.policy import EpsilonPolicy
from serving.prediction_log import PredictionLog, read, segments
from serving.rank_handler import Service
from serving.scorer import Scorer

SETTINGS = Settings(max_candidates=50, max_body_bytes=4096, max_wait_ms=60_000)
BODY = {"user_id": 3, "candidates": [1, 2, 3, 4, 5], "slots": 2, "context": {"device": "mobile"}, "request_id": 12}


def service(home) -> Service:
    policy = EpsilonPolicy(0.1)
    scorer = Scorer(DictSource(), TinyArtefact(), policy, Assignment("salt"), PredictionLog(home), FixedClock(NOW_US))
    about = ModelAnswer(
        "tiny-model", "tiny-encoder", "tiny", {"numeric": ["user_ctr"]}, {"device": "string"}, policy.name, {"control": 1.0},
        "tiny has one engine",
    )  # fmt: skip
    return Service(scorer, context_kinds(("device", "page_topic")), about)


@contextmanager
def route(load):
    with TestClient(create_app(load, SETTINGS), raise_server_exceptions=False) as client:
        yield client


@contextmanager
def door(load):
    with client_of(create_app(load, SETTINGS)) as client:
        yield client


@pytest.fixture(params=[route, door], ids=["route", "front door"])
def serving(request):
    """Both ways to POST /v1/rank: what one does the other does."""
    return request.param


def wait_ready(client) -> None:
    until(lambda: client.get("/readyz").status_code == 200, lambda: client.get("/readyz").text)


@pytest.fixture
def client(home, serving):
    with serving(lambda: service(home)) as client:
        wait_ready(client)
        yield client


def test_a_request_is_answered_and_logged(client, home):
    answer = client.post("/v1/rank", json=BODY)
    assert answer.status_code == 200
    body = answer.json()
    assert (body["request_id"], body["arm"], body["model"], body["policy"]) == (12, "control", "tiny-model", "epsilon-0.1")
    assert [ad["slot"] for ad in body["ads"]] == [0, 1]
    assert {ad["ad_id"] for ad in body["ads"]} <= set(BODY["candidates"])
    assert all(0 < ad["p"] < 1 and 0 < ad["propensity"] <= 1 for ad in body["ads"])
    assert body["marks"] == {"user": "known", "unknown_ads": [], "missing": [], "stale": [], "degraded": ""}
    ((record, _),) = [found for path in segments(home) for found in read(path)]
    assert record.request_id == 12


def test_bids_and_unknown_users_are_taken(client):
    body = {"candidates": [{"ad_id": 1, "bid": 0.5}, {"ad_id": 777, "bid": 2}], "slots": 9}
    answer = client.post("/v1/rank", json=body).json()
    assert len(answer["ads"]) == 2
    assert answer["marks"]["user"] == "unknown"
    assert answer["marks"]["unknown_ads"] == [777]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"user_id": "3"}, "user_id"),
        ({"user_id": -1}, "user_id"),
        ({"user_id": 2**63}, "user_id"),
        ({"user_id": 1.5}, "user_id"),
        ({"slots": 0}, "slots"),
        ({"slots": True}, "slots"),
        ({"candidates": []}, "candidates"),
        ({"candidates": None}, "candidates"),
        ({"candidates": [1, 2, 1]}, "candidates[2]"),
        ({"candidates": [1, -5]}, "candidates[1]"),
        ({"candidates": list(range(51))}, "candidates"),
        ({"candidates": [{"ad_id": 1}]}, "candidates[0].bid"),
        ({"candidates": [{"ad_id": 1, "bid": -1}]}, "candidates[0].bid"),
        ({"candidates": [1, {"ad_id": 2, "bid": 1}]}, "candidates[1]"),
        ({"candidates": [{"ad_id": 2, "bid": 1}, 1]}, "candidates[1]"),
        ({"context": {"device": 5}}, "context.device"),
        ({"context": {"page_topic": "news"}}, "context.page_topic"),
        ({"context": {"browser": "x"}}, "context.browser"),
        ({"context": "mobile"}, "context"),
        ({"clicks": 1}, "clicks"),
        ({"request_id": "a"}, "request_id"),
    ],
)
def test_a_wrong_field_is_named(client, change, field):
    answer = client.post("/v1/rank", json=BODY | change)
    assert answer.status_code == 422
    assert answer.json()["error"]["field"] == field
    assert answer.json()["error"]["message"]


@pytest.mark.parametrize("field", ["candidates", "slots"])
def test_a_missing_field_is_named(client, field):
    answer = client.post("/v1/rank", json={name: value for name, value in BODY.items() if name != field})
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, field)


def test_a_wrong_value_inside_a_context_is_named(client):
    for value in (["a"], {"a": 1}, 1.5, "x" * 129, 10**30, [[1.5]]):
        answer = client.post("/v1/rank", json=BODY | {"context": {"page_topic": 3, "device": value}})
        assert answer.status_code == 422
        assert answer.json()["error"]["field"] == "context.device"
    broken = b'{"context": {"device": 1.5}, "candidates": [1'
    answer = client.post("/v1/rank", content=broken, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, "context")


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'{"user_id":1} x', b'{"context":{"device":"\xff"}}', b"[" * 3000])
def test_what_is_not_json_is_refused(client, body):
    answer = client.post("/v1/rank", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422)  # 422 where the beginning is already wrong
    assert answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {},
        {"Content-Type": "application/json; charset=latin-1"},
        {"Content-Type": "application/json", "Content-Encoding": "gzip"},
    ],
)
def test_another_encoding_is_refused_with_415(client, headers):
    answer = client.post("/v1/rank", content=json.dumps(BODY).encode(), headers=headers)
    assert answer.status_code == 415
    assert answer.json()["error"]["message"]


def test_utf8_may_be_said_aloud(client):
    headers = {"Content-Type": 'application/json; charset="UTF-8"', "Content-Encoding": "identity"}
    assert client.post("/v1/rank", content=json.dumps(BODY).encode(), headers=headers).status_code == 200


def test_a_body_that_is_too_long_is_refused_whether_or_not_it_says_its_length(client):
    body = json.dumps(BODY | {"context": {"device": "x" * 5000}}).encode()
    headers = {"Content-Type": "application/json"}
    for content in (body, iter([body[:3000], body[3000:]])):
        answer = client.post("/v1/rank", content=content, headers=headers)
        assert answer.status_code == 413
        assert "4096" in answer.json()["error"]["message"]


def test_other_paths_and_methods_get_the_same_form_of_error(client):
    assert client.get("/v2/rank").json() == {"error": {"field": None, "message": "Not Found"}}
    answer = client.get("/v1/rank")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert answer.json()["error"]["message"] == "Method Not Allowed"


def test_health_is_immediate_and_readiness_waits_for_the_model(home, serving):
    go = threading.Event()

    def load() -> Service:
        assert go.wait(PATIENCE_S)
        return service(home)

    with serving(load) as client:
        assert client.get("/healthz").status_code == 200
        for answer in (client.get("/readyz"), client.get("/v1/model"), client.post("/v1/rank", json=BODY)):
            assert answer.status_code == 503
            assert answer.headers["retry-after"] == "1"
            assert "loaded" in answer.json()["error"]["message"]
        go.set()
        wait_ready(client)
        assert client.post("/v1/rank", json=BODY).status_code == 200


def test_a_model_that_cannot_be_loaded_is_explained(caplog, serving):
    def load() -> Service:
        raise FileNotFoundError("no champion yet; run `make train`")

    with serving(load) as client:
        until(lambda: "make train" in client.get("/readyz").text)
        answer = client.get("/readyz")
        assert answer.status_code == 503
        assert "no champion yet; run `make train`" in answer.json()["error"]["message"]
        assert client.get("/healthz").status_code == 200


def test_an_answer_that_cannot_be_logged_is_not_given(home, caplog, serving):
    broken = service(home)

    def full(_):
        raise OSError(28, "No space left on device")

    broken.scorer.log.append = full
    with serving(lambda: broken) as client:
        wait_ready(client)
        answer = client.post("/v1/rank", json=BODY)
        assert answer.status_code == 503
        assert "ads" not in answer.json()


def test_a_failure_of_the_server_is_a_500_without_its_insides(home, serving):
    broken = service(home)
    broken.scorer.source = None
    with serving(lambda: broken) as client:
        wait_ready(client)
        answer = client.post("/v1/rank", json=BODY)
        assert answer.status_code == 500
        assert answer.json()["error"]["field"] is None
        assert "NoneType" not in answer.text


def test_metrics_count_requests_fallbacks_and_stages(client):
    client.post("/v1/rank", json=BODY)
    client.post("/v1/rank", json=BODY | {"user_id": 999})
    client.post("/v1/rank", json=BODY | {"slots": 0})
    for path in range(20):
        client.get(f"/nothing/{path}")
    text = client.get("/metrics").text
    for line in (
        'clickproof_requests_total{route="rank",status="200"} 2.0',
        'clickproof_requests_total{route="rank",status="422"} 1.0',
        'clickproof_requests_total{route="other",status="404"} 20.0',
        'clickproof_fallbacks_total{kind="missing",view="user_daily"} 1.0',
        "clickproof_unknown_users_total 1.0",
        'clickproof_stage_seconds_count{stage="fetch"} 2.0',
        'clickproof_model_info{encoder="tiny-encoder",family="tiny",model="tiny-model"} 1.0',
        "clickproof_ready 1.0",
    ):
        assert line in text.splitlines()
    assert "nothing" not in text


def test_the_openapi_document_describes_bodies_and_answers(client):
    document = client.get("/openapi.json").json()
    operation = document["paths"]["/v1/rank"]["post"]
    assert operation["requestBody"]["content"]["application/json"]["schema"]["$ref"] == "#/components/schemas/RankBody"
    assert set(operation["responses"]) == {"200", "400", "413", "415", "422", "503"}
    schemas = document["components"]["schemas"]
    assert set(schemas["RankBody"]["required"]) == {"candidates", "slots"}
    assert {"ad_id", "slot", "p", "s", "propensity"} <= set(schemas["ShownAd"]["properties"])
    text = json.dumps(document)
    for part in text.split('"$ref": "#/components/schemas/')[1:]:
        assert part.split('"')[0] in schemas


def test_the_model_is_described(client):
    assert client.get("/v1/model").json()["model"] == "tiny-model"


def test_stopping_the_server_closes_its_log(home, serving):
    served = service(home)
    with serving(lambda: served) as client:
        wait_ready(client)
        client.post("/v1/rank", json=BODY)
    with pytest.raises(ValueError, match="closed"):
        served.scorer.log.append(None)


def test_a_real_server_answers_concurrent_clients_and_refuses_a_long_chunked_body_early(home):
    with running(create_app(lambda: service(home), SETTINGS)) as port:
        statuses, refused = asyncio.run(_drive(f"http://127.0.0.1:{port}"))
    assert statuses == [200] * 40
    assert refused == (413, True)
    assert sum(1 for path in segments(home) for _ in read(path)) == 40


async def _drive(url: str) -> tuple[list[int], tuple[int, bool]]:
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_S) as client:
        while (await client.get("/readyz")).status_code != 200:
            await asyncio.sleep(0.01)
        answers = await asyncio.gather(*(client.post("/v1/rank", json=BODY | {"request_id": i}) for i in range(40)))
    # 100 MB announced in chunks: the answer must come long before they are all sent.
    reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rsplit(":", 1)[1]))
    writer.write(
        b"POST /v1/rank HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    sent = 0
    for _ in range(8):
        writer.write(b"400\r\n" + b"x" * 1024 + b"\r\n")
        await writer.drain()
        sent += 1024
    status = int((await asyncio.wait_for(reader.readline(), PATIENCE_S)).split()[1])
    writer.close()
    await writer.wait_closed()
    return [answer.status_code for answer in answers], (status, sent < 100_000_000)
