"""The daily views against sums over all events."""

import numpy as np
from event_days import DAYS, FIRST_US, Log, ads, clicks, days, impressions, logs
from hypothesis import given, settings

from features import aggregate
from features.aggregate import DELAY_US, HALF_LIFE_US, STRENGTH
from features.day_events import Ads, day_events
from features.schemas import CATEGORIES
from features.snapshots import matrix
from infra.clock import DAY_US

END_US = FIRST_US + DAYS * DAY_US


def run(log):
    state = aggregate.empty_state()
    for day, events in enumerate(days(log)):
        state = aggregate.update(state, events, FIRST_US + (day + 1) * DAY_US)
    row = ads().find(state["ad"].keys)
    category = np.where(row >= 0, ads().category[row], -1)
    return state, aggregate.views(state, END_US, category)


def decayed(times_us, half_life_us):
    return float(np.exp2((times_us - END_US) / half_life_us).sum())


@settings(max_examples=60, deadline=None)
@given(logs())
def test_counters_are_decayed_sums_over_everything_that_arrived(log):
    _, views = run(log)
    table = ads()
    category = np.where(table.find(log.ad_id) >= 0, table.category[table.find(log.ad_id)], -1)
    campaign = np.where(table.find(log.ad_id) >= 0, table.campaign_id[table.find(log.ad_id)], -1)
    price = np.where(table.find(log.ad_id) >= 0, table.log_price[table.find(log.ad_id)], np.nan)
    week, three_days = HALF_LIFE_US["user"], HALF_LIFE_US["ad"]

    users = views["user_daily"]
    assert users["user_id"].to_pylist() == sorted(set(log.user_id.tolist()) - {-1})
    shown_in, clicked_in = (matrix(users[f"user_category_{what}"], CATEGORIES) for what in ("impressions", "clicks"))
    for i, user in enumerate(users["user_id"].to_pylist()):
        mine, my_clicks = log.user_id == user, log.user_id[log.of] == user
        row = {name: users[name][i].as_py() for name in users.column_names}
        np.testing.assert_allclose(row["user_impressions_7d"], decayed(log.shown_us[mine], week), rtol=1e-5)
        np.testing.assert_allclose(row["user_clicks_7d"], decayed(log.clicked_us[my_clicks], week), rtol=1e-5)
        for c in range(3):
            wanted = decayed(log.shown_us[mine & (category == c)], week)
            np.testing.assert_allclose(shown_in[i, c], wanted, rtol=1e-5)
            wanted = decayed(log.clicked_us[my_clicks & (category[log.of] == c)], week)
            np.testing.assert_allclose(clicked_in[i, c], wanted, rtol=1e-5)
        priced = my_clicks & np.isfinite(price[log.of])
        weight = np.exp2((log.clicked_us[priced] - END_US) / week)
        wanted = (weight * price[log.of][priced]).sum() / weight.sum() if priced.any() else np.nan
        np.testing.assert_allclose(row["user_price_clicked"], wanted, rtol=1e-5)

    for i, ad in enumerate(views["ad_daily"]["ad_id"].to_pylist()):
        got = views["ad_daily"]["ad_impressions_3d"][i].as_py()
        np.testing.assert_allclose(got, decayed(log.shown_us[log.ad_id == ad], three_days), rtol=1e-5)
    for i, one in enumerate(views["campaign_daily"]["campaign_id"].to_pylist()):
        mine = campaign == one
        got = views["campaign_daily"]["campaign_impressions_7d"][i].as_py()
        np.testing.assert_allclose(got, decayed(log.shown_us[mine], week), rtol=1e-5)
        started = views["campaign_daily"]["campaign_started"].cast("int64")[i].as_py()
        assert started == log.shown_us[mine].min()
    for i, word in enumerate(views["placement_daily"]["placement"].to_pylist()):
        mine = (log.ad_id % 2 == 0) == (word == "top")
        got = views["placement_daily"]["placement_impressions_7d"][i].as_py()
        np.testing.assert_allclose(got, decayed(log.shown_us[mine], week), rtol=1e-5)


