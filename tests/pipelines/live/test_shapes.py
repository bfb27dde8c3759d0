"""Bins, their counts, and how far a feature has moved."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.clock import HOUR_US
from pipelines.live.shapes import Bins, Shapes, psi

NUMBERS = st.lists(st.floats(-1e6, 1e6) | st.just(float("nan")) | st.just(0.0), min_size=1, max_size=200)


def column(values) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(values)])


@given(NUMBERS, NUMBERS)
def test_every_number_falls_into_one_bin_and_nan_into_the_first(usual, lately):
    bins = Bins.of_numbers(np.array(usual))
    counts = bins.count(column(lately))
    assert len(counts) == len(bins.labels)
    assert counts.sum() == len(lately)
    assert counts[0] == np.isnan(lately).sum()


@given(NUMBERS)
def test_nothing_of_the_reference_lies_above_it(usual):
    bins = Bins.of_numbers(np.array(usual))
    if np.isfinite(usual).any():
        assert bins.labels[-1].startswith("above")
        assert bins.count(column(usual))[-1] == 0
        assert bins.count(column([np.nanmax(usual) + 1.0]))[-1] == 1


def test_a_frequent_lowest_value_has_a_bin_of_its_own():
    bins = Bins.of_numbers(np.array([0.0] * 50 + list(np.linspace(0.1, 1.0, 50))))
    assert bins.labels[1] == "0"
    assert bins.count(column([0.0, 0.0, 0.05]))[1] == 2


def test_categories_have_bins_by_frequency_and_the_rest_one():
    bins = Bins.of_categories(["a"] * 5 + ["b"] * 3 + [None, ""] + list("cdefghijk"))
    assert bins.labels[:3] == ("missing", "a", "b")
    assert bins.labels[-1] == "other"
    counts = bins.count(column(["a", "zebra", None, "", "b"]))
    assert dict(zip(bins.labels, counts, strict=True)) | {"missing": 2, "a": 1, "b": 1, "other": 1} == dict(
        zip(bins.labels, counts, strict=True)
    )


def test_whole_numbers_are_categories_and_minus_one_is_missing():
    bins = Bins.of_categories([1, 1, 2])
    assert bins.count(column([1, -1, 7])).tolist() == [1, 1, 0, 1]


def test_psi_is_nothing_for_equal_shares_and_grows_with_the_difference():
    usual = np.array([0.0, 500.0, 500.0])
    assert psi(usual, usual) == 0
    assert 0 < psi(usual, np.array([0.0, 600.0, 400.0])) < psi(usual, np.array([0.0, 800.0, 200.0]))
    assert psi(usual, np.zeros(3)) == 0


def logs(rng, n, hour, price=1.0):
    return pa.table({"p": rng.uniform(0, 1, n), "f_price": rng.exponential(price, n), "f_device": rng.choice(["a", "b"], n)})


@pytest.fixture
def shapes() -> Shapes:
    rng, found = np.random.default_rng(1), Shapes()
    found.learn_bins(logs(rng, 2000, 0), ["price"], ["device"])
    for hour in range(72):
        found.learn(hour * HOUR_US, logs(rng, 200, hour))
    return found


def test_what_moved_most_leads_and_the_others_stay(shapes):
    rng = np.random.default_rng(2)
    for hour in range(72, 80):
        shapes.add(hour * HOUR_US, logs(rng, 200, hour, price=3.0))
    (first, by), *rest = shapes.moved(800)
    assert first == "price"
    assert by > 5
    assert all(other < 3 for _, other in rest)


def test_evidence_holds_usual_and_recent_shares(shapes):
    rng = np.random.default_rng(3)
    shapes.add(72 * HOUR_US, logs(rng, 500, 72, price=100.0))
    found = shapes.compare("price", 72 * HOUR_US, 73 * HOUR_US)
    assert found is not None
    assert found["rows"] == 500
    assert sum(found["usual"]) == pytest.approx(1, abs=1e-3)
    assert sum(found["lately"]) == pytest.approx(1, abs=1e-3)
    assert found["lately"][-1] > 0.5 > found["usual"][-1]  # above all that was seen
    assert shapes.compare("nothing", 0, HOUR_US) is None


def test_an_hour_without_rows_is_no_evidence(shapes):
    shapes.add(72 * HOUR_US, logs(np.random.default_rng(3), 0, 72))
    found = shapes.compare("price", 72 * HOUR_US, 73 * HOUR_US)
    assert found is not None
    assert found["rows"] == 0
    assert shapes.moved(800) == []
