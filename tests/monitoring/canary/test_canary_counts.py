"""Counts of an arm: the same as counting row by row, in any pieces."""

from dataclasses import fields
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from monitoring.canary.counts import BUCKETS, EDGES_S, Counts, bucket_of, nothing, of_labels, of_requests

ROW = st.tuples(st.integers(0, 2**40), st.floats(0.001, 0.999), st.booleans())


def same(one: Counts, other: Counts) -> None:
    for field in fields(Counts):
        np.testing.assert_allclose(getattr(one, field.name), getattr(other, field.name), err_msg=field.name)


@given(st.lists(ROW, max_size=40), st.integers(0, 40))
def test_labels_are_summed_by_bucket_of_users_in_any_pieces(rows: list[tuple[int, float, bool]], cut: int) -> None:
    def counted(part: list[tuple[int, float, bool]]) -> Counts:
        user, p, clicked = (list(each) for each in zip(*part, strict=True)) if part else ([], [], [])
        return of_labels(np.array(user, np.int64), np.array(p, np.float64), np.array(clicked, bool))

    whole = counted(rows)
    same(whole, counted(rows[:cut]) + counted(rows[cut:]))
    for bucket in range(BUCKETS):
        mine = [(p, c) for user, p, c in rows if bucket_of(np.array([user]))[0] == bucket]
        assert whole.impressions[bucket] == len(mine)
        assert whole.clicks[bucket] == sum(c for _, c in mine)
        np.testing.assert_allclose(whole.sum_p[bucket], sum(p for p, _ in mine))
        np.testing.assert_allclose(whole.log_loss[bucket], -sum(np.log(p if c else 1 - p) for p, c in mine), atol=1e-12)


@given(st.lists(st.floats(1e-6, 20), max_size=30), st.integers(0, 5))
def test_requests_are_counted_by_the_time_they_took(seconds: list[float], failed: int) -> None:
    found = of_requests(np.array(seconds), failed)
    assert (found.requests, found.errors) == (len(seconds) + failed, failed)
    edges = (0.0, *EDGES_S, np.inf)
    assert found.latency.tolist() == [sum(low < each <= high for each in seconds) for low, high in pairwise(edges)]
    same(nothing() + found, found)


def test_users_are_spread_over_all_buckets() -> None:
    assert np.bincount(bucket_of(np.arange(32_000)), minlength=BUCKETS).min() > 800


def test_a_certain_prediction_that_fails_costs_much_and_not_everything() -> None:
    found = of_labels(np.array([1, 1]), np.array([0.0, 1.0]), np.array([True, True]))
    assert 20 < found.log_loss.sum() < 21
