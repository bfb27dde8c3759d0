"""Cells: a bug changes what lies at its stage and downstream of it, and nothing else; without a dose it changes nothing."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from features.ids import derived_id, uniform
from infra import branch
from infra.clock import DAY_US, HOUR_US
from infra.errors import ExplainedError
from monitoring.bugs.entry import Bug, Scene, Stage
from monitoring.window import Window
from pipelines.plant.plant import Plant

TABLES = ("log", "clicks", "offline", "rescored", "day_old", "books", "refused")
HOURS = 3


def bug(stage: Stage, tables: tuple[str, ...], inject: Callable[[Any, float, Scene], Any]) -> Bug:
    return Bug("TEST01", "a-test", "unit-change", stage, tables, "something", "", "", {"strong": 1.0}, "", inject)


def differing(one: Window, other: Window) -> set[str]:
    """Which tables of two windows differ."""
    found = set()
    for name in TABLES:
        left, right = getattr(one, name), getattr(other, name)
        if left is None or right is None:
            if left is not right:
                found.add(name)
            continue
        if name == "books":
            left, right = (rows.sort_by([("stream", "ascending"), ("stage", "ascending")]) for rows in (left, right))
        try:
            pd.testing.assert_frame_equal(left.to_pandas(), right.to_pandas())
        except AssertionError:
            found.add(name)
    return found


def run(plant: Plant, broken: Bug, onset_us: int, hours: int = HOURS, dose: float = 1.0) -> list[tuple[Window, Window]]:
    """(clean, broken) windows of a cell."""
    until_us = onset_us + hours * HOUR_US
    return list(zip(plant.clean(onset_us, until_us), plant.broken(broken, dose, 7, onset_us, until_us), strict=True))


@pytest.fixture(scope="module")
def noon(plant: Plant) -> int:
    return plant.first_us + DAY_US + 12 * HOUR_US


STAGES: list[tuple[Stage, tuple[str, ...]]] = [
    ("traffic", ("requests", "candidates")), ("market", ("clicks",)), ("events", ("clicks",)),
    ("events", ("requests", "impressions", "clicks")), ("labels", ("clicks",)), ("feature", ("ad_daily", "user_recent")),
    ("store", ("user_daily", "ad_profile", "campaign_daily")), ("features", ("features",)), ("input", ("features",)),
    ("model", ()), ("log", ("predictions",)), ("assignment", ("assignment",)),
]  # fmt: skip


@pytest.mark.parametrize(("stage", "tables"), STAGES)
def test_a_bug_that_changes_nothing_leaves_every_window_as_it_is(
    plant: Plant, noon: int, stage: Stage, tables: tuple[str, ...]
) -> None:
    seen: list[str] = []

    def nothing(rows: Any, dose: float, scene: Scene) -> Any:
        seen.append(scene.table)
        assert scene.onset_us == noon
        assert scene.seed == 7
        return rows

    for clean, broken in run(plant, bug(stage, tables, nothing), noon, hours=14, dose=0.0):  # past midnight
        assert differing(clean, broken) == set()
    assert set(seen) == set(tables or ("model",))


def test_a_cell_writes_nothing_into_its_plant(plant: Plant, noon: int) -> None:
    list(plant.clean(noon, noon + HOURS * HOUR_US))
    before = branch.fingerprint(plant.home)
    for stage, tables in STAGES:
        if stage != "model":
            list(plant.broken(bug(stage, tables, lambda rows, dose, scene: rows.slice(0)), 1.0, 7, noon, noon + HOUR_US))
    assert branch.fingerprint(plant.home) == before


def test_bugs_start_after_the_reference(plant: Plant) -> None:
    anything = bug("log", ("predictions",), lambda rows, dose, scene: rows)
    with pytest.raises(ExplainedError, match="after its reference"):
        next(plant.broken(anything, 1.0, 7, plant.first_us - HOUR_US, plant.end_us))


def times_hundred(rows: pa.Table, dose: float, scene: Scene) -> pa.Table:
    place = rows.schema.get_field_index("ad_price")
    return rows.set_column(place, rows.schema.field(place), pc.multiply(rows["ad_price"], np.float32(100)))


def column_times(name: str, factor: float) -> Callable[[pa.Table, float, Scene], pa.Table]:
    def inject(rows: pa.Table, dose: float, scene: Scene) -> pa.Table:
        place = rows.schema.get_field_index(name)
        return rows.set_column(place, rows.schema.field(place), pc.multiply(rows[name], np.float32(factor)))

    return inject


def features_that_differ(one: pa.Table, other: pa.Table) -> set[str]:
    left, right = (rows.to_pandas().set_index("id").sort_index() for rows in (one, other))
    both = left.index.intersection(right.index)
    return {name for name in left.columns if name.startswith("f_") and not left.loc[both, name].equals(right.loc[both, name])}


def test_features_reach_model_and_log_but_not_the_recomputation(plant: Plant, noon: int) -> None:
    for clean, broken in run(plant, bug("features", ("features",), column_times("ad_ctr", 3.0)), noon):
        assert features_that_differ(clean.log, broken.log) == {"f_ad_ctr"}
        assert differing(clean, broken) >= {"log"}
        assert differing(clean, broken) <= {"log", "clicks", "rescored"}
        assert clean.log["p"].to_pylist() != broken.log["p"].to_pylist()
        rescored = dict(zip(broken.rescored["id"].to_pylist(), broken.rescored["p"].to_pylist(), strict=True))
        served = dict(zip(broken.log["id"].to_pylist(), broken.log["p"].to_pylist(), strict=True))
        assert all(served[name] == p for name, p in rescored.items())  # the model did what it was told
    after = [row for _, broken in run(plant, bug("features", ("features",), column_times("ad_ctr", 3.0)), noon)
             for row in broken.clicks.to_pylist()]  # fmt: skip
    clean_log = {
        row["id"]: row for clean, _ in run(plant, bug("log", (), lambda r, d, s: r), noon) for row in clean.log.to_pylist()
    }
    ours = [row for row in after if row["id"] in clean_log and not np.isnan(row["f_ad_ctr"])]
    assert ours
    assert all(row["f_ad_ctr"] == pytest.approx(3 * clean_log[row["id"]]["f_ad_ctr"]) for row in ours)  # as it was logged


def test_input_reaches_the_model_only(plant: Plant, noon: int) -> None:
    for clean, broken in run(plant, bug("input", ("features",), column_times("ad_ctr", 3.0)), noon):
        assert features_that_differ(clean.log, broken.log) == set()
        assert clean.log["p"].to_pylist() != broken.log["p"].to_pylist()
        assert clean.rescored.equals(broken.rescored)  # what the declared model gives on the log


class Halved:
    """An artefact that gives half the probability under the champion's name."""

    def __init__(self, artefact: Any) -> None:
        self.artefact, self.hash, self.encoder_hash = artefact, artefact.hash, artefact.encoder_hash

    def score(self, columns: Any) -> Any:
        return self.artefact.score(columns)

    def probability(self, s: Any, slot: Any) -> Any:
        return self.artefact.probability(s, slot) / 2


