"""The serving benchmark on a home that was trained: every peer answers what it should, and the figures follow from the runs."""

import json
import warnings
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from as_a_user import MainJob
from fastapi.testclient import TestClient

from features.catalogue import Entity
from features.sources import AsOfSource
from infra.errors import ExplainedError
from infra.home import Home
from infra.lake import watermark_us
from models.artefact import Artefact
from models.boosted_trees import BoostedTrees
from models.contract import FeatureSpec
from models.newton import sigmoid
from pipelines.bench import fixed_model, processes, serve
from pipelines.bench.faults import FaultPlan
from pipelines.bench.peers import mlflow_server
from pipelines.bench.population import Population, body
from pipelines.sources.registry import source_of
from serving.champion import champion
from serving.messages import context_names
from serving.prediction_log import segments
from serving.scorer import RankRequest, candidate_rows, fetch

FAULTS = FaultPlan(kills=1, phases_s=(0.5, 0.5, 1.0), swaps=1, look_s=0.3, closed_s=1)
QUICK = serve.Plan(
    candidates=(20,), rounds=1, seconds=1, counted=3, probe_s=0.3, look_s=0.3, bodies=300, ready=4, faults=FAULTS,
    batches={"micro_batch": (1, 4), "connections": (1, 8)},
)  # fmt: skip


@pytest.fixture(scope="module")
def artefact(work: Home) -> Artefact:
    return champion(work)


@pytest.fixture(scope="module")
def asked(work: Home, artefact: Artefact) -> list[RankRequest]:
    population = Population.of(work, artefact, seed=1)
    return [population.request(20) for _ in range(6)]


def rows(work: Home, artefact: Artefact, request: RankRequest) -> np.ndarray:
    """What the trees read for a request, found by the as-of source."""
    entities: tuple[Entity, ...] = artefact.entities  # type: ignore[assignment]
    source = AsOfSource(work, entities, context_names(artefact.spec.names), artefact.service)
    columns = fetch(source, candidate_rows(request, watermark_us(work))).columns
    assert isinstance(artefact.model, BoostedTrees)
    return artefact.model.inputs(columns)[0]


def margin(artefact: Artefact, found: np.ndarray) -> np.ndarray:
    """The trees' own sum, by XGBoost."""
    assert isinstance(artefact.model, BoostedTrees)
    return artefact.model.engines()[0]((found,))


def test_the_fixed_model_is_what_it_is_called(work: Home, artefact: Artefact, asked: list[RankRequest]) -> None:
    shape = fixed_model.shape(artefact)
    assert (shape["trees"], shape["depth"], len(set(shape["inputs"]))) == (300, 6, 40)
    assert shape["hash"] == artefact.hash
    found = rows(work, artefact, asked[0])
    assert found.shape == (20, 40)


def test_a_source_with_too_few_features_is_refused(artefact: Artefact) -> None:
    spec = FeatureSpec(artefact.spec.categorical, artefact.spec.numeric[:10])
    data = {name: np.array(["a", "b"]) for name in artefact.spec.categorical}
    with pytest.raises(ExplainedError, match="40 features and this source has 15"):
        fixed_model.spec_of(spec, data)


def test_the_naive_endpoint_reads_and_scores_what_we_do(work: Home, artefact: Artefact, asked: list[RankRequest]) -> None:
    from pipelines.bench.peers.naive import NaiveRanker, RankBody

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Feast warns about itself
        naive = NaiveRanker(work)
        for request in asked:
            wanted = RankBody.model_validate_json(body(request))
            frame = naive.frame(wanted, watermark_us(work))
            found = rows(work, artefact, request)
            assert list(frame.columns) == fixed_model.inputs(artefact)
            np.testing.assert_allclose(frame.to_numpy(), found, rtol=2e-6, atol=1e-6)
            np.testing.assert_allclose(naive.model.predict_proba(frame)[:, 1], sigmoid(margin(artefact, found)), rtol=1e-4)
            ads = naive.rank(wanted).ads
            assert [ad.slot for ad in ads] == [0, 1, 2, 3]
            assert all(one.p >= two.p for one, two in pairwise(ads))
            assert {ad.ad_id for ad in ads} <= set(request.ad_id.tolist())


