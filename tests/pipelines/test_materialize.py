"""From lake days to snapshots, and on to the online store."""

from pathlib import Path

import made_up_lake
import numpy as np
import pyarrow as pa
import pytest

from features import snapshots
from features.catalogue import VIEWS
from features.online_store import open_store
from infra.clock import DAY_US, HOUR_US
from infra.errors import ExplainedError
from infra.home import Home
from infra.lake import Lake
from pipelines.materialize import lake_days, materialize_all, materialize_day, materialize_online, newest_rows


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made_up_lake.fill(Home(tmp_path), days=3, impressions=120)
    return Home(tmp_path)


SPEC = made_up_lake.spec(3)


def contents(home: Home) -> dict[str, str]:
    return {view.name: snapshots.version(home, view.name) for view in VIEWS}


def test_doing_a_day_again_gives_the_same_files(home: Home):
    materialize_all(home, SPEC, progress=False)
    before = contents(home)
    for day in lake_days(Lake.of(home)):
        materialize_day(home, SPEC, day)
    assert contents(home) == before


def test_days_that_are_done_are_not_done_again(home: Home):
    assert len(materialize_all(home, SPEC, progress=False)) == 3
    assert materialize_all(home, SPEC, progress=False) == []


def test_an_interrupted_run_is_completed(home: Home, tmp_path_factory: pytest.TempPathFactory):
    other = Home(tmp_path_factory.mktemp("other"))
    made_up_lake.fill(other, days=3, impressions=120)
    materialize_all(other, SPEC, progress=False)

    def die(name: str, rows: pa.Table) -> pa.Table:
        if name == "campaign_daily":
            raise KeyboardInterrupt
        return rows

    first, second, _ = lake_days(Lake.of(home))
    materialize_day(home, SPEC, first)
    with pytest.raises(KeyboardInterrupt):
        materialize_day(home, SPEC, second, die)
    materialize_all(home, SPEC, progress=False)
    assert contents(home) == contents(other)


def test_a_day_needs_the_day_before(home: Home):
    with pytest.raises(ExplainedError, match="2026-01-08"):
        materialize_day(home, SPEC, "2026-01-09")


def test_an_empty_lake_says_what_to_do(tmp_path: Path):
    with pytest.raises(ExplainedError, match="clickproof ingest"):
        materialize_all(Home(tmp_path), SPEC, progress=False)


def test_a_drills_rewrite_reaches_the_files_but_not_the_next_day(home: Home, tmp_path_factory: pytest.TempPathFactory):
    other = Home(tmp_path_factory.mktemp("other"))
    made_up_lake.fill(other, days=3, impressions=120)
    materialize_all(other, SPEC, progress=False)
    first, second, third = lake_days(Lake.of(home))
    materialize_day(home, SPEC, first)
    materialize_day(home, SPEC, second, lambda name, rows: rows.slice(0, 1) if name == "user_daily" else rows)
    materialize_day(home, SPEC, third)
    assert snapshots.read(home, "user_daily", second).num_rows == 1
    one, two = (snapshots.day_path(which, "user_daily", third).read_bytes() for which in (home, other))
    assert one == two


def test_every_day_has_a_row_for_every_entity_ever_seen(home: Home):
    materialize_all(home, SPEC, progress=False)
    shown = Lake.of(home).read("impressions")
    seen: set[int] = set()
    for day in lake_days(Lake.of(home)):
        seen |= set(shown.filter(pa.compute.equal(shown["day"], day))["user_id"].to_pylist())
        assert set(snapshots.read(home, "user_daily", day)["user_id"].to_pylist()) == seen


def test_a_source_without_users_and_campaigns_gets_only_its_own_views(tmp_path: Path):
    home = Home(tmp_path)
    made_up_lake.fill(home, days=2, impressions=60)
    lake = Lake.of(home)
    shown = lake.read("impressions")
    bare = Home(tmp_path / "bare")
    nobody = pa.nulls(shown.num_rows, pa.int64())
    Lake.of(bare).append("impressions", shown.set_column(shown.column_names.index("user_id"), "user_id", nobody))
    Lake.of(bare).append("clicks", lake.read("clicks"))
    spec = SPEC.__class__(
        "bare", ("ad", "placement"), ("placement",), ("impressions", "clicks"), SPEC.split, SPEC.first_day_us, 2, False
    )
    counts = materialize_all(bare, spec, progress=False)
    assert set(counts[0].rows) == {"ad_profile", "ad_daily", "placement_daily"}
    assert counts[-1].rows["ad_profile"] == 0
    assert counts[-1].rows["ad_daily"] > 0


def test_marks_say_what_is_complete(home: Home):
    materialize_all(home, SPEC, progress=False)
    assert snapshots.manifest(home, "user_recent").num_rows == 3 * 288
    daily = snapshots.manifest(home, "ad_daily")
    assert daily["snapshot"].to_pylist() == [20260108, 20260109, 20260110]
    ends = made_up_lake.FIRST_US + np.arange(1, 4) * DAY_US
    np.testing.assert_array_equal(snapshots.times_us(daily["event_timestamp"]), ends)
    np.testing.assert_array_equal(snapshots.times_us(daily["available_at"]), ends + HOUR_US // 2)


def test_the_online_store_is_fed_with_what_is_visible_and_never_goes_back(home: Home):
    materialize_all(home, SPEC, progress=False)
    noon = made_up_lake.FIRST_US + 2 * DAY_US + 12 * HOUR_US
    written = materialize_online(home, SPEC, noon)
    assert set(written) == {view.name for view in VIEWS}
    for view in VIEWS:
        rows = newest_rows(home, view, noon)
        assert (snapshots.times_us(rows["available_at"]) <= noon).all()
        assert written[view.name] == rows.num_rows
    store = open_store(home)
    assert store.marks()["ad_daily"].snapshot == 20260109
    again = materialize_online(home, SPEC, noon - DAY_US)
    assert again["ad_daily"] == 0
    assert store.marks()["ad_daily"].snapshot == 20260109
    store.close()
