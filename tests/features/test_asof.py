"""The point-in-time join against its brute-force twin."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.asof import asof_index

rows = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 12), st.integers(0, 6)), max_size=25)
asks = st.lists(st.tuples(st.integers(-1, 5), st.integers(-2, 22)), max_size=15)


def brute_force(keys, times, row_keys, available, event):
    found = []
    for key, time in zip(keys, times, strict=True):
        seen = [(event[i], available[i], i) for i in range(len(row_keys)) if row_keys[i] == key and available[i] <= time]
        found.append(max(seen)[2] if seen else -1)
    return np.array(found, np.int64)


def columns(rows, scale=1):
    key = np.array([r[0] for r in rows], np.int64)
    event = np.array([r[1] for r in rows], np.int64) * scale
    available = event + np.array([r[2] for r in rows], np.int64) * scale
    return key, available, event


@settings(max_examples=300, deadline=None)
@given(rows, asks)
def test_finds_what_brute_force_finds_with_late_rows_ties_duplicates_and_unknown_keys(rows, asks):
    key, available, event = columns(rows)
    keys = np.array([a[0] for a in asks], np.int64)
    times = np.array([a[1] for a in asks], np.int64)
    expected = brute_force(keys, times, key, available, event)
    np.testing.assert_array_equal(asof_index(keys, times, key, available, event), expected)


@settings(max_examples=100, deadline=None)
@given(rows, asks)
def test_string_keys_work_alike(rows, asks):
    key, available, event = columns(rows)
    keys = np.array([f"p{a[0]}" for a in asks], np.str_)
    times = np.array([a[1] for a in asks], np.int64)
    names = np.array([f"p{k}" for k in key], np.str_)
    expected = brute_force(keys, times, names, available, event)
    np.testing.assert_array_equal(asof_index(keys, times, names, available, event), expected)


@settings(max_examples=100, deadline=None)
@given(rows, asks)
def test_times_too_far_apart_for_one_combined_key_give_the_same_rows(rows, asks):
    scale = 1 << 57
    key, available, event = columns(rows, scale)
    keys = np.array([a[0] for a in asks], np.int64)
    times = np.array([a[1] for a in asks], np.int64) * scale
    expected = brute_force(keys, times, key, available, event)
    np.testing.assert_array_equal(asof_index(keys, times, key, available, event), expected)


def test_a_late_row_is_seen_only_from_its_arrival_and_an_older_one_never_replaces_a_newer():
    key, event, available = np.array([7, 7, 7]), np.array([10, 20, 15]), np.array([11, 21, 30])
    times = np.array([5, 11, 20, 21, 29, 30, 99])
    np.testing.assert_array_equal(asof_index(np.full(7, 7), times, key, available, event), [-1, 0, 0, 1, 1, 1, 1])


def test_a_row_available_before_its_event_is_refused():
    with pytest.raises(ValueError, match=r"row 1 .* can't be seen before it exists"):
        asof_index(np.array([1]), np.array([9]), np.array([1, 1]), np.array([5, 5]), np.array([5, 6]))
