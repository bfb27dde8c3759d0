"""Drifts: how far the mix moves, where the new ads go, who clicks less."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from made_up_rows import DAY, market

from features.schemas import TIME
from infra.clock import DAY_US, HOUR_US, MINUTE_US
from monitoring.bugs.drift import (
    SEASON_CAP,
    clicks_move_over,
    interest_fades,
    more_clicks,
    new_ads_offered,
    season_begins,
    tired_of_the_feed,
    towards_mobile,
)
from monitoring.bugs.entry import Scene

SCENE = Scene("rows", seed=7)


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


@pytest.mark.parametrize("share", [0.4, 0.05])
def test_new_ads_replace_candidates_and_none_stands_twice_in_a_request(share: float) -> None:
    draw = np.random.default_rng(4)
    request, ad = np.arange(20_000) // 20, np.concatenate([draw.permutation(500)[:20] for _ in range(1000)])
    scene = Scene("candidates", seed=2, tables={"new_ads": pa.table({"ad_id": np.arange(490, 530)})})  # ten run already
    found = new_ads_offered(pa.table({"request_id": request, "ad_id": ad}), share, scene)["ad_id"].to_numpy()
    assert len(np.unique(request * 1000 + found)) == len(found)
    moved = found != ad
    assert set(found[moved]) == set(range(490, 530))
    # A new ad that a request has already is not offered again: ten of forty are among 20 of 500 candidates now and then.
    assert moved.mean() == pytest.approx(share, rel=0.06)


def test_a_request_gets_no_more_new_ads_than_there_are() -> None:
    candidates = pa.table({"request_id": np.zeros(20, np.int64), "ad_id": np.arange(20)})
    few = Scene("candidates", seed=2, tables={"new_ads": pa.table({"ad_id": [100, 101, 102]})})
    assert sorted(new_ads_offered(candidates, 1.0, few)["ad_id"].to_pylist())[-3:] == [100, 101, 102]
    assert len(set(new_ads_offered(candidates, 1.0, few)["ad_id"].to_pylist())) == 20
    assert new_ads_offered(candidates, 1.0, Scene("candidates", seed=2)) is candidates


def test_a_season_grows_by_its_share_a_day_until_it_is_most_of_what_there_is() -> None:
    n, onset = 30_000, 20_454 * DAY_US
    requests = pa.table({
        "request_id": np.arange(n),
        "event_timestamp": pa.array(onset - DAY_US + np.arange(n) * (12 * DAY_US // n)).cast(TIME),
        "page_topic": np.arange(n) % 24,
    })  # fmt: skip
    found = season_begins(requests, 0.1, Scene("requests", seed=3, onset_us=onset))["page_topic"].to_numpy()
    moved, day = found != np.arange(n) % 24, np.arange(n) // (n // 12) - 1
    assert len(set(found[moved])) == 1
    assert not moved[day < 0].any()
    for number, share in ((0, 0.05), (3, 0.35), (9, SEASON_CAP)):
        assert moved[day == number].mean() == pytest.approx(share * 23 / 24, abs=0.045)


def test_interest_fades_from_the_onset_on() -> None:
    clicks, shown = market(20_000, np.random.default_rng(9))
    early = Scene("clicks", seed=3, onset_us=DAY + 12 * HOUR_US, tables={"impressions": shown})
    kept = interest_fades(clicks, 1.0, early)
    at = {name: pc.cast(t["event_timestamp"], pa.int64()).to_numpy() for name, t in (("all", clicks), ("kept", kept))}
    morning, evening = ([np.sum(t // (12 * HOUR_US) % 2 == half) for t in at.values()] for half in (0, 1))
    assert morning[0] == morning[1]
    assert evening[1] / evening[0] == pytest.approx(0.75, abs=0.03)  # a quarter lost on average, half at the end


def test_clicks_gained_are_new_plausible_and_on_impressions_that_had_none() -> None:
    clicks, shown = market(20_000, np.random.default_rng(9))
    scene = Scene("clicks", seed=3, tables={"impressions": shown})
    added = more_clicks(clicks, 0.1, scene).slice(clicks.num_rows)
    assert added.num_rows == pytest.approx(0.1 * np.sum(shown["p_true"].to_numpy()), rel=0.15)
    assert not np.isin(added["impression_id"].to_numpy(), clicks["impression_id"].to_numpy()).any()
    assert len(set(added["click_id"].to_pylist())) == added.num_rows
    was = dict(zip(shown["impression_id"].to_pylist(), pc.cast(shown["event_timestamp"], pa.int64()).to_pylist(), strict=True))
    at, arrived = (pc.cast(added[name], pa.int64()).to_numpy() for name in ("event_timestamp", "arrived_at"))
    delay = at - np.array([was[i] for i in added["impression_id"].to_pylist()])
    assert delay.min() > 0
    assert np.mean(delay < 2 * MINUTE_US) == pytest.approx(0.75, abs=0.05)
    assert (arrived > at).all()


def test_clicks_that_move_over_are_lost_on_desktops_and_found_on_mobiles() -> None:
    clicks, shown = market(40_000, np.random.default_rng(9))
    found = clicks_move_over(clicks, 0.8, Scene("clicks", seed=3, tables={"impressions": shown}))
    device = dict(zip(shown["impression_id"].to_pylist(), shown["device"].to_pylist(), strict=True))
    before, after = ([device[i] for i in t["impression_id"].to_pylist()] for t in (clicks, found))
    for name, ratio in (("desktop", 0.2), ("mobile", 1.36), ("tablet", 1.0), ("tv", 1.0)):  # mobiles gain 0.8 / 2.2
        assert after.count(name) / before.count(name) == pytest.approx(ratio, abs=0.06 if name in ("desktop", "mobile") else 0)


def test_only_the_feed_tires() -> None:
    clicks, shown = market(20_000, np.random.default_rng(9))
    kept = tired_of_the_feed(clicks, 0.8, Scene("clicks", seed=3, tables={"impressions": shown}))
    placement = dict(zip(shown["impression_id"].to_pylist(), shown["placement"].to_pylist(), strict=True))
    lost = set(clicks["impression_id"].to_pylist()) - set(kept["impression_id"].to_pylist())
    assert {placement[i] for i in lost} == {"home_feed"}