def test_mlflow_reads_the_rows_in_both_formats(
    work: Home, artefact: Artefact, asked: list[RankRequest], tmp_path: Path
) -> None:
    found = [rows(work, artefact, request) for request in asked]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow warns about its own type hints
        import mlflow.pyfunc
        from mlflow.pyfunc import scoring_server

        model = mlflow.pyfunc.load_model(str(mlflow_server.save(artefact, tmp_path)))
        with TestClient(scoring_server.init(model)) as client:
            for form in mlflow_server.FORMATS:
                for content, matrix in zip(mlflow_server.bodies(form, fixed_model.inputs(artefact), found), found, strict=True):
                    answer = client.post(mlflow_server.PATH, content=content, headers={"Content-Type": "application/json"})
                    said = np.array(json.loads(answer.content)["predictions"])
                    np.testing.assert_allclose(said, sigmoid(margin(artefact, matrix)), rtol=1e-4)


def test_the_benchmark_measures_every_server_and_leaves_the_home_as_it_was(main_job: MainJob) -> None:
    home = main_job.home
    before = [(path, path.stat().st_size) for path in segments(home)]
    there = set(home.branches.glob("*"))
    found = serve.run(home, source_of(main_job.settings).spec, main_job.settings, QUICK)
    assert [(path, path.stat().st_size) for path in segments(home)] == before
    assert set(home.branches.glob("*")) == there
    for by_connections in [*found["rank"].values(), *(by_n for peer in found["peers"].values() for by_n in peer.values())]:
        assert list(by_connections) == ["1", "16"]
        for cell in by_connections.values():
            assert cell["requests"] > 0
            assert 0 < cell["p50_ms"] <= cell["p99_ms"]
            assert cell["cpu_us"] > 0
    fastest = min(engine["20"] for engine in found["raw_us"].values())
    noops = [peer["20"] for name, peer in found["peers"].items() if name.startswith("noop_")]
    assert len(noops) == 3
    floors = {c: min(noop[c]["cpu_us"] for noop in noops) for c in ("1", "16")}
    limit = max(found["rank"]["20"][c]["cpu_us"] / (floors[c] + fastest) for c in ("1", "16"))
    assert found["ratios"]["limit_n20"] == pytest.approx(limit, rel=0.01)
    naive = min(found["peers"]["naive"]["20"][c]["cpu_us"] / found["rank"]["20"][c]["cpu_us"] for c in ("1", "16"))
    assert found["ratios"]["naive_n20"] == pytest.approx(naive, rel=0.01)
    of_100 = {name for name in found["goals"] if name.endswith("_n100")}
    assert set(found["ratios"]) == set(found["goals"]) - of_100 - {"stages_add_up"} | {"mlflow_inputs_n20"}
    for n, stages in found["stages"].items():
        assert sum(stages["us"].values()) + stages["rest"] == pytest.approx(stages["cpu_us"], abs=1.0)
        assert 0.7 < stages["adds_up"] < 1.15  # by processor time, so also on a busy machine
        assert found["boxes"][n]["boxes"] >= 1
    assert set(found["faults"]["against"]) == set(found["faults"]["goals"])
    assert found["faults"]["against"]["missing"] == 0
    assert list(found["workers"]) == ["1", "2"]
    for both in found["grpc"]["20"].values():
        assert both["rest"]["requests"] > 0 < both["grpc"]["requests"]
        assert (both["rest"]["client"], both["grpc"]["client"]) == ("asyncio", "grpc.aio")
        assert both["cpu_ratio"] == pytest.approx(both["grpc"]["cpu_us"] / both["rest"]["cpu_us"], rel=0.01)
        assert both["bytes"]["grpc"] < both["bytes"]["rest"]
    batches = found["micro_batch"]
    assert {c: list(row) for c, row in batches["cells"].items()} == {"1": ["1", "4"], "8": ["1", "4"]}
    assert set(batches["pays"]) == {"1", "8"}
    for knee in found["knee"].values():
        for name in ("half", "knee", "triple"):
            at = knee[name]
            assert at["offered"] == at["answered"] + at["shed"] + at["failed"] + at["unsent"] + at["unanswered"]


def test_a_server_that_cannot_start_is_an_error_and_leaves_no_branch(
    main_job: MainJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = set(main_job.home.branches.glob("*"))
    monkeypatch.setattr(serve, "SERVE", "raise SystemExit('no such model')")
    with pytest.raises(ExplainedError, match="no such model"):
        serve.run(main_job.home, source_of(main_job.settings).spec, main_job.settings, QUICK)
    assert set(main_job.home.branches.glob("*")) == there
    assert processes.SERVE != serve.SERVE
