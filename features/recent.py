"""The push view `user_recent`: what a user saw and clicked lately, one row a user and tick in which something of theirs
arrived.

A tick is five minutes of arrival time.  A row's counters hold everything that had arrived by the tick's end, decayed to that
end by the events' own times; `features.derive` decays them on to the moment of a request.  So the definition is the same in a
stream, where a row is the last row decayed plus the tick's events, and in batch, where this file does a day at once.  Pure;
called by `pipelines.materialize`.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from features.catalogue import SEQUENCE_LENGTH, view
from features.day_events import DayEvents
from features.schemas import CATEGORIES
from features.snapshots import table
from infra.clock import DAY_US, HOUR_US, MINUTE_US, SECOND_US

Array = npt.NDArray[Any]
I64 = npt.NDArray[np.int64]

TICK_US = 5 * MINUTE_US
DELAY_US = 30 * SECOND_US  # a tick's rows can be read this long after its end

# Counter -> what it counts and its half-life.
COUNTERS: dict[str, tuple[str, int]] = {
    "user_impressions_1h": ("impressions", HOUR_US),
    "user_clicks_1h": ("clicks", HOUR_US),
    "user_impressions_1d": ("impressions", DAY_US),
    "user_clicks_1d": ("clicks", DAY_US),
    "user_category_recent": ("impressions", 6 * HOUR_US),
}

Rows = Mapping[str, Array]  # the view's columns as arrays, plus user_id; times int64 us, -1 unknown


def empty_state() -> dict[str, Array]:
    """The newest row of each user, before the first event: user_id sorted, then the view's columns."""
    state: dict[str, Array] = {"user_id": np.zeros(0, np.int64)}
    for feature in view("user_recent").features:
        dtype = np.float32 if feature.kind in ("float", "floats") else np.int64
        state[feature.name] = np.zeros((0, feature.length) if feature.length > 1 else 0, dtype)
    return state


def update(previous: Rows, events: DayEvents) -> tuple[dict[str, Array], dict[str, Array]]:
    """(rows of the day by user and tick, newest row of every user so far) from the state a day before and what arrived."""
    shown = events.impressions.take(events.impressions.user_id >= 0)
    clicked = events.clicks.take(events.clicks.user_id >= 0)
    arrived = np.concatenate([shown.arrived_us, clicked.arrived_us])
    if len(arrived) == 0:
        return empty_state(), dict(previous)
    users = np.unique(np.concatenate([shown.user_id, clicked.user_id]))
    tick = arrived // TICK_US - arrived.min() // TICK_US
    width = int(tick.max()) + 1
    place = np.searchsorted(users, np.concatenate([shown.user_id, clicked.user_id])) * width + tick
    cells, at = np.unique(place, return_inverse=True)
    user = cells // width
    end = (cells % width + arrived.min() // TICK_US + 1) * TICK_US
    shown_at, clicked_at = at[: len(shown)], at[len(shown) :]
    n = len(cells)

    rows: dict[str, Array] = {"user_id": users[user], "user_recent_until": end}
    for name, (what, half_life) in COUNTERS.items():
        of, where = (shown, shown_at) if what == "impressions" else (clicked, clicked_at)
        weight = np.exp2((of.time_us - end[where]) / half_life)
        if name == "user_category_recent":
            known = of.category >= 0
            cell = where[known] * CATEGORIES + of.category[known]
            rows[name] = np.bincount(cell, weight[known], minlength=n * CATEGORIES).reshape(n, CATEGORIES)
        else:
            rows[name] = np.bincount(where, weight, minlength=n)
        rows[name] = rows[name].astype(np.float64, copy=False)  # bincount of nothing is whole numbers
    for name, of, where in (("user_last_impression", shown, shown_at), ("user_last_click", clicked, clicked_at)):
        rows[name] = np.full(n, -1, np.int64)
        np.maximum.at(rows[name], where, of.time_us)

    before = _find(previous["user_id"], users)
    _accumulate(rows, previous, before[user], np.append(-1, user[:-1]) != user)
    rows["user_clicked_categories"] = _clicked_categories(
        previous["user_clicked_categories"], before, user, clicked_at, clicked.time_us, clicked.category
    )
    for name in COUNTERS:
        rows[name] = rows[name].astype(np.float32)
    return rows, _newest(previous, rows, np.append(user[1:] != user[:-1], True))


def _find(keys: I64, wanted: I64) -> I64:
    """The position of each wanted key, -1 where absent; `keys` sorted."""
    if len(keys) == 0:
        return np.full(len(wanted), -1, np.int64)
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, at, -1)


