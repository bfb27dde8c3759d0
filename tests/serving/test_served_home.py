"""Serving a whole home: a tiny market, ingested, materialised, with a trained champion."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from fastapi.testclient import TestClient
from patience import until

from features.batch import RequestBatch
from features.online import OnlineSource
from features.requests import from_impressions
from features.sources import AsOfSource, LoggedSource
from features.spec import feature_spec
from infra.clock import MINUTE_US, FixedClock
from infra.errors import ExplainedError
from infra.home import Home
from infra.lake import Lake, watermark_us
from infra.settings import Settings
from models.artefact import Artefact, load
from models.contract import FeatureSpec
from models.registry import Registry
from models.train import train_family
from pipelines.bench import score as score_bench
from pipelines.ingest import ingest_all
from pipelines.materialize import materialize_all, materialize_online
from pipelines.prediction_ingest import ingest_predictions
from pipelines.sources.registry import source
from pipelines.training_set import Window, build, select, split_windows
from serving.app import create_app
from serving.assignment import Assignment
from serving.batch import score_day
from serving.champion import champion
from serving.messages import context_names
from serving.policy import EpsilonPolicy
from serving.prediction_log import PredictionLog
from serving.scorer import RankRequest, Scorer, candidate_rows
from serving.serve import load_service

WORLD = source("world", "tiny", 1, None)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """The home; its watermark is the moment at which it is served."""
    home = Home(tmp_path_factory.mktemp("served"))
    WORLD.deliver(home, progress=False)
    ingest_all(home, WORLD.spec, progress=False)
    materialize_all(home, WORLD.spec, progress=False)
    now_us = watermark_us(home)
    materialize_online(home, WORLD.spec, now_us)
    name = trained(home, now_us).save(home.artefacts)
    registry = Registry.of(home)
    registry.record(name, name="first", at_us=now_us, params={}, metrics={}, tags={})
    registry.decide(name, "promote to champion", True, ["test"], at_us=now_us, alias="champion")
    return home


def trained(home: Home, now_us: int) -> Artefact:
    windows = split_windows(WORLD.spec)
    whole = Window(min(w.first_us for w in windows.values()), max(w.last_us for w in windows.values()))
    data = build(home, WORLD.spec, whole, now_us, 24.0, "ctr_full").data
    train, valid, calibrate = (select(data, windows[name]) for name in ("train", "valid", "calibrate"))
    names = feature_spec(WORLD.spec.entities, WORLD.spec.context)
    spec = FeatureSpec(names.categorical, names.numeric, names.sequence)
    entities = WORLD.spec.entities
    return train_family("logistic", train, valid, calibrate, spec, 1, service="ctr_full", entities=entities).artefact


@pytest.fixture(scope="module")
def model(served: Home) -> Artefact:
    return champion(served)


@pytest.fixture
def scorer(served: Home, model: Artefact) -> Iterator[Scorer]:
    online = OnlineSource(served, WORLD.spec.entities, WORLD.spec.context)
    log = PredictionLog(served)
    clock = FixedClock(watermark_us(served) + 7 * MINUTE_US)
    yield Scorer(online, model, EpsilonPolicy(0.2), Assignment("s", ("a", "b"), (1.0, 1.0)), log, clock)
    log.close()
    online.close()


def requests(home: Home, count: int, seed: int = 0) -> list[RankRequest]:
    """Requests like the last day's; one in ten of a user and one of an ad that nobody knows."""
    rng = np.random.default_rng(seed)
    lake = Lake.of(home)
    rows = lake.read("impressions", days=lake.days("impressions")[-1:]).take(pa.array(rng.integers(0, 2000, count)))
    ads = np.unique(lake.read("impressions", ["ad_id"])["ad_id"].to_numpy())
    found = []
    for i, row in enumerate(rows.to_pylist()):
        candidates = rng.choice(ads, 20, replace=False)
        if i % 10 == 3:
            candidates[5] = 2**61 + i
        user = 2**60 + i if i % 10 == 7 else row["user_id"]
        found.append(RankRequest(user, candidates, 4, {name: row[name] for name in WORLD.spec.context}))
    return found


def test_the_models_context_is_the_sources(model):
    assert set(context_names(model.spec.names)) == set(WORLD.spec.context)