def test_another_model_scores_and_the_declared_one_disagrees(plant: Plant, noon: int) -> None:
    for clean, broken in run(plant, bug("model", (), lambda artefact, dose, scene: Halved(artefact)), noon):
        np.testing.assert_allclose(broken.log["p"].to_numpy(), clean.log["p"].to_numpy() / 2, rtol=1e-6)
        assert clean.rescored.equals(broken.rescored)
        assert features_that_differ(clean.log, broken.log) == set()


def test_a_model_that_says_its_name_is_rescored_by_itself(plant: Plant, noon: int) -> None:
    def previous(artefact: Any, dose: float, scene: Scene) -> Any:
        return scene.artefacts["previous"]

    for clean, broken in run(plant, bug("model", (), previous), noon):
        assert set(broken.log["model"].to_pylist()) == {plant.artefacts["previous"].hash} != set(clean.log["model"].to_pylist())
        served = dict(zip(broken.log["id"].to_pylist(), broken.log["p"].to_pylist(), strict=True))
        assert all(served[row["id"]] == row["p"] for row in broken.rescored.to_pylist())


def test_a_store_bug_is_served_and_not_recomputed(plant: Plant, noon: int) -> None:
    for clean, broken in run(plant, bug("store", ("ad_profile",), times_hundred), noon):
        assert features_that_differ(clean.log, broken.log) == {"f_ad_log_price", "f_price_gap"}
        assert features_that_differ(clean.offline, broken.offline) == set()
        left, right = (np.expm1(rows["f_ad_log_price"].to_numpy()) for rows in (clean.log, broken.log))
        np.testing.assert_allclose(right, 100 * left, rtol=1e-4)