def _accumulate(rows: dict[str, Array], previous: Rows, before: I64, first: npt.NDArray[np.bool_]) -> None:
    """Add to each row the user's row before it, decayed: first rows of all users, then second rows, and so on, in place."""
    n = len(first)
    start = np.maximum.accumulate(np.where(first, np.arange(n), 0))
    ordinal = np.arange(n) - start
    order = np.argsort(ordinal, kind="stable")
    bounds = np.append(np.flatnonzero(np.diff(ordinal[order], prepend=-1)), n)
    until = rows["user_recent_until"]
    for step, (low, high) in enumerate(pairwise(bounds)):
        at = order[low:high]
        source, earlier = (rows, at - 1) if step else (previous, before[at])
        at, earlier = at[earlier >= 0], earlier[earlier >= 0]
        elapsed = until[at] - source["user_recent_until"][earlier]
        for name, (_, half_life) in COUNTERS.items():
            decay = np.exp2(-elapsed / half_life)
            rows[name][at] += source[name][earlier] * (decay[:, None] if rows[name].ndim == 2 else decay)
        for name in ("user_last_impression", "user_last_click"):
            rows[name][at] = np.maximum(rows[name][at], source[name][earlier])


def _clicked_categories(previous: I64, before: I64, user: I64, row: I64, time_us: I64, category: I64) -> I64:
    """[n, SEQUENCE_LENGTH] the categories of the clicks that had arrived by each row's tick: newest tick first, within a tick
    the latest click first; -1 where there are fewer.  Clicks without a category are left out."""
    known = category >= 0
    row, time_us, category = row[known], time_us[known], category[known]
    order = np.lexsort((time_us, row))
    # One line of categories a user, oldest first: up to SEQUENCE_LENGTH from the days before, then the day's in order.
    old = np.full((len(before), SEQUENCE_LENGTH), -1, np.int64)
    old[before >= 0] = previous[before[before >= 0]][:, ::-1]
    old_user, old_at = np.nonzero(old >= 0)
    line_user = np.concatenate([old_user, user[row[order]]])
    line_row = np.concatenate([np.full(len(old_user), -1), row[order]])
    line = np.concatenate([old[old_user, old_at], category[order]])
    stable = np.argsort(line_user, kind="stable")
    line_user, line_row, line = line_user[stable], line_row[stable], line[stable]
    start = np.searchsorted(line_user, user)
    # Rows ascend with users, so (user, row) pairs of the line do too; an old click (row -1) lies before every row of its user.
    width = len(user) + 1
    end = np.searchsorted(line_user * width + line_row + 1, user * width + np.arange(len(user)) + 1, side="right")
    at = end[:, None] - 1 - np.arange(SEQUENCE_LENGTH)
    valid = at >= start[:, None]
    if len(line) == 0:
        return np.full(at.shape, -1, np.int64)
    return np.where(valid, line[np.where(valid, at, 0)], -1)


def _newest(previous: Rows, rows: Rows, last: npt.NDArray[np.bool_]) -> dict[str, Array]:
    """The newest row of each user: yesterday's, replaced where the user has one of today."""
    users = np.union1d(previous["user_id"], rows["user_id"])
    state: dict[str, Array] = {"user_id": users}
    old, new = np.searchsorted(users, previous["user_id"]), np.searchsorted(users, rows["user_id"][last])
    for name, before in previous.items():
        if name != "user_id":
            state[name] = np.zeros((len(users), *before.shape[1:]), before.dtype)
            state[name][old] = before
            state[name][new] = rows[name][last]
    return state


def rows_table(rows: Rows) -> pa.Table:
    """A day's rows as a snapshot table, in order of time."""
    order = np.argsort(rows["user_recent_until"], kind="stable")
    end = rows["user_recent_until"][order]
    return table(
        view("user_recent"), rows["user_id"][order], end, end + DELAY_US, end // TICK_US, {k: v[order] for k, v in rows.items()}
    )
