"""b(slot) and calibration: what was planted comes back, even where the order is confounded with relevance."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from synthetic import BIAS, SPEC, clicks

from models.calibrate import LEAST_SLOPE, Calibrator, fit_calibrator
from models.encode import Encoder
from models.newton import ridge_logistic, sigmoid
from models.position import PositionBias, learn_position


def test_newton_finds_the_answer_of_an_independent_solver() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(0, 1, (3000, 4))
    label = (rng.random(3000) < sigmoid(x @ np.array([1.0, -0.5, 0.2, 0.0]))).astype(np.int64)
    ours = ridge_logistic(x, label, np.zeros(3000), np.full(4, 2.0), np.zeros(4))
    theirs = LogisticRegression(C=0.5, fit_intercept=False, tol=1e-10, max_iter=1000).fit(x, label).coef_[0]
    assert ours == pytest.approx(theirs, abs=1e-4)


def test_newton_says_what_to_look_for_when_a_feature_is_not_a_number() -> None:
    x = np.full((10, 1), np.nan)
    with pytest.raises(ArithmeticError, match="look for NaN"):
        ridge_logistic(x, np.ones(10, np.int64), np.zeros(10), np.ones(1), np.zeros(1))


def test_planted_position_bias_is_recovered_although_better_ads_stand_on_top() -> None:
    data = clicks(200_000, 5).data
    naive = [np.log(rate / (1 - rate)) for rate in (data.label[data.slot == slot].mean() for slot in range(4))]
    learned = learn_position(data, Encoder.learn(data.columns, SPEC)).values
    error = np.abs(learned - BIAS).max()
    assert np.abs(np.array(naive) - naive[0] - BIAS).max() > 0.5, "the log must be confounded for this test to say anything"
    assert error < 0.2
    assert learned[0] == 0.0


def test_requests_in_random_order_help() -> None:
    data = clicks(200_000, 6).data
    encoder = Encoder.learn({"x": np.zeros(len(data), np.float32)}, replace(SPEC, categorical=(), numeric=("x",), sequence=()))
    blind = replace(data, columns={"x": np.zeros(len(data), np.float32)})
    with_them = learn_position(blind, encoder).values
    without = learn_position(replace(blind, randomised=np.zeros(len(data), np.bool_)), encoder).values
    assert np.abs(with_them - BIAS).max() < 0.7 * np.abs(without - BIAS).max()


def test_slots_never_seen_get_the_last_ones_value() -> None:
    data = clicks(20_000, 7).data
    kept = data.take((data.slot == 0) | (data.slot == 2))
    bias = learn_position(kept, Encoder.learn(kept.columns, SPEC))
    assert bias.values[1] == bias.values[0]
    offset = bias.offset(np.array([2, 3, 50], np.int16))
    assert offset[0] == offset[1] == offset[2] < 0
    assert (PositionBias.from_json(bias.to_json()).values == bias.values).all()


@settings(max_examples=15, deadline=None)
@given(slope=st.floats(0.3, 2.5), intercept=st.floats(-1.0, 1.0), seed=st.integers(0, 1000))
def test_platt_scaling_recovers_slope_and_intercept_around_a_fixed_position(slope: float, intercept: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    s, slot = rng.normal(-1.5, 1.0, 40_000), rng.integers(0, 4, 40_000)
    label = (rng.random(40_000) < sigmoid(slope * s + intercept + BIAS[slot])).astype(np.uint8)
    found = fit_calibrator(s, label, BIAS[slot])
    assert found.slope == pytest.approx(slope, abs=0.15)
    assert found.intercept == pytest.approx(intercept, abs=0.25)
    p = sigmoid(found.apply(s) + BIAS[slot])
    assert label.sum() == pytest.approx(p.sum(), rel=1e-3)


def test_calibration_never_turns_the_order_around() -> None:
    rng = np.random.default_rng(0)
    s = rng.normal(0, 1, 5000)
    label = (rng.random(5000) < sigmoid(-s - 2)).astype(np.uint8)
    found = fit_calibrator(s, label, np.zeros(5000))
    assert found.slope == LEAST_SLOPE
    assert label.sum() == pytest.approx(sigmoid(found.apply(s)).sum(), rel=1e-3)
    assert Calibrator.from_json(found.to_json()) == found


def test_a_constant_score_is_moved_to_the_click_rate() -> None:
    label = np.array([1] * 30 + [0] * 970, np.uint8)
    found = fit_calibrator(np.full(1000, -1.0), label, np.zeros(1000))
    assert sigmoid(found.apply(np.array([-1.0])))[0] == pytest.approx(0.03, rel=1e-3)
