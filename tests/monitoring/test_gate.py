"""What the gate and the daily check read from a home: control totals, rebuilt rows, the kept reference, the watched columns."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from features import snapshots
from features.catalogue import VIEWS, view
from features.sources import AsOfSource
from infra import branch
from infra.home import Home
from infra.lake import Lake
from monitoring.daily import read_days, sampled_impressions, watch, watched_columns
from monitoring.gate import accepted
from monitoring.gate.rebuild import compare, rebuild

ENTITIES, CONTEXT, SERVICE = ("user", "ad", "campaign", "placement"), ("device", "placement", "page_topic"), "ctr_full"


def test_training_keeps_a_reference_when_it_promotes(tiny_home: Home) -> None:
    table = accepted(tiny_home)
    assert table is not None
    assert "user_clicks_1h" in table.features
    assert np.isfinite(table.auc).any()


def test_stored_rows_are_what_raw_events_say(tiny_home: Home) -> None:
    days = snapshots.days(tiny_home, "user_recent")[5:]
    rebuilt = rebuild(tiny_home, days, True, ENTITIES)
    assert {view for view, _ in rebuilt.rows} == {view.name for view in VIEWS}
    wrong = compare(tiny_home, rebuilt, days)
    assert (wrong.findings, wrong.doubted) == ([], frozenset())


def test_a_rewritten_day_is_named_with_its_column_and_first_day(tiny_home: Home) -> None:
    work = branch.create(tiny_home, "rebuild-test")
    try:
        days = snapshots.days(work, "user_recent")
        recent = view("user_recent")
        with snapshots.manifest_path(work, recent.name, days[8]).open("rb") as file:
            manifest = pq.read_table(file)
        rows = snapshots.read(work, recent.name, days[8])
        more = pc.add(rows["user_clicks_1h"], pa.scalar(0.5, pa.float32()))
        rows = rows.set_column(rows.column_names.index("user_clicks_1h"), "user_clicks_1h", more)
        snapshots.write(work, recent, days[8], rows, manifest)
        wrong = compare(work, rebuild(tiny_home, days[5:], True, ENTITIES), days[5:])
        (found,) = wrong.findings
        assert (found.subject, found.since, found.bug_class) == ("user_clicks_1h", days[8], "point-in-time-violation")
        assert wrong.doubted == {"user_clicks_1h"}
    finally:
        branch.drop(work)


def test_the_daily_check_is_silent_on_the_last_days(tiny_home: Home) -> None:
    for day in Lake.of(tiny_home).days("impressions")[-4:]:
        checks = watch(tiny_home, day, ENTITIES, CONTEXT, SERVICE)
        assert checks.ran == ["distribution"]
        assert checks.pages == []


def test_a_log_too_young_is_skipped_with_the_reason(tiny_home: Home) -> None:
    checks = watch(tiny_home, Lake.of(tiny_home).days("impressions")[2], ENTITIES, CONTEXT, SERVICE)
    assert checks.ran == []
    assert "2 days before" in checks.skipped["distribution"]


def test_watched_columns_leave_out_ids_and_what_a_handful_of_placements_decide() -> None:
    names = {column.name: column for column in watched_columns(ENTITIES, CONTEXT, SERVICE)}
    assert {"device", "placement", "user_age", "user_ctr", "price_gap"} <= names.keys()
    assert not {"user_id", "ad_id", "campaign_id", "placement_ctr", "weekday"} & names.keys()
    assert {names["ad_category"].units, names["campaign_ctr"].units} == {"campaign_id"}
    assert (names["ad_log_price"].units, names["user_ctr"].units) == ("ad_id", None)
    open_log = watched_columns(("ad", "placement"), ("placement", "user_feature_0"), SERVICE)
    assert "user_feature_0" in {column.name for column in open_log}


def test_a_day_is_read_in_whole_requests_with_context_of_every_request(tiny_home: Home) -> None:
    day = Lake.of(tiny_home).days("impressions")[-1]
    rows = Lake.of(tiny_home).read("impressions", ["request_id"], [day])["request_id"].to_numpy()
    few = sampled_impressions(tiny_home, day, CONTEXT, most=500)
    asked, counts = np.unique(few["request_id"].to_numpy(), return_counts=True)
    np.testing.assert_array_equal(counts, [(rows == request).sum() for request in asked])
    columns = read_days(tiny_home, [day], CONTEXT, AsOfSource(tiny_home, ENTITIES, CONTEXT, SERVICE))[day]
    assert len(columns["device"]) == len(np.unique(rows))
    assert len(columns["user_ctr"]) == pytest.approx(min(len(rows), 8000), rel=0.1)
