"""Experiment arms."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.assignment import Assignment


@given(st.text(max_size=20), st.integers(0, 2**63 - 1), st.integers(0, 2**62), st.integers(0, 2**62))
def test_a_user_stays_in_an_arm_whatever_the_request(salt, user, one, two):
    experiment = Assignment(salt, ("control", "treatment"), (0.5, 0.5))
    assert experiment.arm(user, one) == experiment.arm(user, two)
    assert experiment.arm(user, one) == experiment.arms[experiment.arms_of(np.array([user]))[0]]


def test_arms_get_their_shares_of_users():
    experiment = Assignment("shares", ("a", "b", "c"), (5, 3, 2))
    share = np.bincount(experiment.arms_of(np.arange(100_000)), minlength=3) / 100_000
    np.testing.assert_allclose(share, [0.5, 0.3, 0.2], atol=0.008)  # five standard errors


def test_another_salt_assigns_independently():
    users = np.arange(40_000)
    one = Assignment("one", ("a", "b"), (1, 1)).arms_of(users)
    two = Assignment("two", ("a", "b"), (1, 1)).arms_of(users)
    assert abs((one == two).mean() - 0.5) < 0.0125


def test_users_of_an_arm_without_weight_do_not_exist():
    experiment = Assignment("none", ("a", "b", "c"), (1, 0, 1))
    assert 1 not in experiment.arms_of(np.arange(10_000))


def test_someone_unknown_is_assigned_by_request():
    experiment = Assignment("anonymous", ("a", "b"), (1, 1))
    assert {experiment.arm(-1, request) for request in range(50)} == {"a", "b"}
    assert experiment.arm(-1, 8) == experiment.arm(-1, 8)


@pytest.mark.parametrize(
    ("arms", "weights"), [((), ()), (("a",), (1, 2)), (("a", "a"), (1, 1)), (("a", "b"), (0, 0)), (("a",), (-1,))]
)
def test_an_impossible_experiment_is_refused(arms, weights):
    with pytest.raises(ValueError):
        Assignment("salt", arms, weights)
