"""The push view against sums over all events that had arrived by each tick."""

import numpy as np
from event_days import ads, days, logs
from hypothesis import given, settings

from features import recent
from features.catalogue import SEQUENCE_LENGTH
from features.recent import COUNTERS, TICK_US


def run(log):
    state, parts = recent.empty_state(), []
    for events in days(log):
        rows, state = recent.update(state, events)
        parts.append(rows)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, state


@settings(max_examples=80, deadline=None)
@given(logs())
def test_each_row_holds_everything_of_the_user_that_had_arrived_decayed_to_the_ticks_end(log):
    rows, _ = run(log)
    table = ads()
    row = table.find(log.ad_id)
    category = np.where(row >= 0, table.category[row], -1)
    expected = set()
    for user in set(log.user_id.tolist()) - {-1}:
        for at in (log.shown_arrived_us[log.user_id == user], log.clicked_arrived_us[log.user_id[log.of] == user]):
            expected |= {(user, (t // TICK_US + 1) * TICK_US) for t in at.tolist()}
    assert set(zip(rows["user_id"].tolist(), rows["user_recent_until"].tolist(), strict=True)) == expected
    assert len(rows["user_id"]) == len(expected)

    for i, (user, end) in enumerate(zip(rows["user_id"], rows["user_recent_until"], strict=True)):
        mine = (log.user_id == user) & (log.shown_arrived_us < end)
        my_clicks = (log.user_id[log.of] == user) & (log.clicked_arrived_us < end)
        times = {"impressions": log.shown_us[mine], "clicks": log.clicked_us[my_clicks]}
        for name, (what, half_life) in COUNTERS.items():
            if name == "user_category_recent":
                for c in range(3):
                    wanted = np.exp2((log.shown_us[mine & (category == c)] - end) / half_life).sum()
                    np.testing.assert_allclose(rows[name][i, c], wanted, rtol=1e-5)
            else:
                wanted = np.exp2((times[what] - end) / half_life).sum()
                np.testing.assert_allclose(rows[name][i], wanted, rtol=1e-5)
        assert rows["user_last_impression"][i] == (times["impressions"].max() if mine.any() else -1)
        assert rows["user_last_click"][i] == (times["clicks"].max() if my_clicks.any() else -1)
        known = np.flatnonzero(my_clicks & (category[log.of] >= 0))
        tick = log.clicked_arrived_us[known] // TICK_US
        newest = known[np.lexsort((log.clicked_us[known], tick))][::-1][:SEQUENCE_LENGTH]
        wanted = [*category[log.of[newest]].tolist(), *[-1] * (SEQUENCE_LENGTH - len(newest))]
        assert rows["user_clicked_categories"][i].tolist() == wanted


@settings(max_examples=40, deadline=None)
@given(logs())
def test_the_state_is_the_newest_row_of_every_user(log):
    rows, state = run(log)
    assert state["user_id"].tolist() == sorted(set(rows["user_id"].tolist()))
    for i, user in enumerate(state["user_id"]):
        mine = np.flatnonzero(rows["user_id"] == user)
        newest = mine[rows["user_recent_until"][mine].argmax()]
        for name in state:
            np.testing.assert_array_equal(state[name][i], rows[name][newest])


@settings(max_examples=20, deadline=None)
@given(logs())
def test_rows_can_be_read_half_a_minute_after_their_tick(log):
    rows, _ = run(log)
    table = recent.rows_table(rows)
    event, available = (table[name].cast("int64").to_numpy() for name in ("event_timestamp", "available_at"))
    assert (available - event == 30_000_000).all()
    assert (table["snapshot"].to_numpy() * TICK_US == event).all()
