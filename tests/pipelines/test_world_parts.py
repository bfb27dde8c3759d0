"""The parts of a simulated market by themselves: what users remember, how often they come, which ads are retrieved."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.clock import HOUR_US
from pipelines.sources.world.arrivals import poisson
from pipelines.sources.world.config import FIRST_DAY_US
from pipelines.sources.world.memory import Memory
from pipelines.sources.world.retrieval import inclusion
from pipelines.sources.world.truth import FATIGUE_HALF_LIFE_US


def test_seeing_a_category_lately_makes_a_click_less_likely() -> None:
    """The same request answered with one ad or with four of a kind beforehand."""
    memory = Memory.blank(2, FIRST_DAY_US)
    user, category = np.array([1, 1, 1, 1]), np.array([5, 5, 7, 5])
    row, at = np.array([0, 0, 0, 1]), FIRST_DAY_US + np.array([0, 0, 0, FATIGUE_HALF_LIFE_US])
    assert memory.saw(user, category, row, at).tolist() == pytest.approx([0, 0, 0, 1.0])
    assert memory.saw(np.array([0]), np.array([5]), np.array([0]), at[:1]).tolist() == [0]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1), st.integers(0, 90)), min_size=1, max_size=25), st.data())
def test_exposure_equals_a_brute_force_sum(shown: list[tuple[int, int, int]], data: st.DataObject) -> None:
    """Requests of one ad each, split at any point into two chunks."""
    shown.sort(key=lambda ad: ad[2])
    user, category, minute = (np.array(values) for values in zip(*shown, strict=True))
    at = FIRST_DAY_US + minute * 60_000_000
    cut = data.draw(st.integers(0, len(shown)))
    memory = Memory.blank(3, FIRST_DAY_US)
    seen = np.concatenate(
        [
            memory.saw(user[part], category[part], np.arange(len(user))[part], at[part])
            for part in (slice(cut), slice(cut, None))
        ]
    )
    for i in range(len(shown)):
        before = [j for j in range(i) if user[j] == user[i] and category[j] == category[i]]
        assert seen[i] == pytest.approx(sum(2.0 ** (-(at[i] - at[j]) / FATIGUE_HALF_LIFE_US) for j in before), abs=1e-5)


def test_exposure_decays_over_midnight() -> None:
    memory = Memory.blank(1, FIRST_DAY_US)
    nothing = np.zeros(1, np.int64)
    memory.saw(nothing, nothing, nothing, np.array([FIRST_DAY_US + 20 * HOUR_US]))
    memory.turn_day()
    seen = memory.saw(nothing, nothing, nothing, np.array([FIRST_DAY_US + 28 * HOUR_US]))
    assert seen[0] == pytest.approx(0.5)


def test_users_who_see_what_interests_them_come_more_often() -> None:
    liked, loathed = Memory.blank(1, FIRST_DAY_US), Memory.blank(1, FIRST_DAY_US)
    for memory, interest in ((liked, 1.0), (loathed, -1.0)):
        for _ in range(3):
            memory.relevance += 4 * interest
            memory.shown += 4
            memory.turn_day()
    assert liked.mood[0] > 0.2
    assert loathed.mood[0] < -0.2


@given(st.floats(0.01, 40), st.floats(0, 1, exclude_max=True))
def test_poisson_is_the_quantile_function(mean: float, luck: float) -> None:
    from scipy.stats import poisson as reference

    [count] = poisson(np.array([mean]), np.array([luck]))
    # Rounding in either sum may move a quantile that is hit exactly.
    assert reference.cdf(count, mean) >= luck - 1e-9
    assert count == 0 or reference.cdf(count - 1, mean) < luck + 1e-9


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=30), st.data())
def test_inclusion_sums_to_k_within_one_each_and_keeps_the_order(weights: list[float], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(weights)))
    weight = np.array(weights)
    share = inclusion(weight, k)
    assert share.sum() == pytest.approx(k)
    assert (share <= 1 + 1e-12).all()
    assert (share > 0).all()
    assert (np.diff(share[np.argsort(weight, kind="stable")]) >= -1e-9).all()
