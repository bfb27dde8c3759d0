"""The distribution tier's statistics against brute force: tails of counts, rows apart, forecasts, slow trends, clocks."""

from typing import cast

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from infra.clock import DAY_US, HOUR_US
from monitoring.tiers.distribution.categories import _find
from monitoring.tiers.distribution.census import Census, without_one_item
from monitoring.tiers.distribution.clockwork import ClockCounter
from monitoring.tiers.distribution.forecast import Forms, Past, backcast, forecast, residuals, rolling
from monitoring.tiers.distribution.looks import Judged, Worst, look
from monitoring.tiers.distribution.numbers import NumberCounter, _first_of_equal, in_half_precision, on_grid
from monitoring.tiers.distribution.owners import apart
from monitoring.tiers.distribution.parts import Part
from monitoring.tiers.distribution.rows import CROWD, CROWD_ROWS, EVERYTHING, Rows, same
from monitoring.tiers.distribution.surprise import log10_counts, log10_shares
from monitoring.tiers.distribution.trend import creep

START = 20_454 * DAY_US  # a Thursday


@given(st.integers(0, 60), st.floats(0.01, 50.0), st.floats(1.05, 8.0))
def test_tails_of_counts_are_those_of_the_negative_binomial(k: int, mean: float, inflation: float) -> None:
    up = k > mean
    size, p = mean / (inflation - 1), 1 / inflation
    exact = stats.nbinom.sf(k - 1, size, p) if up else stats.nbinom.cdf(k, size, p)
    found = log10_counts(np.array([float(k)]), np.array([mean]), np.array([inflation]), np.array([up]))[0]
    assert found == pytest.approx(np.log10(exact), abs=1e-6)


@given(st.integers(0, 200), st.integers(200, 400), st.floats(0.02, 0.98), st.sampled_from([1.0, 2.0, 5.0]))
def test_tails_of_shares_are_those_of_the_binomial_of_as_many_fewer_rows(k: int, n: int, rate: float, worth: float) -> None:
    up = k > n * rate
    exact = stats.binom.sf(k - 1, n, rate) if up else stats.binom.cdf(k, n, rate)
    rows = np.array([float(k * worth)]), np.array([float(n * worth)])
    found = log10_shares(*rows, np.array([rate]), np.array([worth]), np.array([up]))[0]
    assert found == pytest.approx(np.log10(max(exact, 1e-300)), abs=1e-5)


@given(st.lists(st.tuples(st.integers(-1, 2), st.integers(0, 4)), min_size=1, max_size=150), st.integers(1, 25))
def test_a_crowd_is_the_rows_of_an_owner_that_has_most_of_a_place(rows: list[tuple[int, int]], times: int) -> None:
    rows = [*rows, *rows[:3] * times]
    place, owner = [p for p, _ in rows], [o for _, o in rows]
    twin = [p >= 0 and rows.count((p, o)) > max(CROWD * place.count(p), CROWD_ROWS) for p, o in rows]
    found = Rows(pa.table({"item": pa.array(owner, pa.int64())})).crowded(np.array(place), 3, "item")
    assert found.tolist() == twin


@pytest.mark.parametrize(("items", "left"), [([1] * 30 + [2] * 30 + [3] * 30, 90), ([1] * 60 + list(range(100, 200)), 100)])
def test_a_large_item_is_left_out_only_beside_many_others(items: list[int], left: int) -> None:
    assert without_one_item(Rows(pa.table({"item": items}))).rows == left


def test_an_age_of_64_days_repeats_no_more_than_one_of_63() -> None:
    rng = np.random.default_rng(3)

    def rows(first: float, last: float) -> Rows:
        return Rows(pa.table({"f_age": rng.uniform(first, last, 3000).astype(np.float32)}))

    counter = NumberCounter("age", "f_age", "age", "", "", rows(0.0, 63.0))
    at = next(i for i, part in enumerate(counter.parts) if part.kind == "distinct")
    young, old = (counter.count(rows(days, days + 0.5))[at, 0] for days in (63.0, 65.0))
    halved = Rows(pa.table({"f_age": rows(63.0, 63.5).number("f_age").astype(np.float16).astype(np.float32)}))
    assert young > 100
    assert old == pytest.approx(young, rel=0.2)
    assert counter.count(halved)[at, 0] > 2 * young


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([1.0, 2.0, 3.0])), max_size=40))
def test_of_equal_values_of_an_owner_the_first_is_kept(rows: list[tuple[int, float]]) -> None:
    twin = [i for i, row in enumerate(rows) if row not in rows[:i]]
    owner, values = np.array([o for o, _ in rows], np.int32), np.array([v for _, v in rows])
    assert _first_of_equal(values, owner).tolist() == twin


