"""Bug definitions: pure, keeping the schema, changing what they say and nothing else; and the one look-up."""

import numpy as np
import pyarrow as pa
import pytest

from features import recent
from features.day_events import DayEvents, Events
from infra.clock import DAY_US, HOUR_US
from infra.errors import ExplainedError
from monitoring.bugs.catalogue import BUGS, bug
from monitoring.bugs.drift import towards_mobile
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


def test_every_bug_is_found_by_code_and_by_name_in_any_case() -> None:
    for entry in BUGS:
        assert bug(entry.code.lower()) is entry
        assert bug(entry.name.upper()) is entry
        assert {"strong", "mild", "trace"} == set(entry.doses)
        assert entry.story
        assert entry.looks_like
    assert len({entry.code for entry in BUGS}) == len({entry.name for entry in BUGS}) == len(BUGS)


def test_an_unknown_bug_or_intensity_lists_what_there_is() -> None:
    with pytest.raises(ExplainedError, match=r"LEAK01 \(label-leakage\), DRIFT01 \(feature-drift\)"):
        bug("GREMLIN")
    with pytest.raises(KeyError, match="strong, mild, trace"):
        bug("LEAK01").dose("wild")


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


def test_the_drift_moves_a_share_of_the_other_devices_to_mobile_and_nothing_else() -> None:
    n = 20_000
    device = np.array(["desktop", "mobile", "tv", "tablet"])[np.arange(n) % 4]
    requests = pa.table({"request_id": np.arange(n), "device": device, "placement": ["top"] * n})
    moved = towards_mobile(requests, 0.4, SCENE)
    assert moved.schema == requests.schema
    assert moved.drop_columns("device").equals(requests.drop_columns("device"))
    share = (np.asarray(moved["device"].to_pylist()) == "mobile").mean()
    assert share == pytest.approx(0.25 + 0.75 * 0.4, abs=0.01)
    assert towards_mobile(requests, 0.0, SCENE).equals(requests)
