"""Stage budgets from a server's /metrics."""

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from pipelines.bench.stages import Sums, adds_up, budget, sums


def metrics(stages: dict[str, list[float]], hits: int = 0, misses: int = 0) -> str:
    registry = CollectorRegistry()
    whole = Histogram("clickproof_rank_seconds", "all", registry=registry)
    stage = Histogram("clickproof_stage_seconds", "by stage", ["stage"], registry=registry)
    cache = Counter("clickproof_user_cache", "users", ["outcome"], registry=registry)
    Counter("clickproof_requests", "not of interest", ["route", "status"], registry=registry).labels("rank", "200").inc(9)
    for name, seconds in stages.items():
        for one in seconds:
            stage.labels(name).observe(one)
    for one in max(stages.values(), key=len, default=[]):
        whole.observe(one)
    if hits or misses:
        cache.labels("hit").inc(hits)
        cache.labels("miss").inc(misses)
    return generate_latest(registry).decode()


def test_sums_are_read_from_the_text() -> None:
    found = sums(metrics({"fetch": [0.25, 0.5], "score": [1.0, 2.0]}, hits=3, misses=1))
    assert dict(found.seconds) == {"fetch": 0.75, "score": 3.0}
    assert found.count == 2
    assert found.hit_rate == 0.75
    assert sums(metrics({})).hit_rate is None


def test_what_came_between_two_moments_is_their_difference() -> None:
    before, after = sums(metrics({"fetch": [0.5]}, hits=1)), sums(metrics({"fetch": [0.5, 0.25], "score": [1.0]}, 2, 5))
    between = after.since(before)
    assert dict(between.seconds) == {"fetch": 0.25, "score": 1.0}
    assert (between.count, dict(between.cache)) == (1, {"hit": 1, "miss": 5})
    assert before.plus(between) == after


@pytest.mark.parametrize(("cpu_us", "fits"), [(1000.0, True), (910.0, True), (1111.0, True), (1200.0, False), (800.0, False)])
def test_a_budget_fits_when_stages_and_http_explain_the_processor_time(cpu_us: float, fits: bool) -> None:
    found = budget(Sums({"fetch": 0.3, "score": 0.5}, count=1000), cpu_us, http_us=150.0, background_us=50.0)
    assert found["us"] == {"fetch": 300.0, "score": 500.0, "HTTP": 150.0, "background threads": 50.0}
    assert sum(found["us"].values()) + found["rest"] == pytest.approx(cpu_us)
    assert adds_up(found) is fits