def test_a_feature_bug_is_recomputed_just_as_wrong(plant: Plant, noon: int) -> None:
    for clean, broken in run(plant, bug("feature", ("ad_daily",), column_times("ad_ctr", 2.0)), noon):
        assert features_that_differ(clean.log, broken.log) == {"f_ad_ctr"}
        assert features_that_differ(broken.log, broken.offline) == set()
        assert features_that_differ(clean.offline, broken.offline) == {"f_ad_ctr"}


def test_rows_that_never_reach_the_store_leave_those_of_the_day_before(plant: Plant, noon: int) -> None:
    def dropped(rows: pa.Table, dose: float, scene: Scene) -> pa.Table:
        return rows.filter(pa.array(uniform(scene.seed, rows["user_id"].to_numpy()) >= 0.5))

    names = ["f_user_impressions_7d", "f_user_clicks_7d", "f_user_ctr"]
    for clean, broken in run(plant, bug("store", ("user_daily",), dropped), noon):
        old = broken.day_old.to_pandas().set_index("id")
        log = broken.log.to_pandas().set_index("id").loc[old.index]
        right = clean.log.to_pandas().set_index("id").loc[old.index]
        lost = uniform(7, log["user"].to_numpy()) < 0.5
        pd.testing.assert_frame_equal(log.loc[~lost, names], right.loc[~lost, names])
        pd.testing.assert_frame_equal(log.loc[lost, names], old.loc[lost, names])
        assert clean.log["age_user_daily"].equals(broken.log["age_user_daily"])  # the view as a whole is fresh


def test_a_delayed_snapshot_ages(plant: Plant, noon: int) -> None:
    def later(rows: pa.Table, dose: float, scene: Scene) -> pa.Table:
        place = rows.schema.get_field_index("available_at")
        moved = pc.add(rows["available_at"], pa.scalar(DAY_US, pa.duration("us")))
        return rows.set_column(place, rows.schema.field(place), moved)

    for clean, broken in run(plant, bug("store", ("user_daily",), later), noon):
        older = broken.log["age_user_daily"].to_numpy() - clean.log["age_user_daily"].to_numpy()
        np.testing.assert_allclose(older, 24 * 3600, atol=1)
        old = broken.day_old.to_pandas().set_index("id")["f_user_impressions_7d"]
        log = broken.log.to_pandas().set_index("id").loc[old.index, "f_user_impressions_7d"]
        pd.testing.assert_series_equal(log, old)


def test_lost_labels_are_missing_from_the_join_but_not_from_the_books_of_ingestion(plant: Plant, noon: int) -> None:
    def lose(rows: pa.Table, dose: float, scene: Scene) -> pa.Table:
        return rows.filter(pa.array(uniform(scene.seed, rows["click_id"].to_numpy()) >= 0.5))

    lost = 0
    for clean, broken in run(plant, bug("labels", ("clicks",), lose), noon, hours=6):
        assert set(broken.clicks["id"].to_pylist()) <= set(clean.clicks["id"].to_pylist())
        lost += len(clean.clicks) - len(broken.clicks)
        books = {(row["stream"], row["stage"]): row["rows"] for row in broken.books.to_pylist()}
        assert books["clicks", "joined"] == len(broken.clicks)
        assert books["clicks", "accepted"] == len(clean.clicks)
        assert differing(clean, broken) <= {"clicks", "books"}
    assert lost > 0


