"""The as-of source over snapshot files, and the logged source over the prediction log."""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest

from features import snapshots
from features.batch import MISSING, OK, STALE, RequestBatch, ViewStates
from features.catalogue import VIEWS
from features.requests import from_impressions
from features.sources import AsOfSource, LoggedSource
from features.spec import feature_spec
from infra.clock import DAY_US, HOUR_US, MINUTE_US
from infra.home import Home
from infra.lake import Lake
from pipelines.materialize import materialize_day


def requests_of(market) -> RequestBatch:
    return from_impressions(Lake.of(market.home).read("impressions"), market.spec.context)


def source(market, service: str = "ctr_full") -> AsOfSource:
    return AsOfSource(market.home, market.spec.entities, market.spec.context, service)


def test_every_view_gives_the_row_that_brute_force_finds(market):
    asked = requests_of(market)
    asked = dataclasses.replace(asked, time_us=asked.time_us + np.random.default_rng(0).integers(-DAY_US, DAY_US, len(asked)))
    got = source(market).fetch(asked)
    keys = {
        "user": asked.user_id,
        "ad": asked.ad_id,
        "campaign": got.columns["campaign_id"],
        "placement": asked.context["placement"],
    }
    for one in VIEWS:
        rows = pa.concat_tables([snapshots.read(market.home, one.name, day) for day in snapshots.days(market.home, one.name)])
        event, available = (snapshots.times_us(rows[name]) for name in ("event_timestamp", "available_at"))
        entity, snapshot = rows[snapshots.KEYS[one.entity]].to_pylist(), rows["snapshot"].to_numpy()
        for i in range(0, len(asked), 7):
            seen = [
                (event[r], available[r], snapshot[r])
                for r in range(len(entity))
                if entity[r] == keys[one.entity][i] and available[r] <= asked.time_us[i]
            ]
            assert got.views[one.name].snapshot[i] == (max(seen)[2] if seen else 0), one.name


def test_columns_are_the_specs_and_rows_stay_in_order_whatever_the_order_asked(market):
    asked = requests_of(market)
    spec = feature_spec(market.spec.entities, market.spec.context)
    whole = source(market).fetch(asked)
    assert set(whole.columns) == set(spec.categorical + spec.numeric + spec.sequence)
    order = np.random.default_rng(1).permutation(len(asked))
    mixed = RequestBatch(
        asked.row_id[order], asked.time_us[order], asked.user_id[order], asked.ad_id[order],
        {name: values[order] for name, values in asked.context.items()},
    )  # fmt: skip
    again = source(market).fetch(mixed)
    for name, values in whole.columns.items():
        np.testing.assert_array_equal(again.columns[name], values[order], name)


def test_chunks_do_not_change_the_answer(market, monkeypatch):
    asked = requests_of(market)
    whole = source(market).fetch(asked)
    monkeypatch.setattr("features.sources.CHUNK", 100)
    parts = source(market).fetch(asked)
    for name, values in whole.columns.items():
        np.testing.assert_array_equal(parts.columns[name], values, name)


def test_yesterdays_snapshot_is_seen_from_half_past_midnight(market):
    day2 = market.spec.first_day_us + 2 * DAY_US
    asked = requests_of(market)
    times = np.array([day2 + 29 * MINUTE_US, day2 + 30 * MINUTE_US])
    two = RequestBatch(
        np.arange(2), times, asked.user_id[[0, 0]], asked.ad_id[[0, 0]], {n: v[[0, 0]] for n, v in asked.context.items()}
    )
    state = source(market).fetch(two).views["ad_daily"]
    assert state.snapshot.tolist() == [20260108, 20260109]
    assert state.age_s.tolist() == [DAY_US / 1e6 + 29 * 60, 30 * 60]
    assert state.status.tolist() == [OK, OK]


def test_a_view_that_stopped_is_stale_and_an_unknown_entity_missing(market):
    last = market.spec.first_day_us + market.spec.days * DAY_US
    asked = requests_of(market)
    context = {name: values[[0, 0]] for name, values in asked.context.items()}
    two = RequestBatch(
        np.arange(2), np.full(2, last + 7 * HOUR_US), np.array([asked.user_id[0], 999]), asked.ad_id[[0, 0]], context
    )
    got = source(market).fetch(two)
    assert got.views["user_recent"].status.tolist() == [STALE, MISSING]
    assert got.views["user_daily"].status.tolist() == [OK, MISSING]
    assert np.isnan(got.columns["user_ctr"][1])
    assert got.views["user_daily"].snapshot[1] == 0


