"""Every answer of the walkthrough, run on the tiny home: its shape, and one thing that must come out whatever the luck."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from as_a_user import clickproof
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from infra.errors import ExplainedError
from pipelines.answers import ANSWERS, Drawn, answer
from pipelines.answers.auction_cost import _place_within, bias
from pipelines.answers.cold_start import exposures
from pipelines.answers.downsampling import corrected
from pipelines.answers.drift_test import LEARNED, chi_squared, jensen_shannon, psi, tally, verdicts
from pipelines.answers.why_ne import distorted

Ask = Callable[[str], dict[str, Any]]


@pytest.mark.parametrize("name", sorted(ANSWERS))
def test_an_answer_is_json_says_where_it_was_measured_and_makes_a_table(asked: Ask, name: str, tmp_path: Path) -> None:
    result = json.loads(json.dumps(asked(name), allow_nan=False))
    assert result["on"] == ("worlds of its own" if name == "gate" else "world-tiny-1")
    module = answer(name)
    assert "| --- |" in module.markdown(result)
    assert module.markdown(result) == module.markdown(asked(name))  # the page says what the command said
    if isinstance(module, Drawn):
        drawn = module.draw(result, tmp_path)
        assert drawn.stat().st_size > 1000
        assert f"figures/{drawn.name}" in module.markdown(result)


def test_every_answer_has_a_question_and_a_number_of_its_own() -> None:
    numbers = [answer(name).NUMBER for name in ANSWERS]
    assert len(set(numbers)) == len(numbers)
    assert all(answer(name).QUESTION.strip() for name in ANSWERS)


def test_an_unknown_question_is_answered_with_those_there_are() -> None:
    with pytest.raises(ExplainedError, match="why-ne"):
        answer("why")


def test_the_command_lists_all_answers(tmp_path: Path) -> None:
    listed = clickproof("answer", "all", home=tmp_path).stdout
    assert all(name in listed for name in ANSWERS)


def test_distortions_keep_the_auc_and_cost_normalised_entropy(asked: Ask) -> None:
    versions = asked("why-ne")["versions"]
    plain = versions.pop("as trained")
    for name, found in versions.items():
        assert found["auc"]["value"] == pytest.approx(plain["auc"]["value"], abs=1e-9), name
        assert found["ne"]["value"] > plain["ne"]["value"], name


def test_every_distortion_increases_in_p() -> None:
    p = np.linspace(1e-4, 0.6, 500)
    for name, q in distorted(p).items():
        assert (np.diff(q) > 0).all(), name
        assert ((q > 0) & (q < 1)).all(), name


def test_slices_of_a_perfect_model_seldom_look_wrong(asked: Ask) -> None:
    result = asked("calibrated")
    assert result["exclude_1_by_luck"]["mean"] < 0.1 * result["of"]
    for dimension in ("device", "placement", "category", "slot"):
        rows = [row for row in result["slices"] if row["dimension"] == dimension]
        assert sum(row["clicks"] for row in rows) == result["clicks"], dimension


def test_sampling_negatives_raises_p_and_the_formula_brings_it_back(asked: Ask) -> None:
    versions = asked("downsampling")["versions"]
    raw, right = versions["w = 10%, as it comes out"], versions["w = 10%, corrected"]
    assert raw["mean_p"] > 4 * versions["all rows"]["mean_p"]
    assert abs(right["calibration"]["value"] - 1) < abs(raw["calibration"]["value"] - 1)
    assert right["ne"]["value"] < raw["ne"]["value"]


@given(st.floats(1e-6, 1 - 1e-6), st.floats(0.01, 1.0))
def test_the_correction_undoes_the_sampling(p: float, share: float) -> None:
    sampled = np.array([p / (p + (1 - p) * share)])  # Bayes: negatives are met `share` as often
    assert corrected(sampled, share)[0] == pytest.approx(p, rel=1e-6)


def test_only_a_bias_that_differs_between_ads_of_an_auction_costs_its_winner(asked: Ask) -> None:
    biased = asked("auction-cost")["biased"]
    for shared in ("everybody", "the placement"):
        assert all(found["regret"]["value"] == 0.0 for found in biased[shared].values())
    lost = [found["regret"]["value"] for found in biased["the advertiser"].values()]
    assert lost == sorted(lost)
    assert lost[0] > 0


@given(st.lists(st.integers(0, 4), min_size=1, max_size=40))
def test_places_within_a_group_count_from_zero(groups: list[int]) -> None:
    expected = [groups[:i].count(group) for i, group in enumerate(groups)]
    assert _place_within(np.array(groups)).tolist() == expected


def test_a_bias_is_shared_within_a_group_and_has_its_spread() -> None:
    group = np.repeat(np.arange(4000), 2)
    factor = bias(group, 0.4, "test")
    assert (factor[::2] == factor[1::2]).all()
    assert np.log(factor).std() == pytest.approx(0.4, rel=0.05)


def test_families_are_compared_on_every_seed_with_the_same_claims(asked: Ask) -> None:
    result = asked("families")
    assert len(result["seeds"]) == 2
    for seed in result["seeds"].values():
        assert seed["claims"]["xgboost beats the base rate"] == (seed["families"]["xgboost"]["against_base_rate"]["high"] < 0)
        assert not seed["claims"]["enough_clicks"]  # a tiny world has some hundred
    for found in result["summary"].values():
        assert 0 < found["p50_ms"] <= found["p99_ms"]
        assert found["bytes"] > 0


def test_a_random_split_shares_requests_between_training_and_test(asked: Ask) -> None:
    result = asked("split")
    assert result["by time"]["request_seen"] == 0.0
    assert result["at random"]["request_seen"] > 0.5
    assert result["at random"]["n"] == result["by time"]["n"]


def test_the_strong_leak_is_caught_and_the_clean_run_is_silent(asked: Ask) -> None:
    result = asked("leak")
    strong, clean = result["drills"]["strong"], result["drills"]["clean"]
    assert strong["caught"]
    assert strong["subject"] == "user_clicks_1h"
    assert strong["caught_by"]
    assert clean["as_expected"]
    assert result["clean_audits"] == sum(result["by_size"].values()) > 0


def test_a_short_wait_promises_too_little_until_it_is_corrected(asked: Ask) -> None:
    waits = asked("late-labels")["waits"]
    arrived = [waits[hours]["share_arrived"] for hours in sorted(waits, key=int)]
    assert arrived == sorted(arrived)
    hour = waits["1"]
    assert hour["plain"]["promised"]["value"] < hour["corrected"]["promised"]["value"]
    assert hour["corrected"]["promised"]["value"] == pytest.approx(
        hour["plain"]["promised"]["value"] / hour["share_arrived"], rel=0.02
    )


def test_position_learned_is_nearer_the_truth_than_position_ignored(asked: Ask) -> None:
    methods = asked("position")["methods"]
    mine, ignored = methods["ours: features and randomised rows"], methods["ignored"]
    assert mine["rms_error"] < ignored["rms_error"]
    assert mine["at_top"]["ne"]["value"] < ignored["at_top"]["ne"]["value"]


def test_buckets_of_exposures_hold_only_and_all_rows_with_clicks(asked: Ask) -> None:
    result = asked("cold-start")
    for entity in ("ad", "user"):
        assert sum(bucket["clicks"] for bucket in result[entity].values()) == result["clicks"]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(5, 9)), min_size=1, max_size=30), st.data())
def test_exposures_count_the_days_before(shown: list[tuple[int, int]], data: st.DataObject) -> None:
    asked_for = data.draw(st.lists(st.tuples(st.integers(0, 4), st.integers(5, 9)), min_size=1, max_size=10))
    asked_for = [(key, max(day, min(d for _, d in shown))) for key, day in asked_for]
    key, day = np.array(asked_for).T
    shown_key, shown_day = np.array(shown).T
    expected = [sum(k == other and d < when for other, d in shown) for k, when in asked_for]
    assert exposures(key, day, shown_key, shown_day).tolist() == expected


def test_drift_statistics_are_the_textbook_ones() -> None:
    rng = np.random.default_rng(5)
    share = np.array([0.5, 0.3, 0.15, 0.05])
    counts = rng.multinomial(400, share, size=6).astype(float)
    for i, row in enumerate(counts):
        assert chi_squared(counts, share)[i] == pytest.approx(stats.chisquare(row, 400 * share).pvalue)
        assert psi(counts, share)[i] == pytest.approx(
            sum((k / 400 - q) * math.log(k / 400 / q) for k, q in zip(row, share, strict=True))
        )
        middle = (row / 400 + share) / 2
        apart = [stats.entropy(side, middle, base=2) for side in (row / 400, share)]
        assert jensen_shannon(counts, share)[i] == pytest.approx(math.sqrt(sum(apart) / 2))


def test_windows_are_counted_whole_and_in_order() -> None:
    assert tally(np.array([0, 1, 1, 2, 2, 2, 0]), 3, 3).tolist() == [[1, 2, 0], [0, 0, 3]]


def test_a_learned_spread_keeps_its_promise_where_shares_wander_and_a_p_value_does_not() -> None:
    rng = np.random.default_rng(6)

    def windows(many: int, moved: float) -> np.ndarray:
        share = np.clip(0.3 + moved + 0.02 * rng.normal(size=many), 0, 1)
        first = rng.binomial(5000, share).astype(float)
        return np.stack([first, 5000 - first], axis=1)

    alarms = verdicts(windows(60, 0.0), {0.0: windows(400, 0.0), 0.1: windows(100, 0.25)}, allowed=1e-3)
    assert alarms[LEARNED][0.0].mean() < 0.01
    assert alarms[LEARNED][0.1].mean() > 0.9
    assert alarms["chi-squared, p < 0.05"][0.0].mean() > 0.3
