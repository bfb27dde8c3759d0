"""The endpoint of a drill: it breaks where it is told to, by whom shows the token; the production endpoint cannot be broken."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest
from fastapi.testclient import TestClient
from patience import until

from features.batch import RequestBatch
from features.sources import LoggedSource
from infra.home import Home
from infra.settings import Settings
from monitoring.bugs.entry import Bug, Inject, Stage
from pipelines.live import endpoint
from pipelines.live.endpoint import TIME_HEADER, drill_app
from pipelines.live.token import HEADER
from serving.app import create_app
from serving.champion import champion
from serving.prediction_log import read, segments
from serving.prediction_rows import to_table
from serving.serve import load_service

TOKEN = "a-token"
SHOWN = {HEADER: TOKEN}
BODY = {"user_id": 5, "candidates": list(range(1, 21)), "slots": 4, "context": {"device": "mobile", "page_topic": 3}}
ORDER = {"code": "TEST01", "intensity": "strong", "seed": 1, "onset_us": 0}


def ready(client: TestClient) -> TestClient:
    until(lambda: client.get("/readyz").status_code == 200, lambda: client.get("/readyz").text)
    return client


@pytest.fixture
def drill(work: Home, chosen: Settings) -> Iterator[TestClient]:
    with TestClient(drill_app(work, chosen, TOKEN, champion(work).hash)) as client:
        yield ready(client)


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch):
    """A catalogue of one bug, chosen by the test."""

    def put(stage: Stage, table: str, inject: Inject) -> None:
        bug = Bug("TEST01", "test", "null-spike", stage, (table,), "x", "story", "look", {"strong": 0.5}, "share", inject)
        monkeypatch.setattr(endpoint, "look_up", lambda code: bug)

    return put


def logged(home: Home) -> pa.Table:
    rows = to_table([record for segment in segments(home) for record, _ in read(segment)])
    return rows.filter(pa.array(rows["slot"].to_numpy() >= 0))


def rank(client: TestClient, **more) -> dict:
    answer = client.post("/v1/rank", json={**BODY, **more})
    assert answer.status_code == 200, answer.text
    return answer.json()


def set_to(column: str, value) -> Inject:
    def inject(rows: pa.Table, dose: float, scene) -> pa.Table:
        place = rows.schema.get_field_index(column)
        field = rows.schema.field(place)
        return rows.set_column(place, field, pa.array([value] * rows.num_rows, field.type))

    return inject


def test_the_production_endpoint_has_no_way_in(work: Home, chosen: Settings):
    with TestClient(create_app(lambda: load_service(work, chosen), chosen)) as client:
        ready(client)
        for path in ("/drill/inject", "/drill/heal", "/api/inject"):
            assert client.post(path, json=ORDER, headers=SHOWN).status_code == 404
        rank(client, request_id=1)
        client.post("/v1/rank", json={**BODY, "request_id": 2}, headers={**SHOWN, TIME_HEADER: "1000"})
    first, second = logged(work)["event_timestamp"].cast(pa.int64()).to_numpy()[[0, -1]]
    assert second - first < 3600e6  # the header said 1970


@pytest.mark.parametrize("headers", [{}, {HEADER: "another"}, {HEADER: TOKEN + "x"}, {HEADER: "ä".encode("latin-1")}])
def test_without_the_token_nothing_can_be_injected(drill: TestClient, known, headers):
    known("features", "features", set_to("user_ctr", 0.0))
    for path in ("/drill/inject", "/drill/heal"):
        answer = drill.post(path, json=ORDER, headers=headers)
        assert answer.status_code == 403
        assert HEADER in answer.text


def test_only_who_shows_the_token_may_say_what_time_it_is(drill: TestClient, work: Home):
    at_us = 1_767_916_800_000_000
    rank(drill, request_id=1)
    drill.post("/v1/rank", json={**BODY, "request_id": 2}, headers={TIME_HEADER: str(at_us)})
    drill.post("/v1/rank", json={**BODY, "request_id": 3}, headers={**SHOWN, TIME_HEADER: str(at_us)})
    rows = logged(work)
    times = dict(zip(rows["request_id"].to_pylist(), rows["event_timestamp"].cast(pa.int64()).to_pylist(), strict=True))
    assert times[3] == at_us
    assert times[1] != at_us != times[2]


def test_a_fault_in_what_was_fetched_reaches_model_and_log(drill: TestClient, work: Home, known):
    clean = rank(drill, request_id=7)
    known("features", "features", set_to("user_country", "Atlantis"))
    assert drill.post("/drill/inject", json=ORDER, headers=SHOWN).status_code == 200
    rank(drill, request_id=8)
    assert set(logged(work)["f_user_country"].to_pylist()[-4:]) == {"Atlantis"}
    assert drill.post("/drill/heal", headers=SHOWN).status_code == 200
    healed = rank(drill, request_id=7)["ads"]
    assert [ad["ad_id"] for ad in healed] == [ad["ad_id"] for ad in clean["ads"]]
    # The clock went on in between, and counters decay with it.
    assert [ad["p"] for ad in healed] == pytest.approx([ad["p"] for ad in clean["ads"]], rel=1e-3)


def test_a_fault_between_log_and_model_leaves_the_log_right(drill: TestClient, work: Home, known):
    clean = rank(drill, request_id=7)
    known("input", "features", set_to("ad_ctr", 9.0))
    drill.post("/drill/inject", json=ORDER, headers=SHOWN)
    broken = rank(drill, request_id=7)
    assert broken["ads"] != clean["ads"]
    rows = logged(work)
    assert rows["f_ad_ctr"].to_numpy().max() < 1
    artefact = champion(work)
    again = artefact.score(LoggedSource(rows).fetch(_asked(rows)).columns)
    off = np.abs(again - rows["s"].to_numpy()) > 1e-4
    assert not off[:4].any()
    assert off[4:].all()


def _asked(rows: pa.Table):

    n = rows.num_rows
    return RequestBatch(
        rows["impression_id"].to_numpy(), np.zeros(n, np.int64), np.zeros(n, np.int64), np.zeros(n, np.int64), {}
    )


class Constant:
    """A model that was mixed up with the champion: it says the same of everybody, under the champion's name."""

    def __init__(self, real) -> None:
        self.hash, self.encoder_hash, self._real = real.hash, real.encoder_hash, real

    def score(self, columns):
        return np.zeros(len(columns["ad_id"]), np.float32)

    def probability(self, s, slot):
        return self._real.probability(s, slot)


