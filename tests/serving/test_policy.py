"""Slates and their propensities."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.policy import EpsilonPolicy, GreedyPolicy, greedy_order, policy_of, random_order


@given(
    st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=30),
    st.integers(1, 40),
    st.integers(0, 2**62),
    st.floats(0, 1),
)
def test_a_slate_holds_each_candidate_once_and_its_propensities_are_probabilities(value, slots, request_id, epsilon):
    value = np.array(value, np.float32)
    slate = EpsilonPolicy(epsilon).choose(request_id, value, slots)
    assert len(slate.shown) == min(slots, len(value))
    assert len(set(slate.shown.tolist())) == len(slate.shown)
    assert ((slate.propensity >= 0) & (slate.propensity <= 1 + 1e-6)).all()
    if not slate.randomised:
        assert slate.shown.tolist() == sorted(range(len(value)), key=lambda i: (-value[i], i))[:slots]


@settings(max_examples=5, deadline=None)
@given(st.integers(2, 6), st.integers(1, 4), st.sampled_from([0.1, 0.5, 1.0]), st.integers(0, 2**40))
def test_how_often_a_candidate_gets_a_slot_is_the_stated_propensity(n, slots, epsilon, first):
    draws = 4000
    policy = EpsilonPolicy(epsilon)
    value = np.linspace(1, 2, n)
    slots = min(slots, n)
    seen = np.zeros((n, slots))
    stated = np.zeros((n, slots))
    randomised = 0
    for request_id in range(first, first + draws):
        slate = policy.choose(request_id, value, slots)
        seen[slate.shown, np.arange(slots)] += 1 / draws
        stated[slate.shown, np.arange(slots)] = slate.propensity
        randomised += slate.randomised
    expected = np.full((n, slots), epsilon / n)
    expected[greedy_order(value)[:slots], np.arange(slots)] += 1 - epsilon
    np.testing.assert_allclose(expected.sum(axis=0), 1.0)  # over the candidates, at every slot
    np.testing.assert_allclose(stated[stated > 0], expected[stated > 0], rtol=1e-6)
    assert abs(randomised / draws - epsilon) < 5 * np.sqrt(0.25 / draws)
    # Five standard errors of a share: one false alarm in millions of cells.
    assert (np.abs(seen - expected) < 5 * np.sqrt(expected * (1 - expected) / draws) + 1e-9).all()


def test_asking_again_gives_the_same_slate():
    value = np.random.default_rng(0).normal(size=20)
    policy = EpsilonPolicy(0.5)
    for request_id in range(50):
        one, two = policy.choose(request_id, value, 5), policy.choose(request_id, value, 5)
        assert one.shown.tolist() == two.shown.tolist()
        assert one.randomised == two.randomised


def test_the_random_order_does_not_depend_on_the_scores():
    policy = EpsilonPolicy(1.0)
    low, high = np.arange(10.0), np.arange(10.0)[::-1]
    assert policy.choose(7, low, 10).shown.tolist() == policy.choose(7, high, 10).shown.tolist() == random_order(7, 10).tolist()


def test_inverse_propensity_weighting_recovers_the_value_of_another_policy():
    value = np.array([0.1, 0.3, 0.2])
    reward = np.array([1.0, 5.0, 3.0])  # of showing each candidate in the one slot
    policy = EpsilonPolicy(0.6)
    target = 0  # always show candidate 0
    estimates = []
    for request_id in range(6000):
        slate = policy.choose(request_id, value, 1)
        shown = slate.shown[0]
        estimates.append(reward[shown] * (shown == target) / slate.propensity[0])
    error = np.std(estimates) / np.sqrt(len(estimates))
    assert abs(np.mean(estimates) - reward[target]) < 5 * error


def test_greedy_is_epsilon_zero_and_ties_keep_the_order_given():
    value = np.zeros(4)
    greedy, zero = GreedyPolicy().choose(1, value, 3), EpsilonPolicy(0.0).choose(1, value, 3)
    assert greedy.shown.tolist() == zero.shown.tolist() == [0, 1, 2]
    assert greedy.propensity.tolist() == zero.propensity.tolist() == [1, 1, 1]


def test_policies_have_telling_names():
    assert policy_of(0.05).name == "epsilon-0.05"
    assert policy_of(0).name == "greedy"
    with pytest.raises(ValueError, match="CLICKPROOF_EPSILON"):
        EpsilonPolicy(1.5)