def test_the_first_hits_ever_are_judged_exactly_where_a_normal_tail_would_be_absurd() -> None:
    # One hit where 0.01 was expected: a hundred standard errors of nothing, and yet one in a hundred.
    one, five = log10_counts(np.array([1.0, 5.0]), np.array([0.01, 0.01]), np.array([1.5, 1.5]), np.array([True, True]))
    assert -2.5 < one < -1.5
    assert five < -4


def lonely(values: list[int], owner: list[int]) -> list[bool]:
    """Brute force: rows of a run whose neighbouring runs, of the same owner, have one common other value."""
    found = [False] * len(values)
    for one in set(owner):
        rows = [i for i in range(len(values)) if owner[i] == one]
        runs: list[list[int]] = []
        for i in rows:
            if runs and values[runs[-1][-1]] == values[i]:
                runs[-1].append(i)
            else:
                runs.append([i])
        for before, run, after in zip(runs, runs[1:], runs[2:], strict=False):
            if values[before[0]] == values[after[0]]:
                for i in run:
                    found[i] = True
    return found


@settings(max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), max_size=40))
def test_rows_apart_are_the_runs_between_two_equal_ones(rows: list[tuple[int, int]]) -> None:
    owner, values = [r[0] for r in rows], [r[1] for r in rows]
    groups = Rows(pa.table({"owner": pa.array(owner, pa.int64())})).groups("owner")
    assert apart(np.array(values, dtype=np.int64), groups).tolist() == lonely(values, owner)


def test_an_update_is_not_apart_and_nulls_are_equal_to_each_other() -> None:
    groups = Rows(pa.table({"owner": [1, 1, 1, 1, 2, 2, 2]})).groups("owner")
    nan = np.nan
    assert not apart(np.array([5.0, 5.0, 6.0, 6.0, nan, nan, 1.0]), groups).any()
    assert apart(np.array([5.0, 9.0, 5.0, 5.0, nan, 1.0, nan]), groups).tolist() == [
        False,
        True,
        False,
        False,
        False,
        True,
        False,
    ]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=30))
def test_independent_rows_follow_kish(owner: list[int]) -> None:
    groups = Rows(pa.table({"owner": owner})).groups("owner")
    counts = np.unique(owner, return_counts=True)[1]
    assert groups.independent(np.arange(len(owner))) == pytest.approx(counts.sum() ** 2 / (counts**2).sum())
    assert groups.cluster == pytest.approx((counts**2).sum() / counts.sum())


def test_groups_of_a_pair_are_the_pairs_and_everything_is_one_group() -> None:
    rows = Rows(pa.table({"a": ["x", "x", "y", "x"], "b": [1, 2, 1, 1]}))
    assert sorted(rows.groups("a+b").sizes.tolist()) == [1, 1, 2]
    codes, values = rows.codes("a+b")
    assert values[codes].tolist() == ["x\x1f1", "x\x1f2", "y\x1f1", "x\x1f1"]
    assert rows.groups(EVERYTHING).sizes.tolist() == [4]


@given(st.lists(st.integers(0, 20), max_size=15), st.lists(st.integers(0, 20), max_size=15))
def test_find_is_a_look_up(known: list[int], asked: list[int]) -> None:
    names = np.unique(np.array(known, dtype=np.int64))
    found = _find(names, np.array(asked, dtype=np.int64))
    assert found.tolist() == [names.tolist().index(a) if a in known else -1 for a in asked]


def hours(days: int) -> np.ndarray:
    return START + np.arange(24 * days) * HOUR_US


def past_of(start: np.ndarray, k: np.ndarray, n: np.ndarray, q: np.ndarray | None = None) -> Past:
    return Past(start, k, n, np.zeros_like(k) if q is None else q, np.ones_like(k))