def test_clicks_delivered_twice_count_once_and_stand_in_the_books(plant: Plant, noon: int) -> None:
    twice = bug("events", ("clicks",), lambda rows, dose, scene: pa.concat_tables([rows, rows]))
    for clean, broken in run(plant, twice, noon):
        assert differing(clean, broken) == {"books"}
        before, after = ({(r["stream"], r["stage"]): r["rows"] for r in w.books.to_pylist()} for w in (clean, broken))
        assert after["clicks", "landed"] == 2 * before["clicks", "landed"]
        assert after["clicks", "duplicates"] == before["clicks", "landed"]
        assert after["clicks", "accepted"] == before["clicks", "accepted"]


def test_rows_that_break_the_contract_are_refused_by_rule(plant: Plant, noon: int) -> None:
    def skewed(rows: pa.Table, dose: float, scene: Scene) -> pa.Table:
        place = rows.schema.get_field_index("event_timestamp")
        later = pc.add(rows["event_timestamp"], pa.scalar(DAY_US, pa.duration("us")))
        return rows.set_column(place, rows.schema.field(place), later)

    for clean, broken in run(plant, bug("events", ("requests",), skewed), noon):
        assert differing(clean, broken) == {"books", "refused"}
        landed = next(r["rows"] for r in clean.books.to_pylist() if (r["stream"], r["stage"]) == ("requests", "landed"))
        assert broken.refused.to_pylist() == [
            {"stream": "requests", "field": "event_timestamp", "rule": "must not be later than arrived_at", "rows": landed}
        ]


def test_a_renamed_column_refuses_the_whole_file(plant: Plant, noon: int) -> None:
    renamed = bug("events", ("impressions",), lambda rows, dose, scene: rows.rename_columns(
        ["position" if name == "slot" else name for name in rows.column_names]))  # fmt: skip
    for clean, broken in run(plant, renamed, noon, hours=2):
        assert {(row["stream"], row["field"]) for row in broken.refused.to_pylist()} == {("impressions", "")}
        books = {(row["stream"], row["stage"]): row["rows"] for row in broken.books.to_pylist()}
        assert books["impressions", "accepted"] == 0
        assert books["impressions", "quarantined"] == books["impressions", "landed"] > 0
        assert books["clicks", "pending"] > 0  # they wait for impressions that were refused
        assert clean.log.equals(broken.log) or differing(clean, broken) <= {"clicks", "books", "refused"}


def test_late_clicks_come_in_their_hour(plant: Plant, noon: int) -> None:
    def late(rows: pa.Table, dose: float, scene: Scene) -> pa.Table:
        place = rows.schema.get_field_index("arrived_at")
        moved = pc.add(rows["arrived_at"], pa.scalar(2 * HOUR_US, pa.duration("us")))
        return rows.set_column(place, rows.schema.field(place), moved)

    for stage in ("events", "labels"):
        windows = run(plant, bug(stage, ("clicks",), late), noon, hours=5)
        clean = [set(window.clicks["id"].to_pylist()) for window, _ in windows]
        broken = [set(window.clicks["id"].to_pylist()) for _, window in windows]
        assert broken[:2] == [set(), set()]
        assert broken[2:] == clean[:3]


def test_the_market_clicks_otherwise_from_the_onset_on(plant: Plant, noon: int) -> None:
    def nobody(rows: pa.Table, dose: float, scene: Scene) -> pa.Table:
        shown = scene.tables["impressions"]
        assert set(rows["impression_id"].to_pylist()) <= set(shown["impression_id"].to_pylist())
        assert pc.min(shown["p_true"]).as_py() > 0
        return rows.slice(0, 0)

    for clean, broken in run(plant, bug("market", ("clicks",), nobody), noon):
        earlier = {row["id"] for row in clean.clicks.to_pylist() if row["time"] < noon}
        assert set(broken.clicks["id"].to_pylist()) == earlier
        assert differing(clean, broken) <= {"clicks", "books"}


def test_the_market_can_click_more(plant: Plant, noon: int) -> None:
    def everybody(rows: pa.Table, dose: float, scene: Scene) -> pa.Table:
        shown = scene.tables["impressions"]
        ids = shown["impression_id"].to_numpy()
        at = shown["event_timestamp"]
        return pa.table({"click_id": derived_id(ids, 1), "impression_id": ids, "event_timestamp": at, "arrived_at": at})

    found, shown = 0, 0
    for _, broken in run(plant, bug("market", ("clicks",), everybody), noon):
        found += int((broken.clicks["time"].to_numpy() >= noon).sum())
        shown += len(broken.log)
    assert found == pytest.approx(shown, rel=0.02)  # a few impressions are still on their way


