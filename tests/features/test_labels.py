"""Labels as of an instant, against a twin that looks at every pair."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.labels import labels
from features.schemas import LABELS, TIME

Shown = tuple[int, int, int]  # id, shown at, arrived at
Click = tuple[int, int, int]  # impression id, clicked at, arrived at


def table(rows: list[tuple[int, int, int]]) -> pa.Table:
    columns = np.array(rows, np.int64).reshape(-1, 3).T
    times = [pa.array(column).cast(TIME) for column in columns[1:]]
    return pa.table([pa.array(columns[0]), *times], names=["impression_id", "event_timestamp", "arrived_at"])


def one_by_one(shown: list[Shown], clicks: list[Click], as_of: int, window: int) -> list[tuple[int, bool, bool, int | None]]:
    rows = []
    for impression, at, arrived in shown:
        if arrived <= as_of:
            found = [c[1] for c in clicks if c[0] == impression and c[2] <= as_of and at <= c[1] <= at + window]
            rows.append((impression, bool(found), at + window <= as_of, min(found, default=None)))
    return rows


instant = st.integers(0, 30)


@settings(deadline=None, max_examples=300)
@given(
    st.lists(st.tuples(st.integers(0, 8), instant, instant), unique_by=lambda row: row[0], max_size=8),
    st.lists(st.tuples(st.integers(0, 9), instant, instant), max_size=12),
    instant,
    st.integers(0, 12),
)
def test_labels_equal_those_found_pair_by_pair(shown: list[Shown], clicks: list[Click], as_of: int, window: int) -> None:
    found = labels(table(shown), table(clicks), as_of, window)
    assert found.schema == LABELS
    columns = [found[name].to_pylist() for name in ("impression_id", "click", "mature")]
    assert list(zip(*columns, found["clicked_at"].cast(pa.int64()).to_pylist(), strict=True)) == one_by_one(
        shown, clicks, as_of, window
    )


def test_a_late_click_turns_the_label_only_once_it_has_arrived() -> None:
    shown, clicks = table([(1, 100, 100)]), table([(1, 150, 900)])
    before, after = (labels(shown, clicks, as_of, 200) for as_of in (899, 900))
    assert before.select(["click", "mature"]).to_pylist() == [{"click": False, "mature": True}]
    assert after.select(["click", "mature"]).to_pylist() == [{"click": True, "mature": True}]


def test_impressions_shown_twice_under_one_id_are_refused() -> None:
    with pytest.raises(ValueError, match="impression_id 7"):
        labels(table([(7, 1, 1), (7, 2, 2)]), table([]), 10, 5)