def test_another_model_can_be_loaded(drill: TestClient, known):
    known("model", "model", lambda artefact, dose, scene: Constant(artefact))
    drill.post("/drill/inject", json=ORDER, headers=SHOWN)
    assert {ad["s"] for ad in rank(drill)["ads"]} == {0.0}
    drill.post("/drill/heal", headers=SHOWN)
    assert len({ad["s"] for ad in rank(drill)["ads"]}) > 1


def test_a_bug_finds_the_other_models_by_name(drill: TestClient, known):
    seen = {}

    def look(artefact, dose, scene):
        seen.update(scene.artefacts)
        return artefact

    known("model", "model", look)
    drill.post("/drill/inject", json=ORDER, headers=SHOWN)
    assert "previous" in seen


def test_an_assignment_can_go_wrong_and_a_request_be_lost(drill: TestClient, known):
    known("assignment", "assignment", set_to("arm", "b"))
    drill.post("/drill/inject", json=ORDER, headers=SHOWN)
    assert {rank(drill, request_id=i)["arm"] for i in range(8)} == {"b"}
    known("assignment", "assignment", lambda rows, dose, scene: rows.slice(0, 0))
    drill.post("/drill/inject", json=ORDER, headers=SHOWN)
    assert drill.post("/v1/rank", json=BODY).status_code == 503


def test_a_bug_that_drops_candidates_is_an_error_and_not_a_short_slate(drill: TestClient, known, caplog):
    known("features", "features", lambda rows, dose, scene: rows.slice(0, 3))
    drill.post("/drill/inject", json=ORDER, headers=SHOWN)
    assert drill.post("/v1/rank", json=BODY).status_code == 500
    assert "3 rows of 20" in caplog.text