def test_lost_and_doubled_log_rows_are_seen_as_they_are(plant: Plant, noon: int) -> None:
    halved = bug("log", ("predictions",), lambda rows, dose, scene: rows.filter(
        pa.array(uniform(scene.seed, rows["impression_id"].to_numpy()) < 0.5)))  # fmt: skip
    for clean, broken in run(plant, halved, noon):
        kept = set(broken.log["id"].to_pylist())
        assert kept < set(clean.log["id"].to_pylist())
        assert set(broken.offline["id"].to_pylist()) <= kept
        ours = {row["id"] for row in broken.clicks.to_pylist() if row["time"] >= noon}
        assert not ours & (set(clean.log["id"].to_pylist()) - kept)


def test_arms_are_what_the_assignment_said(plant: Plant, noon: int) -> None:
    def all_control(rows: pa.Table, dose: float, scene: Scene) -> pa.Table:
        assert rows.column_names == ["request_id", "user_id", "arm"]
        return rows.set_column(2, "arm", pa.array(["control"] * len(rows)))

    for clean, broken in run(plant, bug("assignment", ("assignment",), all_control), noon):
        assert set(clean.log["arm"].to_pylist()) == {"control", "treatment"}
        assert set(broken.log["arm"].to_pylist()) == {"control"}
        assert clean.log.drop_columns("arm").schema == broken.log.drop_columns("arm").schema
        assert broken.plan == {"control": 0.5, "treatment": 0.5}


def test_traffic_from_one_device_is_answered_by_the_world(plant: Plant, noon: int) -> None:
    def on_tv(rows: pa.Table, dose: float, scene: Scene) -> pa.Table:
        place = rows.schema.get_field_index("device")
        return rows.set_column(place, "device", pa.array(["tv"] * len(rows)))

    for clean, broken in run(plant, bug("traffic", ("requests",), on_tv), noon):
        assert set(broken.log["f_device"].to_pylist()) == {"tv"}
        assert set(broken.offline["f_device"].to_pylist()) == {"tv"}  # it is true: history says so too
        assert clean.log["id"].to_pylist() == broken.log["id"].to_pylist()
        assert clean.log["p"].to_pylist() != broken.log["p"].to_pylist()


def test_a_wave_of_new_ads_has_profiles_and_no_history(plant: Plant, noon: int) -> None:
    def wave(rows: pa.Table, dose: float, scene: Scene) -> pa.Table:
        assert scene.table == "candidates"
        new = scene.tables["new_ads"]["ad_id"].to_numpy()[:40]
        first = np.unique(rows["request_id"].to_numpy(), return_index=True)[1]
        ads = rows["ad_id"].to_numpy().copy()
        ads[first] = new[(uniform(scene.seed, rows["request_id"].to_numpy()[first]) * len(new)).astype(int)]
        return pa.table({"request_id": rows["request_id"], "ad_id": ads})

    for clean, broken in run(plant, bug("traffic", ("candidates",), wave), noon):
        log = broken.log.to_pandas()
        fresh = log[~log["item"].isin(set(clean.log["item"].to_pylist())) & log["f_ad_ctr"].isna()]
        assert len(fresh) > 0.02 * len(log)
        assert fresh["f_ad_log_price"].notna().all()
        assert (fresh["f_campaign_id"] > 0).all()


def test_fewer_requests_are_fewer_everywhere(plant: Plant, noon: int) -> None:
    half = bug("traffic", ("requests",), lambda rows, dose, scene: rows.filter(
        pa.array(uniform(scene.seed, rows["request_id"].to_numpy()) < 0.5)))  # fmt: skip
    for clean, broken in run(plant, half, noon):
        assert set(broken.log["request"].to_pylist()) < set(clean.log["request"].to_pylist())
        books = [{(r["stream"], r["stage"]): r["rows"] for r in w.books.to_pylist()} for w in (clean, broken)]
        for stream in ("requests", "impressions"):
            assert books[1][stream, "accepted"] < 0.7 * books[0][stream, "accepted"]
