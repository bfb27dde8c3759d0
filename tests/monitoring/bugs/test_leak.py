"""Leaks: what each one puts into a training set that it could not have known."""

import numpy as np
import pyarrow as pa
import pytest

from features import recent
from features.day_events import DayEvents, Events
from infra.clock import DAY_US, HOUR_US
from monitoring.bugs.entry import Scene
from monitoring.bugs.leak import whole_day_window

SCENE = Scene("rows", seed=7)
DAY = 20_454 * DAY_US


def events(rows: list[tuple[int, float]]) -> Events:
    """Events of (user, hour of the day), arriving at once."""
    user = np.array([r[0] for r in rows], np.int64)
    at = DAY + np.array([int(r[1] * HOUR_US) for r in rows], np.int64)
    some = np.zeros(len(rows), np.int64)
    return Events(at, at, user, some, some, np.full(len(rows), "top"), some, some, np.zeros(len(rows)))


def recent_rows() -> pa.Table:
    """User 1 visits at 9 and 15 h and clicks at 15.1 h; user 2 visits twice and never clicks; user 3 clicks at once."""
    shown = events([(1, 9), (1, 15), (2, 9), (2, 10), (3, 12)])
    return recent.rows_table(recent.update(recent.empty_state(), DayEvents(shown, events([(1, 15.1), (3, 12.01)]), 0))[0])


def test_the_leak_puts_later_clicks_into_earlier_rows_of_one_column() -> None:
    rows = recent_rows()
    leaked = whole_day_window(rows, 1.0, SCENE)
    assert leaked.schema == rows.schema
    assert leaked.drop_columns("user_clicks_1h").equals(rows.drop_columns("user_clicks_1h"))
    by_user = {u: leaked.filter(pa.compute.equal(leaked["user_id"], u))["user_clicks_1h"].to_pylist() for u in (1, 2, 3)}
    assert all(value > 0.8 for value in by_user[1])  # the row of 9 h knows the click of 15.1 h
    assert by_user[2] == [0, 0]
    assert len(by_user[3]) == 1


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_the_leak_touches_only_its_share_of_users(share: float) -> None:
    n = 4000
    users = np.arange(n // 2).repeat(2)
    hours = np.tile([9.0, 15.0], n // 2)
    shown = events(list(zip(users.tolist(), hours.tolist(), strict=True)))
    clicked = events([(int(user), 15.5) for user in np.unique(users)])
    rows = recent.rows_table(recent.update(recent.empty_state(), DayEvents(shown, clicked, 0))[0])
    leaked = whole_day_window(rows, share, SCENE)
    apart = leaked["user_clicks_1h"].to_numpy() - rows["user_clicks_1h"].to_numpy() > 0.5
    assert abs(len(np.unique(rows["user_id"].to_numpy()[apart])) / (n // 2) - share) < 0.05


def test_the_leak_leaves_a_day_without_rows_alone() -> None:
    empty = recent_rows().slice(0, 0)
    assert whole_day_window(empty, 1.0, SCENE).equals(empty)
