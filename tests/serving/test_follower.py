"""The service follows the rollout document: who answers whom, what is refused, what stays warm."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from small_models import CONTEXT, EveryFamily

from infra.clock import MINUTE_US, FixedClock
from infra.home import Home
from infra.lake import watermark_us
from infra.settings import Settings
from models.artefact import load
from serving import rollout_audit, rollout_store
from serving.follower import Follower
from serving.logged_features import logged_rows
from serving.prediction_log import read, segments
from serving.prediction_rows import to_table
from serving.rank_handler import Service
from serving.rollout import (
    A_A,
    CANARY,
    Arm,
    Experiment,
    Rollout,
    add_shadow,
    end_canary,
    plan,
    promote,
    start_canary,
    start_experiment,
)
from serving.scorer import RankRequest


@pytest.fixture
def home(families: EveryFamily) -> Home:
    return families.home


@pytest.fixture
def follower(home: Home) -> Follower:
    return Follower(home, Settings(), FixedClock(watermark_us(home) + 7 * MINUTE_US))


@pytest.fixture
def first(follower: Follower) -> Iterator[Service]:
    service = follower.load()
    yield service
    service.scorer.close()


def changed(home: Home, transition: Callable[[Rollout], Rollout]) -> None:
    rollout_store.change(home, "test", "to see", transition)


def asked(user: int, request_id: int | None = None) -> RankRequest:
    return RankRequest(user, np.arange(1, 9), 3, CONTEXT, None, request_id)


def models_by_arm(service: Service, users: int = 400) -> dict[str, set[str]]:
    """Who answered, by arm."""
    found: dict[str, set[str]] = {}
    for user in range(users):
        answer = service.scorer.rank(asked(user))
        assert answer.marks.degraded == ""
        found.setdefault(answer.arm, set()).add(answer.model)
    return found


def renewed(follower: Follower) -> Service:
    found = follower.renew()
    assert found is not None
    return found


def test_nothing_is_made_anew_while_the_document_stays(follower: Follower, first: Service, hashes: Mapping[str, str]) -> None:
    assert follower.renew() is None
    assert models_by_arm(first) == {"a": {hashes["logistic"]}, "b": {hashes["logistic"]}}
    assert first.description.rollout == 1
    assert first.description.others == {}


def test_a_canary_answers_its_users_and_nobody_else(
    home: Home, follower: Follower, first: Service, hashes: Mapping[str, str]
) -> None:
    changed(home, lambda now: start_canary(now, hashes["xgboost"], 0.2, 0))
    service = renewed(follower)
    found = models_by_arm(service)
    assert found == {"a": {hashes["logistic"]}, "b": {hashes["logistic"]}, CANARY: {hashes["xgboost"]}}
    assert service.description.arms == plan(rollout_store.read(home))
    assert service.description.others == {CANARY: hashes["xgboost"]}
    one = next(user for user in range(400) if service.scorer.arms.arm(user, 0) == CANARY)
    answer = service.scorer.rank(asked(one, 5))
    alone = load(home.artefacts, hashes["xgboost"])
    np.testing.assert_allclose(answer.s, alone.score(answer.features.columns), atol=1e-5)
    shown = answer.s[answer.slate.shown]
    np.testing.assert_allclose(answer.p, alone.probability(shown, np.arange(3)), atol=1e-6)

    changed(home, end_canary)
    assert models_by_arm(renewed(follower)) == {"a": {hashes["logistic"]}, "b": {hashes["logistic"]}}


def test_arms_of_a_test_get_their_models_and_requests_together_get_the_same_as_alone(
    home: Home, follower: Follower, first: Service, hashes: Mapping[str, str]
) -> None:
    arms = (Arm("control", None, 2.0), Arm("trees", hashes["xgboost"], 1.0), Arm("net", hashes["dcnv2"], 1.0))
    changed(home, lambda now: start_experiment(now, Experiment("three", arms)))
    scorer = renewed(follower).scorer
    requests = [asked(user, 1000 + user) for user in range(24)]
    together, alone = scorer.rank_many(requests), [scorer.rank(request) for request in requests]
    assert {answer.model for answer in together} == set(hashes.values())
    for one, other in zip(together, alone, strict=True):
        assert (one.request_id, one.arm, one.model) == (other.request_id, other.arm, other.model)
        np.testing.assert_allclose(one.s, other.s, atol=1e-5)
        np.testing.assert_array_equal(one.slate.shown, other.slate.shown)


def test_request_ids_go_on_counting_when_models_are_swapped(
    home: Home, follower: Follower, first: Service, hashes: Mapping[str, str]
) -> None:
    ids = [first.scorer.rank(asked(1)).request_id for _ in range(5)]
    changed(home, lambda now: promote(now, hashes["xgboost"]))
    second = renewed(follower)
    ids += [scorer.rank(asked(1)).request_id for scorer in (second.scorer, first.scorer) * 3]
    assert len(set(ids)) == len(ids)


def test_a_rollback_finds_its_model_loaded_also_after_a_start(
    home: Home, follower: Follower, first: Service, hashes: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    changed(home, lambda now: promote(now, hashes["xgboost"]))
    assert renewed(follower).description.model == hashes["xgboost"]
    again = Follower(home, Settings(), FixedClock(watermark_us(home)))
    started = again.load()

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a rollback must not load anything")

    monkeypatch.setattr("serving.follower.examine", refuse)
    monkeypatch.setattr("serving.follower.load", refuse)
    rollout_store.rollback(home, "test", "it is bad")
    for one in (follower, again):
        assert renewed(one).description.model == hashes["logistic"]
    started.scorer.close()


def test_a_change_that_could_not_be_followed_is_tried_again(
    home: Home, follower: Follower, first: Service, hashes: Mapping[str, str]
) -> None:
    changed(home, lambda now: promote(now, hashes["xgboost"]))
    history = rollout_audit.path(home)
    aside = history.rename(history.with_suffix(".aside"))
    history.mkdir()
    for _ in range(2):
        with pytest.raises(IsADirectoryError):
            follower.renew()
    history.rmdir()
    aside.rename(history)
    assert renewed(follower).description.model == hashes["xgboost"]


@pytest.mark.parametrize("stage", ["canary", "arm", "champion"])
def test_a_damaged_model_gets_no_traffic_and_the_champion_answers_instead(
    home: Home, follower: Follower, first: Service, hashes: Mapping[str, str], stage: str, caplog: pytest.LogCaptureFixture
) -> None:
    trees = hashes["xgboost"]
    path = max((home.artefacts / trees).iterdir(), key=lambda file: file.stat().st_size)
    path.write_bytes(path.read_bytes()[:-1])
    changed(
        home,
        {
            "canary": lambda now: start_canary(now, trees, 0.5, 0),
            "arm": lambda now: start_experiment(now, Experiment("t", (Arm("c"), Arm("t", trees)))),
            "champion": lambda now: promote(now, trees),
        }[stage],
    )
    service = follower.renew() or first
    assert models_by_arm(service, 40) == {"a": {hashes["logistic"]}, "b": {hashes["logistic"]}}
    (refusal,) = follower.refusals
    assert refusal.artefact == trees
    assert path.name in caplog.text
    assert service.description.rollout == (1 if stage == "champion" else 2)
    rollout_store.change(home, "test", "another", lambda now: promote(now, hashes["dcnv2"]))
    assert renewed(follower).description.model == hashes["dcnv2"]
    assert follower.refusals == ()


def test_for_a_shadow_every_candidates_features_are_logged_and_the_lake_gets_what_it_always_gets(
    home: Home, follower: Follower, first: Service, hashes: Mapping[str, str]
) -> None:
    many = RankRequest(3, np.arange(1, 150), 3, CONTEXT, None, 77)
    before = first.scorer.rank(many)
    changed(home, lambda now: add_shadow(now, hashes["xgboost"]))
    service = renewed(follower)
    assert service.scorer.log_all
    assert service.description.shadows == [hashes["xgboost"]]
    after = service.scorer.rank(many)
    np.testing.assert_array_equal(before.s, after.s)
    one, other = (record for segment in segments(home) for record, _ in read(segment))
    assert one.sampled == other.sampled == len(logged_rows(77, 149, before.slate.shown))
    assert (one.numbers.values.shape[0], other.numbers.values.shape[0]) == (one.sampled, 149)
    pd.testing.assert_frame_equal(*(to_table([record]).to_pandas() for record in (one, other)))


def test_a_follower_starts_with_what_may_answer(home: Home, hashes: Mapping[str, str]) -> None:
    changed(home, lambda now: start_canary(now, hashes["xgboost"], 0.5, 0))
    shutil.rmtree(home.artefacts / hashes["xgboost"])
    follower = Follower(home, Settings(), FixedClock(watermark_us(home)))
    service = follower.load()
    assert models_by_arm(service, 40) == {"a": {hashes["logistic"]}, "b": {hashes["logistic"]}}
    assert follower.rollout is not None
    assert follower.rollout.experiment == A_A
    service.scorer.close()


FIRST_REQUESTS = """
import sys
from pathlib import Path
import numpy as np
from features.derive_rows import answer_rows
from infra.clock import FixedClock
from infra.home import Home
from infra.lake import watermark_us
from infra.settings import Settings
from models.encode_rows import _fill
from models.engines.compiled_trees import _margins
from models.logit_rows import at_slots, calibrated, finite
from serving.follower import Follower
from serving.scorer import RankRequest

loops = answer_rows, _fill, _margins, at_slots, calibrated, finite
home = Home(Path(sys.argv[1]))
scorer = Follower(home, Settings(), FixedClock(watermark_us(home))).load().scorer
before = [len(loop.signatures) for loop in loops]
context = {"device": "mobile", "placement": "feed_top", "page_topic": 3}
for user in (1, -1):
    for bid in (None, np.ones(30, np.float32)):
        scorer.rank(RankRequest(user, np.arange(1, 31), 4, context, bid))
scorer.close()
print(before, [len(loop.signatures) for loop in loops])
"""


def test_the_first_requests_wait_for_no_compiler(home: Home, hashes: Mapping[str, str]) -> None:
    rollout_store.change(home, "test", "to see", lambda now: promote(now, hashes["xgboost"]))
    command = [sys.executable, "-c", FIRST_REQUESTS, str(home.root)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert done.stdout.splitlines()[-1] == "[1, 1, 1, 1, 1, 1] [1, 1, 1, 1, 1, 1]"