@settings(max_examples=30, deadline=None)
@given(logs())
def test_rates_are_smoothed_towards_rates_of_the_same_moment(log):
    _, views = run(log)
    if len(log.shown_us) == 0:
        return
    table, week = ads(), HALF_LIFE_US["user"]
    overall = decayed(log.clicked_us, week) / decayed(log.shown_us, week)
    row = table.find(log.ad_id)
    category = np.where(row >= 0, table.category[row], -1)
    for i, user in enumerate(views["user_daily"]["user_id"].to_pylist()):
        clicks = decayed(log.clicked_us[log.user_id[log.of] == user], week)
        shown = decayed(log.shown_us[log.user_id == user], week)
        wanted = (clicks + STRENGTH["user"] * overall) / (shown + STRENGTH["user"])
        np.testing.assert_allclose(views["user_daily"]["user_ctr"][i].as_py(), wanted, rtol=1e-5)
    for i, ad in enumerate(views["ad_daily"]["ad_id"].to_pylist()):
        own = category[np.flatnonzero(log.ad_id == ad)[0]]
        prior = overall
        if own >= 0:
            clicks = decayed(log.clicked_us[category[log.of] == own], week)
            shown = decayed(log.shown_us[category == own], week)
            prior = (clicks + STRENGTH["category"] * overall) / (shown + STRENGTH["category"])
        clicks = decayed(log.clicked_us[log.ad_id[log.of] == ad], HALF_LIFE_US["ad"])
        shown = decayed(log.shown_us[log.ad_id == ad], HALF_LIFE_US["ad"])
        wanted = (clicks + STRENGTH["ad"] * prior) / (shown + STRENGTH["ad"])
        np.testing.assert_allclose(views["ad_daily"]["ad_ctr"][i].as_py(), wanted, rtol=1e-5)


@settings(max_examples=30, deadline=None)
@given(logs())
def test_coec_divides_by_the_clicks_that_the_slots_rates_to_date_expect(log):
    _, views = run(log)
    shown_day, clicked_day = ((at - FIRST_US) // DAY_US for at in (log.shown_arrived_us, log.clicked_arrived_us))
    week, strength = HALF_LIFE_US["slot"], STRENGTH["slot"]
    expected = dict.fromkeys(views["ad_daily"]["ad_id"].to_pylist(), 0.0)
    for day in range(DAYS):
        end = FIRST_US + (day + 1) * DAY_US
        shown, clicked = shown_day <= day, clicked_day <= day
        weight = np.exp2((log.shown_us - end) / week) * shown
        click_weight = np.exp2((log.clicked_us - end) / week) * clicked
        overall = click_weight.sum() / weight.sum() if weight.sum() else 0.0
        for i in np.flatnonzero(shown_day == day):
            at_slot = (click_weight * (log.slot[log.of] == log.slot[i])).sum()
            rate = (at_slot + strength * overall) / ((weight * (log.slot == log.slot[i])).sum() + strength)
            expected[log.ad_id[i]] += rate * 2 ** ((log.shown_us[i] - END_US) / HALF_LIFE_US["ad"])
    for i, (ad, of_ad) in enumerate(expected.items()):
        clicks = decayed(log.clicked_us[log.ad_id[log.of] == ad], HALF_LIFE_US["ad"])
        wanted = (clicks + STRENGTH["coec"]) / (of_ad + STRENGTH["coec"])
        np.testing.assert_allclose(views["ad_daily"]["ad_coec"][i].as_py(), wanted, rtol=1e-5)


@settings(max_examples=10, deadline=None)
@given(logs())
def test_snapshots_carry_the_days_end_the_delay_and_the_days_number(log):
    _, views = run(log)
    for rows in views.values():
        assert set(rows["event_timestamp"].cast("int64").to_pylist()) <= {END_US}
        assert set(rows["available_at"].cast("int64").to_pylist()) <= {END_US + DELAY_US}
        assert set(rows["snapshot"].to_pylist()) <= {20241006}  # day 20002 since 1970


def test_a_click_whose_impression_is_not_in_the_window_is_counted_as_an_orphan_and_nowhere_else():
    at = np.array([FIRST_US])
    whole = Log(at, at, np.array([1]), np.array([0]), np.array([0]), np.array([0]), at + 1, at + 1)
    nothing = impressions(whole).slice(0, 0)
    events = day_events(impressions(whole), clicks(whole), nothing, Ads.of(None))
    assert events.orphans == 1
    assert len(events.clicks) == 0
    assert len(events.impressions) == 1
