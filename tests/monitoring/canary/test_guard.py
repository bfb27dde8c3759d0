"""The guard: good canaries stay, bad ones go within so many requests, and what is missing counts as failure."""

import json
from dataclasses import replace

import numpy as np
import pytest
from trials import LOOK_S, Model, People, trial

from monitoring.canary import Bands, Counts, Verdict, guard, judge
from monitoring.canary.counts import nothing, of_labels, of_requests
from monitoring.canary.guard import ALPHA


def looked_at(seed: int, canary: Model, share: float = 0.1, looks: int = 40) -> tuple[Verdict, Counts]:
    """The verdict that ends a trial, or its last one; and what the canary had until then."""
    for number, (mine, theirs) in enumerate(trial(seed, canary, share, looks), start=1):
        verdict = judge(mine, theirs, LOOK_S * number)
        if verdict.action == "roll back":
            break
    return verdict, mine


@pytest.mark.parametrize(
    "canary", [Model(), Model(odds=1.02, noise=0.15)], ids=["the same model", "a little worse, in its band"]
)
def test_good_canaries_stay_however_often_they_are_looked_at(canary: Model) -> None:
    """The bound is 1 in 100; three of these 150 or more would come with a chance of one in five, seven with 1 in 2000."""
    gone = [verdict.why for seed in range(150) for verdict, _ in [looked_at(seed, canary)] if verdict.action == "roll back"]
    assert ALPHA == 0.01
    assert len(gone) < 7, gone


def test_few_users_who_differ_much_are_no_fault_of_the_canary(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thirty people get the canary; were their clicks taken as independent, several good canaries would go."""
    few = People(users=300, spread=0.8)
    ends = [list(trial(seed, Model(), looks=30, requests=800, people=few))[4::5] for seed in range(40)]

    def gone() -> int:
        return sum(any(judge(*arms, 10.0).action == "roll back" for arms in looks) for looks in ends)

    assert gone() <= 1
    monkeypatch.setattr(guard, "dispersion", lambda *_: 1.0)
    assert gone() >= 4


# Requests of the canary within which it is gone, in all of twenty trials.
BAD = {
    "one request in twenty fails": (Model(errors=0.05), "errors", 800),
    "three times as slow": (Model(slow=3.0), "latency", 250),
    "odds 1.6 times too high": (Model(odds=1.6), "calibration", 4000),
    "odds 1.6 times too low": (Model(odds=1 / 1.6), "calibration", 4000),
    "random scores": (Model(random=True), "ne", 1500),
}


@pytest.mark.parametrize("story", BAD)
def test_bad_canaries_go_for_the_right_reason_within_so_many_requests(story: str) -> None:
    model, metric, requests = BAD[story]
    for seed in range(20):
        verdict, mine = looked_at(seed, model, looks=120)
        assert verdict.action == "roll back", (story, seed, verdict.why)
        assert metric in {reading.metric for reading in verdict.readings if reading.state == "outside"}
        assert mine.requests <= requests, (story, seed)
        assert verdict.why.startswith(f"{metric}: ")


def test_a_model_that_always_fails_goes_at_once() -> None:
    verdict = judge(of_requests(np.zeros(0), failed=15), of_requests(np.full(285, 0.003)), 3.0)
    assert verdict.action == "roll back"


def test_a_good_canary_becomes_ready_and_says_so() -> None:
    *_, (mine, theirs) = trial(3, Model(), share=0.5, looks=100, requests=1000)
    verdict = judge(mine, theirs, 1000.0)
    assert verdict.action == "ready"
    assert {reading.state for reading in verdict.readings} == {"inside"}
    early = next(trial(3, Model(), share=0.5))
    assert judge(*early, 10.0).action == "continue"


# What is missing


def whole(share: int) -> Counts:
    """An arm with everything there, `share` times."""
    rng = np.random.default_rng(5)
    user, p = rng.integers(0, 500, 800 * share), np.full(800 * share, 0.05)
    return of_requests(np.full(200 * share, 0.003)) + of_labels(user, p, rng.random(800 * share) < 0.05)


def test_with_everything_there_it_goes_on() -> None:
    assert judge(whole(1), whole(9), 1e6).action == "continue"


MISSING = {
    "no requests": ({"requests": 0, "latency": nothing().latency}, "canary", {"errors", "latency"}),
    "no requests of the champion": ({"requests": 0, "latency": nothing().latency}, "champion", {"errors", "latency"}),
    "no latencies": ({"latency": nothing().latency}, "canary", {"latency"}),
    "half the latencies": ({"latency": whole(1).latency // 2}, "canary", {"latency"}),
    "no clicks": ({"clicks": nothing().clicks}, "canary", {"calibration", "ne"}),
    "no clicks of the champion": ({"clicks": nothing().clicks}, "champion", {"calibration", "ne"}),
    "no labels": (
        {name: nothing().clicks for name in ("clicks", "impressions", "sum_p", "log_loss")}, "canary", {"calibration", "ne"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("story", MISSING)
def test_a_missing_metric_is_failure_after_its_grace_and_not_before(story: str) -> None:
    change, arm, metrics = MISSING[story]
    arms = {"canary": whole(1), "champion": whole(9)}
    arms[arm] = replace(arms[arm], **change)
    bands = Bands(grace_s=60.0, label_grace_s=600.0)
    grace_s = 600.0 if "ne" in metrics else 60.0
    before, after = (judge(arms["canary"], arms["champion"], at_s, bands) for at_s in (grace_s - 1, grace_s))
    assert before.action == "continue", before.why
    assert after.action == "roll back"
    assert {reading.metric for reading in after.readings if reading.state == "missing"} == metrics


@pytest.mark.parametrize("name", ["latency", "clicks", "sum_p", "log_loss"])
@pytest.mark.parametrize("arm", ["canary", "champion"])
def test_what_is_no_number_is_missing_at_once(name: str, arm: str) -> None:
    arms = {"canary": whole(1), "champion": whole(9)}
    values = getattr(arms[arm], name).copy()
    values[3] = np.nan
    arms[arm] = replace(arms[arm], **{name: values})
    verdict = judge(arms["canary"], arms["champion"], 1.0)
    assert verdict.action == "roll back"
    assert "are no numbers" in verdict.why
    json.dumps(verdict.as_json(), allow_nan=False)


def test_no_clicks_where_there_should_be_many_is_seen_before_any_grace() -> None:
    mine, theirs = whole(10), whole(90)
    silent = replace(mine, clicks=np.where(np.arange(32) == 0, 1.0, 0.0))
    assert judge(silent, theirs, 1.0).action == "roll back"


def test_a_verdict_can_be_kept_and_read() -> None:
    verdict = judge(of_requests(np.full(500, 0.003), 500), of_requests(np.full(5000, 0.003)), 1.0)
    kept = json.loads(json.dumps(verdict.as_json(), allow_nan=False))
    assert kept["action"] == "roll back"
    assert [reading["metric"] for reading in kept["readings"]] == ["errors", "latency", "calibration", "ne"]
    (finding,) = verdict.findings()
    assert (finding.subject, finding.severity, finding.evidence["state"]) == ("errors", "page", "outside")
    assert finding.evidence["low"] > finding.evidence["band"]