def test_a_level_times_hours_times_weekend_is_forecast() -> None:
    start = hours(21)
    hour, weekend = (start // HOUR_US) % 24, ((start // DAY_US) + 3) % 7 >= 5
    share = 0.1 * (1 + 0.5 * np.sin(2 * np.pi * hour / 24)) * np.where(weekend, 1.3, 1.0)
    mean = 2.0 + np.cos(2 * np.pi * hour / 24) - 0.4 * weekend
    n = np.full((len(start), 2), 4000.0)
    k = n * np.stack([share, mean], axis=1)
    q = n * np.square(np.stack([share, mean], axis=1))
    forms = Forms(np.array([False, True]), np.array([False, False]), np.array([0, 1]))
    day = int(START // DAY_US) + 21  # a Thursday
    rates, spread = forecast(past_of(start, k, n, q), forms, day)
    np.testing.assert_allclose(rates[:, 0], 0.1 * (1 + 0.5 * np.sin(2 * np.pi * np.arange(24) / 24)), rtol=0.04)
    np.testing.assert_allclose(rates[:, 1], 2.0 + np.cos(2 * np.pi * np.arange(24) / 24), atol=0.15)
    assert spread[1] > 0
    saturday, _ = forecast(past_of(start, k, n, q), forms, day + 2)
    assert saturday[:, 0].mean() > 1.15 * rates[:, 0].mean()
    assert saturday[:, 1].mean() < rates[:, 1].mean() - 0.15


def test_residuals_of_pure_luck_have_the_variance_that_is_said() -> None:
    rng = np.random.default_rng(3)
    start, n = hours(20), np.full((480, 40), 500.0)
    k = rng.binomial(500, 0.05, n.shape).astype(float)
    forms = Forms(np.zeros(40, bool), np.zeros(40, bool), np.arange(40))
    left, variance = backcast(past_of(start, k, n), forms)
    later = start >= START + 10 * DAY_US
    z = left[later] / np.sqrt(variance[later])
    assert abs(z.mean()) < 0.05
    assert z.std() == pytest.approx(1.05, abs=0.07)  # a little above 1: the forecast has errors of its own


def test_a_part_that_was_never_counted_has_no_forecast() -> None:
    start = hours(4)
    forms = Forms(np.array([False]), np.array([True]), np.array([0]))
    nothing = np.zeros((len(start), 1))
    rates, spread = forecast(past_of(start, nothing, nothing), forms, int(START // DAY_US) + 4)
    assert np.isnan(rates).all()
    left, variance = residuals(past_of(start[:1], np.ones((1, 1)), np.ones((1, 1))), forms, rates, spread)
    assert (left[0, 0], variance[0, 0]) == (0.0, 0.0)


@given(st.integers(1, 6), st.lists(st.floats(-5, 5), min_size=6, max_size=20))
def test_rolling_sums(width: int, values: list[float]) -> None:
    found = rolling(np.array(values)[:, None], width)[:, 0]
    for i in range(len(values)):
        if i + 1 < width:
            assert np.isnan(found[i])
        else:
            assert found[i] == pytest.approx(sum(values[i + 1 - width : i + 1]), abs=1e-9)


def drifting(slope: float, seed: int) -> tuple[np.ndarray, Forms]:
    """t statistics of 30 means, of which the first creeps by `slope` standard deviations of a day each day."""
    rng = np.random.default_rng(seed)
    start, parts = hours(29), 30
    day = (start // DAY_US - START // DAY_US).astype(float)
    level = 0.05 * rng.normal(size=(29, parts))[day.astype(int)]
    level[:, 0] += 0.05 * slope * np.clip(day - 19, 0, None)
    n = np.full((len(start), parts), 100.0)
    forms = Forms(np.ones(parts, bool), np.zeros(parts, bool), np.arange(parts))
    found = creep(past_of(start, n * (3 + level), n, n * 10), forms, np.zeros(parts, dtype=np.int64), int(START // DAY_US) + 29)
    assert found is not None
    return found[0], forms


def test_what_creeps_stands_out_and_what_does_not_stays_small() -> None:
    t, _ = drifting(1.5, 1)
    assert t[0] > 8
    assert np.abs(t[1:]).max() < 5


def test_a_value_that_appears_is_no_drift_beyond_what_other_values_do() -> None:
    """Shares of a value nobody had: it has no scatter of its own, so the family's counts."""
    rng = np.random.default_rng(3)
    start, parts = hours(29), 20
    day = (start // DAY_US - START // DAY_US).astype(int)
    share = np.abs(0.05 + 0.01 * rng.normal(size=(29, parts)))[day]
    share[:, 0] = np.where(day >= 25, 0.004, 0.0)
    n = np.full((len(start), parts), 1000.0)
    forms = Forms(np.zeros(parts, bool), np.zeros(parts, bool), np.arange(parts))
    found = creep(past_of(start, n * share, n, n), forms, np.zeros(parts, dtype=np.int64), int(START // DAY_US) + 29)
    assert found is not None
    assert abs(found[0][0]) < 10


def test_weeks_are_not_compared_before_there_are_four_whole_ones() -> None:
    start = hours(29)
    forms = Forms(np.array([True]), np.array([False]), np.array([0]))
    first, family = int(START // DAY_US), np.zeros(1, dtype=np.int64)
    hole = (start // DAY_US - first) != 5  # a day of the fourth week back, when an incident was open
    for seen, day in ((start < START + 27 * DAY_US, 27), (hole, 29)):
        ones = np.ones((int(seen.sum()), 1))
        assert creep(past_of(start[seen], ones, ones), forms, family, first + day) is None
    ones = np.ones((len(start), 1))
    assert creep(past_of(start, ones, ones), forms, family, first + 29) is not None


def test_a_slow_drift_says_that_it_is_judged_once_a_day() -> None:
    """Its incident then waits for three days of silence; judged as an hour it closed and opened again, a page a day."""
    one, always = np.ones(1), np.ones(1, dtype=bool)
    judged = Judged(504, 0, -20 * one, -9 * one, -7 * one, 9 * one, 9 * one, one, one, one, one, always, 1, trend=True)
    worst = Worst(Part("price", "mean", "mean", "mean", "numbers"), 0, judged, 2.0, page=True)
    symptom, _, evidence = look(cast(Census, None), cast(Rows, None), worst, [worst], rises=True)
    assert (symptom, evidence["scale"]) == ("slow-trend", "day")


@pytest.mark.parametrize("form", ["hour", "local hour", "weekday", "wave", "weekend", "noise"])
def test_columns_that_follow_the_clock_are_found_and_the_shift_is_named(form: str) -> None:
    rng = np.random.default_rng(0)
    time = np.sort(START + rng.integers(0, 9 * DAY_US, 4000))

    def column(at: np.ndarray) -> np.ndarray:
        hour, weekday = (at // HOUR_US) % 24, (at // DAY_US + 3) % 7
        return {
            "hour": hour, "local hour": (hour + 5) % 24, "weekday": weekday + 1, "weekend": (weekday >= 5).astype(np.float32),
            "wave": np.sin(2 * np.pi * (at % DAY_US) / DAY_US + 0.7).astype(np.float32), "noise": rng.integers(0, 24, len(at)),
        }[form]  # fmt: skip

    clock = ClockCounter.find("x", "f_x", "time", Rows(pa.table({"time": time, "f_x": column(time)})))
    if form == "noise":
        assert clock is None
        return
    assert clock is not None
    assert clock.count(Rows(pa.table({"time": time, "f_x": column(time)})))[0, 0] == 0
    shifted = column(time).copy()
    some = rng.random(len(time)) < 0.3
    shifted[some] = column(time + 24 * HOUR_US if form in ("weekday", "weekend") else time - 2 * HOUR_US)[some]
    rows = Rows(pa.table({"time": time, "f_x": shifted}))
    assert clock.count(rows)[0, 0] > 0
    if form in ("hour", "local hour", "wave"):
        assert clock.shift(rows) == -2.0


def test_grids_and_half_precision() -> None:
    values = np.array([0.1, 0.123, 12.0, 0.1234567], dtype=np.float32)
    assert on_grid(values, 0.001).tolist() == [True, True, True, False]
    assert in_half_precision(values.astype(np.float16).astype(np.float32)).all()
    assert not in_half_precision(values[[0, 1, 3]]).any()


def test_same_treats_nulls_as_equal() -> None:
    assert same(np.array([1.0, np.nan, 2.0]), np.array([1.0, np.nan, 3.0])).tolist() == [True, True, False]
