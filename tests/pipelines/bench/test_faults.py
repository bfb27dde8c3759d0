"""What the benchmark breaks on purpose: on a small home everything holds, and each figure shows it where it doesn't."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from as_a_user import MainJob
from hypothesis import given
from hypothesis import strategies as st

from infra.home import Home
from pipelines import faults_page, figures
from pipelines.bench.faults import GOALS, against
from pipelines.bench.kills import account, in_lake, in_segments, kills
from pipelines.bench.outage import IN_A_ROW, by_phase, outage, whole_again_s
from pipelines.bench.population import Population, body
from pipelines.bench.redis_server import RedisServer, have_redis
from pipelines.bench.swaps import BACK, Change, swaps
from pipelines.bench.swaps import figures as swap_figures
from pipelines.bench.tail import quantiles_s, queue_s
from pipelines.bench.witness import Sight
from pipelines.sources.registry import source_of
from serving.champion import champion
from serving.prediction_log import segments


@pytest.fixture(scope="module")
def bodies(work: Home) -> list[bytes]:
    population = Population.of(work, champion(work), seed=1)
    return [body(population.request(10)) for _ in range(300)]


@pytest.fixture
def redis() -> None:
    if not have_redis():
        if os.environ.get("CI") == "true":
            pytest.fail("redis-server is not on PATH; CI must install it")
        pytest.skip("redis-server is not on PATH; install it (apt install redis-server) to test what its loss does")


def anywhere() -> set[int]:
    return os.sched_getaffinity(0)


def sight(due_s: float, status: int = 200, degraded: str = "", model: str = "m", ended_s: float | None = None) -> Sight:
    said = json.dumps({"model": model, "marks": {"degraded": degraded}}).encode()
    return Sight(due_s, due_s + 0.01 if ended_s is None else ended_s, status, said)


def test_no_answered_prediction_is_missing_after_a_kill_and_one_that_is_would_be_counted(
    work: Home, bodies: list[bytes]
) -> None:
    found = kills(work, bodies, 40.0, anywhere(), count=1)
    assert found["kills"] == 1
    assert found["offered"] == found["answered"] + found["unanswered"] + found["refused"]
    assert found["refused"] == 0  # nobody is sent to a worker without a model
    assert found["impressions"] == 4 * found["answered"] > 0
    assert (found["missing_in_log"], found["missing_in_lake"], found["twice_in_lake"], found["ingested_again"]) == (0, 0, 0, 0)

    told = list(in_segments(work))
    ads = [{"ads": [{"impression_id": i, "slot": slot, "ad_id": ad}]} for i, slot, ad in told]
    seen = [Sight(0.0, 0.1, 200, json.dumps(one).encode()) for one in ads]
    some = max(segments(work), key=lambda path: path.stat().st_size)
    some.write_bytes(some.read_bytes()[:-1])  # its last record is torn now
    torn = account(seen, list(in_segments(work)), in_lake(work))
    assert torn["missing_in_log"] == 4
    assert torn["missing_in_lake"] == 0
    assert account(seen, told, told[:-3])["missing_in_lake"] == 3
    assert account(seen, told, [*told, told[0]])["twice_in_lake"] == 1


@pytest.mark.usefixtures("redis")
def test_everybody_is_answered_while_redis_is_gone(work: Home, main_job: MainJob, bodies: list[bytes]) -> None:
    phases_s = (2.0, 4.0, 8.0)  # long enough for a machine that has much else to do
    found = outage(work, source_of(main_job.settings).spec, bodies, 80.0, anywhere(), phases_s)
    assert found is not None
    for name in ("before", "during", "after"):
        assert found[name]["answered"] == found[name]["offered"] > 0
    assert found["during"]["degraded"]["priors"] > 0  # users who were not asked for before
    steps = [found[name]["degraded"] for name in ("before", "during", "after")]
    for step, count in found["degraded"].items():
        assert count == sum(of_phase.get(step, 0) for of_phase in steps)  # callers and /metrics say the same
    assert found["after"]["degraded"].get("priors", 0) < found["after"]["offered"]  # Redis is read again
    assert found["pushed"] >= 1


def test_who_is_not_answered_or_with_less_while_redis_is_gone_is_counted() -> None:
    flawed = [sight(1.1 + at / 1000, status=503 if at == 5 else 200, degraded="priors") for at in range(50)]
    whole = [sight(2.0 + at / 1000) for at in range(IN_A_ROW)]
    before, during, after = by_phase([sight(0.5), *flawed, *whole], 1.0, 1.12)
    assert (len(before), len(during), len(after)) == (1, 20, 30 + IN_A_ROW)
    assert whole_again_s([*flawed, *whole], 1.0) == pytest.approx(1.01)
    assert whole_again_s([*flawed, *whole[:-1]], 1.0) is None
    assert whole_again_s([*whole, sight(9.0, degraded="priors")], 2.0) == pytest.approx(0.01)


@pytest.mark.usefixtures("redis")
def test_redis_comes_back_with_what_it_held(tmp_path: Path) -> None:
    import redis

    server = RedisServer(tmp_path)
    try:
        with redis.Redis.from_url(server.url) as client:
            client.set("a", "b")
            server.kill()
            with pytest.raises(redis.RedisError):
                redis.Redis.from_url(server.url, retry=None).get("a")
            server.start()
            assert client.get("a") == b"b"
    finally:
        server.stop()


def test_nobody_notices_that_the_model_is_changed(work: Home, bodies: list[bytes]) -> None:
    found = swaps(work, bodies, 40.0, anywhere(), count=3)
    assert found is not None
    assert (found["swaps"], found["rollbacks"], found["failed"], found["models"]) == (3, 3, 0, 2)
    assert 0 < found["answers_s"]["median"] <= found["answers_s"]["most"]
    assert found["rollback_s"]["most"] > 0


def test_a_request_that_fails_while_the_model_is_changed_is_counted() -> None:
    seen = [sight(0.0), sight(0.1, status=503), sight(0.2, status=0), sight(0.3, model="n")]
    found = swap_figures(seen, [Change("n", 0.5, 0.25), Change(BACK, 0.5, 0.25)])
    assert (found["failed"], found["models"], found["swaps"], found["rollbacks"]) == (2, 2, 1, 1)
    assert found["answers_s"]["most"] == 0.25
    assert found["rollback_s"]["most"] == 0.75


@given(st.lists(st.floats(0, 0.01), min_size=1, max_size=60), st.floats(1e-4, 0.02))
def test_the_queue_is_that_of_requests_served_one_after_the_other(gaps: list[float], service_s: float) -> None:
    at_s = np.cumsum(gaps)
    free, spent = 0.0, []
    for at in at_s.tolist():
        free = max(free, at) + service_s
        spent.append(free - at)
    np.testing.assert_allclose(queue_s(at_s, service_s), spent, rtol=1e-9, atol=1e-12)


@given(st.lists(st.floats(1e-6, 3.0), min_size=1, max_size=80), st.sampled_from([0.01, 0.5, 0.9, 0.99, 1.0]))
def test_a_histograms_quantile_lies_in_the_bucket_of_the_exact_one(seconds: list[float], share: float) -> None:
    bounds = [0.001, 0.01, 0.1, 1.0, float("inf")]
    cumulative = {bound: float(sum(one <= bound for one in seconds)) for bound in bounds}
    exact = sorted(seconds)[int(np.ceil(share * len(seconds) - 1e-9)) - 1]
    (found,) = quantiles_s(cumulative, [share])
    assert found is not None
    low = max((bound for bound in bounds if bound < exact), default=0.0)
    high = min(bound for bound in bounds if bound >= exact)
    assert low - 1e-12 <= found <= (high if np.isfinite(high) else low)


def test_a_histogram_of_nothing_has_no_quantile() -> None:
    assert quantiles_s({1.0: 0.0, float("inf"): 0.0}, [0.5]) == [None]


def test_the_page_says_which_goal_is_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "FOLDER", tmp_path)

    def page(result: dict[str, object]) -> str:
        (tmp_path / "bench-serve.json").write_text(json.dumps({"command": "c", "rooms": {}, "result": result}))
        return faults_page.goals()

    assert page({}) == faults_page.NOT_YET
    parts = {
        "kills": {"kills": 20, "missing_in_lake": 1},
        "outage": {"before": {"p99_ms": 2.0}, "during": {"p99_ms": 5.0, "share": 1.0}},
        "swaps": None,
    }
    said = page({"faults": {"against": against(parts), "goals": GOALS}})
    lines = {line.split("|")[1].strip(): line for line in said.splitlines()[2:]}
    met = {name: lines[faults_page.MEANING[name]].endswith("| yes |") for name in GOALS}
    assert met == {
        "kills": True, "missing": False, "answered_without_store": True, "p99_without_store_over_before": True,
        "swaps": False, "failed_in_swaps": False, "rollback_s": False,
    }  # fmt: skip
    assert "not measured" in lines[faults_page.MEANING["swaps"]]
