"""Columns of files as numbers, categories, labels and times, whatever type they came in."""

from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitoring.outside import values

MOMENT = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
US = int(MOMENT.timestamp()) * 10**6


def column(*items: object, kind: pa.DataType | None = None) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(items, kind)])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (column(MOMENT.replace(tzinfo=None)), "timestamps without a zone"),
        (column(MOMENT, kind=pa.timestamp("ms", "UTC")), "timestamps"),
        (column(MOMENT.astimezone(timezone(timedelta(hours=9))), kind=pa.timestamp("ns", "Asia/Tokyo")), "timestamps"),
        (column("2026-03-04T05:06:07"), "without a zone"),
        (column("2026-03-04 05:06:07"), "without a zone"),
        (column("2026-03-04T05:06:07Z", "2026-03-04T06:06:07+01:00"), "ISO 8601"),
        (column(US // 10**6), "seconds"), (column(US // 1000), "milliseconds"), (column(US), "microseconds"),
        (column(US * 1000), "nanoseconds"), (column(str(US // 10**6)), "seconds"), (column(US / 10**6), "seconds"),
    ],
)  # fmt: skip
def test_times_come_in_many_forms_and_it_is_said_which(given: pa.ChunkedArray, said: str) -> None:
    read = values.times(given)
    assert set(read.values.to_pylist()) == {US}
    assert read.bad == 0
    assert said in read.said


def test_times_that_cannot_be_read_are_null_and_counted() -> None:
    read = values.times(column("2026-03-04T05:06:07", "yesterday", None))
    assert read.values.to_pylist() == [US, None, None]
    assert read.bad == 1
    with pytest.raises(TypeError, match="holds no times"):
        values.times(column([1, 2]))


@settings(deadline=None)
@given(st.integers(1_010_000_000, 7_000_000_000), st.sampled_from([1, 1000, 10**6]))  # the years 2002 to 2191
def test_epoch_numbers_mean_the_same_in_every_unit(whole: int, scale: int) -> None:
    assert values.times(column(whole * scale)).values.to_pylist() == [whole * 10**6]


@pytest.mark.parametrize(
    "given",
    [
        column(True, False, None), column(1, 0, None), column(1.0, 0.0, float("nan")), column("yes", "No", None),
        column("1", "0", None), column("TRUE", "false", None), column(1, -1, None),
    ],
)  # fmt: skip
def test_labels_are_tolerant(given: pa.ChunkedArray) -> None:
    assert values.labels(given).values.to_pylist() == [1, 0, None]


def test_what_is_no_label_is_null_and_counted() -> None:
    assert (values.labels(column("yes", "perhaps")).values.to_pylist(), values.labels(column("yes", "perhaps")).bad) == (
        [1, None],
        1,
    )
    assert values.labels(column(0, 1, 7)).bad == 1


def test_numbers_from_text_count_what_is_none() -> None:
    read = values.numbers(column("1.5", "12 EUR", "nan", None, "-3e2"))
    assert read.values.to_pylist() == [1.5, None, None, None, -300.0]
    assert read.bad == 1
    assert values.numbers(column(1, 2, kind=pa.decimal128(6, 2))).values.to_pylist() == [1.0, 2.0]
    assert values.numbers(column(True, None)).values.to_pylist() == [1.0, None]
    assert values.numbers(column(np.inf, 2.0)).values.to_pylist() == [None, 2.0]
    with pytest.raises(TypeError, match="holds no numbers"):
        values.numbers(column([1]))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (column(3, None, 5), [3, None, 5]), (column(3.0, float("nan"), 5.0), [3, None, 5]), (column("3", "5.0"), [3, 5]),
        (column("03", "5"), ["03", "5"]), (column("x", None), ["x", None]), (column(0.5, 1.0), ["0.5", "1"]),
        (column("a", "b").dictionary_encode(), ["a", "b"]), (column(True, False), [1, 0]),
    ],
)  # fmt: skip
def test_categories_are_integers_where_all_are_and_text_otherwise(given: pa.ChunkedArray, expected: list[object]) -> None:
    assert values.categories(given).to_pylist() == expected
