"""The latest day of a home without its log: silent on clean days, skipped on a young home, read in whole requests."""

import numpy as np

from features.sources import AsOfSource
from infra.clock import DAY_US
from infra.home import Home
from infra.lake import Lake
from monitoring.columns import columns_of
from monitoring.daily import read_windows, sampled_impressions, watch

ENTITIES, CONTEXT, SERVICE = ("user", "ad", "campaign", "placement"), ("device", "placement", "page_topic"), "ctr_full"


def test_the_last_days_of_a_clean_home_are_silent(tiny_home: Home) -> None:
    for day in Lake.of(tiny_home).days("impressions")[-1:]:
        checks = watch(tiny_home, day, ENTITIES, CONTEXT, SERVICE)
        assert checks.ran == ["distribution"]
        assert checks.pages == []


def test_a_log_too_young_is_skipped_with_the_reason(tiny_home: Home) -> None:
    checks = watch(tiny_home, Lake.of(tiny_home).days("impressions")[2], ENTITIES, CONTEXT, SERVICE)
    assert checks.ran == []
    assert "2 days before" in checks.skipped["distribution"]


def test_columns_know_their_families_and_the_units_that_decide_on_them() -> None:
    columns = columns_of(ENTITIES, CONTEXT, SERVICE)
    assert {"device", "placement", "user_country"} <= set(columns.categorical)
    assert set(columns.ids) == {"user_id", "ad_id", "campaign_id", "advertiser_id"}
    assert {columns.units["ad_category"], columns.units["campaign_ctr"]} == {"campaign_id"}
    assert (columns.units["ad_log_price"], columns.units.get("user_ctr")) == ("ad_id", None)
    assert "user_feature_0" in columns_of(("ad", "placement"), ("placement", "user_feature_0"), SERVICE).categorical


def test_a_day_is_read_in_whole_requests(tiny_home: Home) -> None:
    day = Lake.of(tiny_home).days("impressions")[-1]
    rows = Lake.of(tiny_home).read("impressions", ["request_id"], [day])["request_id"].to_numpy()
    few = sampled_impressions(tiny_home, day, CONTEXT, most=500)
    asked, counts = np.unique(few["request_id"].to_numpy(), return_counts=True)
    np.testing.assert_array_equal(counts, [(rows == request).sum() for request in asked])
    [window] = read_windows(tiny_home, [day], CONTEXT, AsOfSource(tiny_home, ENTITIES, CONTEXT, SERVICE))
    assert window.end_us - window.start_us == DAY_US
    time = window.log["time"].to_numpy()
    assert ((time >= window.start_us) & (time < window.end_us)).all()
    assert {"id", "user", "item", "f_user_ctr", "f_device"} <= set(window.log.column_names)