def test_the_batch_service_has_no_recent_activity(market):
    got = source(market, "ctr_batch").fetch(requests_of(market))
    assert "user_recent" not in got.views
    assert "seconds_since_click" not in got.columns
    assert "user_category_ctr" in got.columns


def test_a_missing_context_column_is_named(market):
    asked = dataclasses.replace(requests_of(market), context={})
    with pytest.raises(ValueError, match="page_topic"):
        source(market).fetch(asked)


def test_no_requests_give_no_rows(market):
    asked = requests_of(market)
    nothing = np.zeros(0, np.int64)
    context = {name: values[:0] for name, values in asked.context.items()}
    got = source(market).fetch(RequestBatch(nothing, nothing, nothing, nothing, context))
    assert {len(values) for values in got.columns.values()} == {0}


def test_a_home_without_features_answers_missing_and_does_not_fail(market, tmp_path):
    got = AsOfSource(Home(tmp_path), market.spec.entities, market.spec.context).fetch(requests_of(market))
    assert all((state.status == MISSING).all() for state in got.views.values())
    assert np.isnan(got.columns["ad_ctr"]).all()


def test_what_was_logged_comes_back_and_what_was_not_is_missing(market):
    asked = requests_of(market)
    seen = source(market).fetch(asked)
    n = len(asked)
    columns = {"impression_id": asked.row_id, "fallback_mask": ViewStates.of(seen.views, len(asked)).mask()}
    for name, values in seen.columns.items():
        columns[f"f_{name}"] = list(values) if values.ndim == 2 else values
    for name, state in seen.views.items():
        columns[f"snapshot_{name}"], columns[f"age_{name}"] = state.snapshot, state.age_s
    table = pa.table({name: pa.array(values) for name, values in columns.items()})
    not_shown = pa.table({name: pa.nulls(3, table.schema.field(name).type) for name in table.column_names})
    logged = LoggedSource(pa.concat_tables([not_shown, table.slice(0, n - 5)]))
    back = logged.fetch(asked)
    for name, values in seen.columns.items():
        np.testing.assert_array_equal(back.columns[name][: n - 5], values[: n - 5], name)
    for name, state in seen.views.items():
        np.testing.assert_array_equal(back.views[name].status[: n - 5], state.status[: n - 5], name)
        np.testing.assert_array_equal(back.views[name].snapshot[: n - 5], state.snapshot[: n - 5])
        np.testing.assert_array_equal(back.views[name].age_s[: n - 5], state.age_s[: n - 5])
        assert (back.views[name].status[n - 5 :] == MISSING).all()
    assert np.isnan(back.columns["ad_ctr"][n - 5 :]).all()


def test_a_log_of_two_services_reads_each_rows_mask_by_its_own_views():
    n, null = 2, None
    table = pa.table(
        {
            "impression_id": [1, 2],
            "fallback_mask": pa.array([0b100, 0b100], pa.int32()),
            **{f"snapshot_{v.name}": [5] * n for v in VIEWS if v.name != "user_recent"},
            **{f"age_{v.name}": pa.array([1.0] * n, pa.float32()) for v in VIEWS},
            "snapshot_user_recent": pa.array([5, null]),
        }
    )
    nothing = np.zeros(n, np.int64)
    views = LoggedSource(table).fetch(RequestBatch(np.array([1, 2]), nothing, nothing, nothing, {})).views
    assert views["user_recent"].status.tolist() == [STALE, MISSING]
    assert views["ad_profile"].status.tolist() == [OK, STALE]


def test_a_day_made_again_differently_is_used_at_once(market, tmp_path):
    import shutil

    shutil.copytree(market.home.root, tmp_path / "copy")
    home = Home(tmp_path / "copy")
    day = snapshots.days(home, "ad_daily")[2]

    def tenfold(name: str, rows: pa.Table) -> pa.Table:
        if name != "ad_daily":
            return rows
        at = rows.column_names.index("ad_ctr")
        return rows.set_column(at, rows.schema.field(at), pa.compute.multiply(rows["ad_ctr"], pa.scalar(10, pa.float32())))

    materialize_day(home, market.spec, day, tenfold)
    asked = requests_of(market)
    before, after = source(market).fetch(asked), AsOfSource(home, market.spec.entities, market.spec.context).fetch(asked)
    hit = before.views["ad_daily"].snapshot == int(day.replace("-", ""))
    assert hit.any()
    np.testing.assert_allclose(after.columns["ad_ctr"][hit], 10 * before.columns["ad_ctr"][hit], rtol=1e-6)
    np.testing.assert_array_equal(after.columns["ad_ctr"][~hit], before.columns["ad_ctr"][~hit])
