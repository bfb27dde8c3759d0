"""Shadows score what was answered, from what was logged, and go on where they were."""

import os
from collections.abc import Iterator, Mapping

import numpy as np
import pytest
from small_models import CONTEXT, EveryFamily

from features.batch import Array
from infra.clock import HOUR_US, MINUTE_US, SECOND_US, FixedClock, SystemClock
from infra.home import Home
from infra.lake import watermark_us
from infra.settings import Settings
from models.artefact import load
from serving import rollout_store
from serving.follower import Follower
from serving.prediction_log import unpack
from serving.rank_handler import Service
from serving.rollout import add_shadow, drop_shadow
from serving.scorer import Answer, RankRequest
from serving.shadow import TOGETHER, Shadows
from serving.shadow_log import ShadowRecord, behind_s, read, segments


@pytest.fixture
def home(families: EveryFamily) -> Home:
    return families.home


@pytest.fixture
def service(home: Home, hashes: Mapping[str, str]) -> Iterator[Service]:
    """A champion with two shadows."""
    for family in ("xgboost", "dcnv2"):
        rollout_store.change(home, "test", "to see", lambda now, name=hashes[family]: add_shadow(now, name))
    found = Follower(home, Settings(), FixedClock(watermark_us(home) + 7 * MINUTE_US)).load()
    yield found
    found.scorer.close()


def ask(service: Service, users: range, n: int = 30) -> list[Answer]:
    return [service.scorer.rank(RankRequest(user, np.arange(1 + user, 1 + user + n), 4, CONTEXT)) for user in users]


def scores(home: Home) -> dict[tuple[int, str], ShadowRecord]:
    found = [record for segment in segments(home) for record, _ in read(segment)]
    assert len({(one.request_id, one.artefact) for one in found}) == len(found)  # each once
    return {(one.request_id, one.artefact): one for one in found}


def test_every_candidate_of_every_request_is_scored_as_the_model_would(
    home: Home, service: Service, hashes: Mapping[str, str]
) -> None:
    shadows = Shadows(home, Settings())
    answers = ask(service, range(TOGETHER + 5)) + ask(service, range(3), n=150)
    assert shadows.look() == len(answers)
    shadows.close()
    found = scores(home)
    assert len(found) == 2 * len(answers)
    for family in ("xgboost", "dcnv2"):
        model = load(home.artefacts, hashes[family])
        for answer in answers:
            record = found[answer.request_id, model.hash]
            s: Array = model.score(answer.features.columns)
            np.testing.assert_allclose(unpack(record.s), s, atol=1e-4)
            np.testing.assert_array_equal(unpack(record.shown), answer.slate.shown)
            p = model.probability(s[answer.slate.shown], np.arange(len(answer.slate.shown)))
            np.testing.assert_allclose(unpack(record.p), p, atol=1e-4)


def test_one_that_is_started_again_goes_on_where_it_was(home: Home, service: Service) -> None:
    first = Shadows(home, Settings())
    answers = ask(service, range(5))
    first.look()
    first.close()
    answers += ask(service, range(5, 12))  # while nobody scores
    second = Shadows(home, Settings())
    assert second.look() == 7
    second.close()
    assert {request for request, _ in scores(home)} == {answer.request_id for answer in answers}


def test_one_that_is_new_begins_with_what_comes_from_now_on(home: Home, service: Service, hashes: Mapping[str, str]) -> None:
    old, new = hashes["xgboost"], hashes["dcnv2"]
    rollout_store.change(home, "test", "one is enough", lambda now: drop_shadow(now, new))
    first = Shadows(home, Settings())
    ask(service, range(3))
    first.look()
    first.close()
    left = ask(service, range(4))  # while nobody scores
    rollout_store.change(home, "test", "two again", lambda now: add_shadow(now, new))
    second = Shadows(home, Settings())
    second.look()
    assert {request for request, name in scores(home) if name == old} >= {answer.request_id for answer in left}
    assert {name for _, name in scores(home)} == {old}
    asked = ask(service, range(2))
    second.look()
    second.close()
    assert {request for request, name in scores(home) if name == new} == {answer.request_id for answer in asked}


def test_how_late_shadows_are_counts_from_when_they_had_everything(home: Home, service: Service) -> None:
    shadows, began_us = Shadows(home, Settings()), SystemClock().now_us()
    assert behind_s(home, began_us - 2 * HOUR_US) >= 7200  # nothing was ever scored
    ask(service, range(3))
    shadows.look()
    assert behind_s(home, began_us - 2 * HOUR_US) < 3600
    hour_ago_s = (began_us - HOUR_US) / SECOND_US
    os.utime(home.shadows / "caught-up", (hour_ago_s, hour_ago_s))
    assert 3600 <= behind_s(home, began_us - 2 * HOUR_US) < 7200
    assert behind_s(home, began_us) < 3600  # there are shadows only since now
    shadows.close()


def test_a_shadow_that_was_dropped_or_is_damaged_scores_no_more_and_the_other_goes_on(
    home: Home, service: Service, hashes: Mapping[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    path = max((home.artefacts / hashes["dcnv2"]).iterdir(), key=lambda file: file.stat().st_size)
    path.write_bytes(path.read_bytes()[:-1])
    shadows = Shadows(home, Settings())
    ask(service, range(3))
    shadows.look()
    assert {name for _, name in scores(home)} == {hashes["xgboost"]}
    assert caplog.text.count("scores nothing") == 1
    rollout_store.change(home, "test", "enough", lambda now: drop_shadow(now, hashes["xgboost"]))
    ask(service, range(3))
    shadows.look()
    assert len(scores(home)) == 3
    shadows.close()