def test_batch_and_online_give_the_same_rows_the_same_probability(served, scorer, model):
    history = AsOfSource(served, WORLD.spec.entities, WORLD.spec.context)
    batch = Scorer(history, model, EpsilonPolicy(0.2), Assignment("s"), None, scorer.clock)
    answers = [(request, scorer.rank(request)) for request in requests(served, 40)]
    asked = [candidate_rows(request, online.time_us) for request, online in answers]
    rows = RequestBatch(
        np.arange(20 * 40),
        *(np.concatenate([getattr(one, name) for one in asked]) for name in ("time_us", "user_id", "ad_id")),
        {name: np.concatenate([one.context[name] for one in asked]) for name in WORLD.spec.context},
    )
    shown = np.concatenate([20 * i + online.slate.shown for i, (_, online) in enumerate(answers)])
    slot = np.zeros(len(rows), np.int64)
    slot[shown] = np.tile(np.arange(4), 40)
    s, p, features = batch.score_rows(rows, slot)
    np.testing.assert_allclose(s, np.concatenate([online.s for _, online in answers]), rtol=0, atol=1e-6)
    np.testing.assert_allclose(p[shown], np.concatenate([online.p for _, online in answers]), rtol=0, atol=1e-6)
    for name, state in features.views.items():
        for part in ("snapshot", "status"):
            found = np.concatenate([getattr(online.features.views[name], part) for _, online in answers])
            np.testing.assert_array_equal(getattr(state, part), found)


def test_replaying_the_log_gives_the_logged_values_and_probabilities(served, scorer):
    asked = requests(served, 30, seed=1)
    answers = [scorer.rank(replace(request, request_id=5000 + i)) for i, request in enumerate(asked)]
    scorer.log.close()
    ingest_predictions(served)
    lake = Lake.of(served)
    mine = pa.array([answer.request_id for answer in answers])
    logged = lake.read("predictions").filter(pc.field("impression_id").is_valid() & pc.field("request_id").isin(mine))
    assert logged.num_rows == 4 * len(answers)
    context = {f"f_{name}": name for name in WORLD.spec.context}
    rows = from_impressions(
        logged.rename_columns([context.get(name, name) for name in logged.column_names]), WORLD.spec.context
    )
    said = LoggedSource(logged).fetch(rows)
    again = AsOfSource(served, WORLD.spec.entities, WORLD.spec.context).fetch(rows)
    for name, values in again.columns.items():
        np.testing.assert_array_equal(said.columns[name], values, err_msg=name)
    for name, state in again.views.items():
        np.testing.assert_array_equal(said.views[name].snapshot, state.snapshot)
        np.testing.assert_array_equal(said.views[name].status, state.status)
        np.testing.assert_allclose(said.views[name].age_s, state.age_s, rtol=1e-6)
    (name,) = set(logged["artefact"].to_pylist())
    declared = load(served.artefacts, name)
    assert set(logged["encoder"].to_pylist()) == {declared.encoder_hash}
    s = declared.score(said.columns)
    np.testing.assert_allclose(s, logged["s"].to_numpy(), rtol=0, atol=1e-6)
    np.testing.assert_allclose(declared.probability(s, logged["slot"].to_numpy()), logged["p"].to_numpy(), rtol=0, atol=1e-6)


def test_a_day_is_scored_from_the_lake(served, model):
    lake = Lake.of(served)
    day = lake.days("impressions")[-1]
    counts = score_day(served, day, model)
    scores = lake.read("batch_scores", days=[day])
    assert counts.rows == scores.num_rows == lake.read("impressions", ["slot"], [day]).num_rows
    assert set(scores["artefact"].to_pylist()) == {model.hash}
    small = score_day(served, day, model, chunk_rows=997)
    again = lake.read("batch_scores", days=[day])
    assert small.rows == counts.rows
    np.testing.assert_allclose(again["p"].to_numpy(), scores["p"].to_numpy(), rtol=0, atol=1e-6)


def test_the_endpoint_serves_the_champion_with_fresh_features(served, model):
    settings = Settings(home=served.root, epsilon=0.0)
    with TestClient(create_app(lambda: load_service(served, settings), settings)) as client:
        until(lambda: client.get("/readyz").status_code == 200, lambda: client.get("/readyz").text)
        about = client.get("/v1/model").json()
        assert (about["model"], about["family"], about["arms"]) == (model.hash, "logistic", {"a": 0.5, "b": 0.5})
        assert about["engine"] == "logistic has one engine"
        assert about["context"] == {"device": "string", "placement": "string", "page_topic": "integer"}
        request = requests(served, 1)[0]
        body = {"user_id": request.user_id, "candidates": request.ad_id.tolist(), "slots": 3, "context": request.context}
        answer = client.post("/v1/rank", json=body).json()
    assert answer["marks"]["user"] == "known"
    assert answer["marks"]["stale"] == []  # a year after the data were made, too
    s = [ad["s"] for ad in answer["ads"]]
    assert s == sorted(s, reverse=True)


def test_a_home_without_a_champion_says_what_to_do(tmp_path: Path):
    with pytest.raises(ExplainedError, match="make train"):
        champion(Home(tmp_path))


def test_the_batch_bench_measures_scoring_and_the_join(served, model):
    figures = score_bench.run(served, rows=2000)
    assert (figures["model"], figures["rows"]) == (model.hash, 2000)
    assert 0 < figures["join_share"] < 1
    assert figures["rows_per_cpu_second"] > 0
    with pytest.raises(ExplainedError, match="on 2031-01-01"):
        score_bench.run(served, day="2031-01-01")
