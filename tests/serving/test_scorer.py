"""The one path, in process."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_world import NOW_US, DictSource, TinyArtefact

from features.batch import FeatureBatch, RequestBatch
from infra.clock import FixedClock
from infra.home import Home
from serving.assignment import Assignment
from serving.logged_features import logged_rows
from serving.policy import EpsilonPolicy, GreedyPolicy
from serving.prediction_log import PredictionLog, Record, features_of, names_of, read, segments, unpack
from serving.scorer import RankRequest, Scorer

REQUEST = RankRequest(user_id=3, ad_id=np.arange(20), slots=4, context={"device": "mobile"}, request_id=11)


def logged(scorer: Scorer) -> list[Record]:
    return [record for record, _ in read(scorer.log.path)]


def test_what_is_logged_is_what_was_answered(scorer):
    answer = scorer.rank(REQUEST)
    (record,) = logged(scorer)
    assert (record.request_id, record.time_us, record.user_id) == (11, NOW_US, 3)
    assert (record.arm, record.policy, record.randomised) == (answer.arm, "epsilon-0.3", answer.slate.randomised)
    assert (record.artefact, record.encoder) == ("tiny-model", "tiny-encoder")
    np.testing.assert_array_equal(unpack(record.ad_id), REQUEST.ad_id)
    np.testing.assert_array_equal(unpack(record.s), answer.s)
    np.testing.assert_array_equal(unpack(record.p), answer.p)
    np.testing.assert_array_equal(unpack(record.shown), answer.slate.shown)
    np.testing.assert_array_equal(unpack(record.propensity), answer.slate.propensity)
    assert unpack(record.logged)[:4].tolist() == answer.slate.shown.tolist()
    assert set(features_of(record)) == {"user_id", "ad_id", "device", "user_ctr", "ad_ctr", "user_clicked_categories"}
    assert names_of(record.snapshots) == names_of(record.ages) == ("user_daily", "ad_daily")


def test_logged_features_give_the_logged_scores_again(scorer):
    for number in range(30):
        scorer.rank(replace(REQUEST, request_id=number, user_id=number % 7))
    for record in logged(scorer):
        rows = unpack(record.logged)
        again = TinyArtefact().score(features_of(record))
        np.testing.assert_array_equal(again, unpack(record.s)[rows])
        k = len(unpack(record.shown))
        np.testing.assert_array_equal(TinyArtefact().probability(again[:k], np.arange(k)), unpack(record.p))


def test_p_is_the_probability_at_the_slot_given(scorer):
    answer = scorer.rank(REQUEST)
    s = answer.s[answer.slate.shown]
    np.testing.assert_allclose(answer.p, 1 / (1 + np.exp(-(s - 0.4 * np.arange(4)))), rtol=1e-6)


def test_bids_order_by_expected_price_and_leave_the_scores_alone(home):
    log = PredictionLog(home)
    scorer = Scorer(DictSource(), TinyArtefact(), GreedyPolicy(), Assignment("s"), log, FixedClock(NOW_US))
    plain = scorer.rank(REQUEST)
    assert plain.slate.shown.tolist() == np.argsort(-plain.s, kind="stable")[:4].tolist()
    bid = np.ones(20, np.float32)
    bid[13] = 1000.0
    priced = scorer.rank(replace(REQUEST, bid=bid))
    assert priced.slate.shown[0] == 13
    np.testing.assert_array_equal(priced.s, plain.s)
    log.close()


def test_the_arm_sticks_to_the_user(scorer):
    arms = {user: {scorer.rank(replace(REQUEST, user_id=user, request_id=r)).arm for r in range(5)} for user in range(20)}
    assert all(len(of_user) == 1 for of_user in arms.values())
    assert len(set.union(*arms.values())) == 2


def test_requests_without_an_id_get_different_ones(home):
    ids = []
    for _ in range(2):  # two processes, one after the other, with the same clock
        log = PredictionLog(home)
        scorer = Scorer(DictSource(), TinyArtefact(), GreedyPolicy(), Assignment("s"), log, FixedClock(NOW_US))
        ids += [scorer.rank(replace(REQUEST, request_id=None)).request_id for _ in range(100)]
        log.close()
    assert len(set(ids)) == 200
    assert min(ids) >= 0


def test_unknown_users_and_ads_are_answered_and_marked(scorer):
    answer = scorer.rank(replace(REQUEST, user_id=999, ad_id=np.array([1, 888, 35])))
    assert not answer.marks.user_known
    assert answer.marks.unknown_ads == (888,)
    assert answer.marks.missing == ("user_daily", "ad_daily")
    assert answer.marks.stale == ("ad_daily",)
    assert len(answer.p) == 3
    known = scorer.rank(replace(REQUEST, ad_id=np.array([1, 2])))
    assert known.marks.user_known
    assert (known.marks.unknown_ads, known.marks.missing, known.marks.stale) == ((), (), ())


@given(st.integers(0, 2**62), st.integers(1, 200), st.integers(1, 10))
def test_the_shown_and_a_hashed_share_of_the_others_are_logged(request_id, n, k):
    shown = np.arange(n)[::-1][: min(k, n)]
    rows = logged_rows(request_id, n, shown)
    assert rows[: len(shown)].tolist() == shown.tolist()
    assert len(set(rows.tolist())) == len(rows)
    assert rows.tolist() == logged_rows(request_id, n, shown).tolist()


def test_about_one_candidate_in_a_hundred_not_shown_is_logged():
    found = sum(len(logged_rows(request_id, 101, np.array([0]))) - 1 for request_id in range(1000))
    assert abs(found / 100_000 - 0.01) < 5 * np.sqrt(0.01 * 0.99 / 100_000)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 8), st.lists(st.integers(0, 50), min_size=1, max_size=30, unique=True), st.integers(0, 2**40))
def test_rows_of_a_batch_get_the_scores_of_the_same_requests(tmp_path_factory, user, ads, request_id):
    log = PredictionLog(Home(tmp_path_factory.mktemp("rows")))
    scorer = Scorer(DictSource(), TinyArtefact(), EpsilonPolicy(0.5), Assignment("s"), log, FixedClock(NOW_US))
    ad_id = np.array(ads)
    answer = scorer.rank(replace(REQUEST, user_id=user, ad_id=ad_id, request_id=request_id))
    log.close()
    shown = answer.slate.shown
    k = len(shown)
    rows = RequestBatch(np.arange(k), np.full(k, NOW_US), np.full(k, user), ad_id[shown], {"device": np.full(k, "mobile")})
    batch_only = Scorer(DictSource(), TinyArtefact(), GreedyPolicy(), Assignment("s"), None, FixedClock(NOW_US))
    s, p, _ = batch_only.score_rows(rows, np.arange(k))
    np.testing.assert_allclose(s, answer.s[shown], atol=1e-6)
    np.testing.assert_allclose(p, answer.p, atol=1e-6)


def test_without_a_log_there_is_no_answer():
    scorer = Scorer(DictSource(), TinyArtefact(), GreedyPolicy(), Assignment("s"), None, FixedClock(NOW_US))
    with pytest.raises(ValueError, match="prediction log"):
        scorer.rank(REQUEST)


@pytest.mark.parametrize("broken", [lambda self, columns: np.full(20, np.nan, np.float32), lambda self, columns: columns["x"]])
def test_a_model_that_fails_is_stood_in_for_by_popularity_and_the_answer_says_so(scorer, monkeypatch, caplog, broken):
    monkeypatch.setattr(TinyArtefact, "score", broken)
    answers = [scorer.rank(replace(REQUEST, request_id=number)) for number in range(20)]
    assert {(a.model, a.marks.degraded) for a in answers} == {("popularity", "popularity")}
    rates = np.clip([np.sin(ad) for ad in REQUEST.ad_id], 1e-4, 0.5)
    for answer in answers:
        np.testing.assert_allclose(answer.s, np.log(rates / (1 - rates)), rtol=1e-5)
        if not answer.slate.randomised:
            assert rates[answer.slate.shown[0]] == rates.max()
    assert {record.artefact for record in logged(scorer)} == {"popularity"}
    assert len(caplog.records) == 1  # a broken model breaks for every request; it is said once a second
    monkeypatch.undo()
    assert scorer.rank(REQUEST).model == "tiny-model"


def test_requests_scored_together_are_answered_as_each_alone(scorer, home):
    asked = [replace(REQUEST, request_id=i, user_id=i % 7, ad_id=np.arange(i % 5, i % 5 + 3 + i)) for i in range(9)]
    alone = [scorer.rank(request) for request in asked]
    one_by_one = logged(scorer)
    together = scorer.rank_many(asked)
    for one, other in zip(alone, together, strict=True):
        assert (one.request_id, one.arm, one.model, one.marks) == (other.request_id, other.arm, other.model, other.marks)
        for name in ("s", "p"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        np.testing.assert_array_equal(one.slate.shown, other.slate.shown)
    said = [msgspec.structs.replace(record, took_us=0) for record in logged(scorer)]
    assert said[len(one_by_one) :] == said[: len(one_by_one)]


def test_a_source_that_loses_rows_is_caught(scorer):
    class Losing(DictSource):
        def fetch(self, requests):
            whole = super().fetch(requests)
            return FeatureBatch({name: values[1:] for name, values in whole.columns.items()}, whole.views)

    scorer.source = Losing()
    with pytest.raises(ValueError, match="Losing answered 19 values"):
        scorer.rank(REQUEST)


def test_the_log_lies_in_the_home(scorer, home):
    assert segments(home) == [scorer.log.path]
