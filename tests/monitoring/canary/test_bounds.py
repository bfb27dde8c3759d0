"""Bounds that must hold at every look: against twins that play the bets one by one, and by counting how often they fail."""

from math import inf, log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitoring.canary.bounds import Bounds, dispersion, mean, rate

ALPHA = 0.05


def wealth(events: list[bool], q: float) -> float:
    """Log of what a gambler has who bets against a chance of `q` on one event after the other, with Krichevsky and Trofimov's
    estimate: the mixture over Beta(1/2, 1/2), step by step."""
    total, hits = 0.0, 0
    for n, event in enumerate(events):
        guess = (hits + 0.5) / (n + 1)
        total += log(guess / q) if event else log((1 - guess) / (1 - q))
        hits += event
    return total


@given(st.lists(st.booleans(), min_size=1, max_size=60), st.floats(0.001, 0.999))
def test_a_chance_is_ruled_out_where_the_gambler_is_rich_enough(events: list[bool], q: float) -> None:
    found = rate(sum(events), len(events), ALPHA)
    assert 0 <= found.low <= found.value <= found.high <= 1
    rich = wealth(events, q) - log(1 / ALPHA)
    if rich > 1e-6:
        assert not found.low < q < found.high
    elif rich < -1e-6:
        assert found.low <= q <= found.high


@pytest.mark.parametrize("chance", [0.002, 0.05, 0.5])
def test_the_true_rate_is_hardly_ever_outside_at_any_look(chance: float) -> None:
    rng = np.random.default_rng(1)
    looks = np.unique(np.geomspace(1, 3000, 60).astype(int))
    wrong = 0
    for _ in range(150):
        counts = np.cumsum(rng.random(3000) < chance)
        found = (rate(float(counts[n - 1]), float(n), ALPHA) for n in looks)
        wrong += any(not each.low <= chance <= each.high for each in found)
    assert wrong <= 150 * ALPHA


def test_nothing_is_known_of_what_was_never_counted() -> None:
    assert rate(0, 0, ALPHA) == Bounds(0.0, 0.0, 1.0)
    assert mean(0.3, inf, 0.1, ALPHA) == Bounds(0.3, -inf, inf)
    assert mean(0.3, 0.0, 0.1, ALPHA) == Bounds(0.3, -inf, inf)


@settings(max_examples=50)
@given(st.integers(0, 500), st.integers(1, 500), st.floats(1e-6, 0.2))
def test_more_certainty_takes_wider_bounds(hits: int, misses: int, alpha: float) -> None:
    loose, tight = rate(hits, hits + misses, alpha), rate(hits, hits + misses, alpha / 10)
    assert tight.low <= loose.low <= loose.high <= tight.high


@pytest.mark.parametrize("scale", [0.02, 0.2])
def test_a_mean_is_hardly_ever_outside_its_bounds_at_any_look(scale: float) -> None:
    rng = np.random.default_rng(2)
    wrong = 0
    for _ in range(400):
        means = np.cumsum(rng.normal(0.1, 1.0, 4000)) / np.arange(1, 4001)
        found = (mean(float(means[n - 1]), 1 / n, scale, ALPHA) for n in range(20, 4001, 20))
        wrong += any(not each.low <= 0.1 <= each.high for each in found)
    assert wrong <= 400 * ALPHA


def test_a_difference_errs_as_often_as_both() -> None:
    assert Bounds(0.5, 0.4, 0.7).minus(Bounds(0.2, 0.1, 0.25)) == Bounds(0.3, pytest.approx(0.15), pytest.approx(0.6))


def test_dispersion_tells_clicks_that_come_in_clumps_from_independent_ones() -> None:
    rng = np.random.default_rng(3)
    expected = rng.uniform(20, 60, 4000)
    assert dispersion(rng.poisson(expected).astype(float), expected) == pytest.approx(1.0, abs=0.1)
    clumped = 3.0 * rng.poisson(expected / 3)
    assert dispersion(clumped, 7 * expected) == pytest.approx(3.0, abs=0.3)  # whatever the level
    assert dispersion(np.zeros(5), np.ones(5)) == 1.0
