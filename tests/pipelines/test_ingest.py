"""Ingestion: every row accounted for, each event once, bad files kept apart, and doing it again changes nothing."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.parquet as pq
import pytest
from landed_log import FIRST_DAY_US, SPEC, day_of, land, land_days, log_of_day, times

from features.click_matching import WAIT_DAYS
from features.schemas import CLICKS
from infra import branch
from infra.clock import DAY_US, HOUR_US
from infra.errors import ExplainedError
from infra.home import Home, ReadOnlyHome
from infra.lake import Lake
from pipelines.ingest import ingest_all, ingest_day, ingested_days
from pipelines.landing import UnreadableFile, read


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def content(home: Home) -> dict[str, pa.Table]:
    lake = Lake.of(home)
    return {name: lake.read(name) for name in lake.tables()}


def click(home: Home, day: int, click_id: int, impression_id: int, name: str = "more.parquet") -> None:
    """Land one click that was made and arrived at noon."""
    noon = times(np.array([FIRST_DAY_US + day * DAY_US + 12 * HOUR_US]))
    land(home, "clicks", day, pa.table([[click_id], [impression_id], noon, noon], schema=CLICKS), name)


def an_impression(day: int) -> int:
    """The first impression of a day: shown before noon."""
    return log_of_day(day)["impressions"]["impression_id"][0].as_py()


def quarantine(home: Home) -> list[dict[str, object]]:
    return Lake.of(home).read("quarantine").to_pylist()


def test_what_lands_is_in_the_lake_by_day_and_counted(home: Home) -> None:
    land_days(home, 2)
    counts = ingest_all(home, SPEC, progress=False)
    assert [c.day for c in counts] == ingested_days(home) == [day_of(0), day_of(1)]
    for number, found in enumerate(counts):
        for stream, landed in log_of_day(number).items():
            stored = Lake.of(home).read(stream, landed.column_names, [day_of(number)])
            assert stored.equals(landed)
            one = found.streams[stream]
            assert (one.files, one.delivered, one.accepted, one.rows_in) == (1, len(landed), len(landed), len(landed))
    assert counts[0].total().accepted == sum(len(t) for t in log_of_day(0).values())
    assert quarantine(home) == []


def test_doing_it_again_writes_nothing_and_reports_the_same(home: Home) -> None:
    land_days(home, 3)
    click(home, 1, 5, an_impression(2))
    first, versions = ingest_all(home, SPEC, progress=False), Lake.of(home).versions()
    assert ingest_all(home, SPEC, progress=False) == first
    assert [ingest_day(home, SPEC, day_of(number)) for number in (1, 0, 2)] == [first[1], first[0], first[2]]
    assert Lake.of(home).versions() == versions


def test_a_day_done_over_from_its_files_gives_the_same_tables(home: Home) -> None:
    land_days(home, 3)
    click(home, 1, 5, an_impression(2))
    first, before = ingest_all(home, SPEC, progress=False), content(home)
    for number in (1, 2, 0):  # as after a run that was killed before it could say that the day was complete
        Lake.of(home).replace_day("ingests", day_of(number), Lake.of(home).read("ingests", days=[]))
    assert ingest_all(home, SPEC, progress=False) == first
    assert content(home) == before


def test_day_by_day_equals_all_at_once(home: Home, tmp_path: Path) -> None:
    other = Home(tmp_path / "other")
    for where in (home, other):
        land_days(where, 3)
        click(where, 0, 5, an_impression(2))
    daily = [ingest_day(home, SPEC, day_of(number)) for number in range(3)]
    assert daily == ingest_all(other, SPEC, progress=False)
    assert content(home) == content(other)


def test_days_go_in_order(home: Home) -> None:
    land_days(home, 2)
    with pytest.raises(ExplainedError, match=rf"{day_of(0)} was landed but never ingested"):
        ingest_day(home, SPEC, day_of(1))


def test_an_event_delivered_again_counts_once(home: Home) -> None:
    land_days(home, 4)
    for stream, table in log_of_day(0).items():
        land(home, stream, 0, table.slice(0, 1), "again.parquet")  # the same day
    late = log_of_day(0)["clicks"].set_column(
        3, "arrived_at", times(np.full(len(log_of_day(0)["clicks"]), FIRST_DAY_US + 3 * DAY_US))
    )
    land(home, "clicks", 3, late, "again.parquet")  # three days later
    counts = ingest_all(home, SPEC, progress=False)
    assert [c.duplicates for c in counts[0].streams.values()] == [1] * 5
    assert counts[3].streams["clicks"].duplicates == len(late)
    for stream in SPEC.streams:
        assert len(Lake.of(home).read(stream)) == sum(len(log_of_day(n)[stream]) for n in range(4))


def test_a_click_waits_for_its_impression(home: Home) -> None:
    land_days(home, 3)
    impression = log_of_day(2)["impressions"].slice(0, 1)
    early = FIRST_DAY_US + 12 * HOUR_US  # shown on day 0, though the log of impressions came on day 2
    impression = impression.set_column(2, impression.schema.field(2), times(np.array([early])))
    land(home, "impressions", 2, pa.concat_tables([impression, log_of_day(2)["impressions"].slice(1)]))
    click(home, 0, 5, an_impression(2))
    click(home, 1, 5, an_impression(2))  # delivered again while it waits
    days = [c.streams["clicks"] for c in ingest_all(home, SPEC, progress=False)]
    assert [(c.carried, c.pending, c.duplicates) for c in days] == [(0, 1, 0), (1, 1, 1), (1, 0, 0)]
    clicks = Lake.of(home).read("clicks").to_pylist()
    found = next(c for c in clicks if c["click_id"] == 5)
    assert (found["day"], found["arrived_at"]) == (day_of(2), impression["arrived_at"][0].as_py())
    assert Lake.of(home).read("pending")["day"].to_pylist() == [day_of(0), day_of(1)]


def test_a_click_whose_impression_never_comes_is_refused_in_the_end(home: Home) -> None:
    land_days(home, WAIT_DAYS + 2)
    click(home, 0, 5, 424_242)
    days = [c.streams["clicks"] for c in ingest_all(home, SPEC, progress=False)]
    assert [c.pending for c in days] == [1] * WAIT_DAYS + [0, 0]
    assert [c.quarantined for c in days] == [0] * WAIT_DAYS + [1, 0]
    (refused,) = quarantine(home)
    assert (refused["file"], refused["row"], refused["value"]) == (f"clicks/day={day_of(0)}/more.parquet", 0, "424242")
    assert refused["day"] == day_of(WAIT_DAYS)


def cut(path: Path, keep: float) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])


@pytest.mark.parametrize(
    ("name", "spoil", "says"),
    [
        ("bad.parquet", lambda path: path.write_bytes(b""), "the file is empty"),
        ("bad.parquet", lambda path: path.write_bytes(b"\x00\xff" * 500), "not a whole parquet file"),
        ("bad.parquet", lambda path: cut(path, 0.6), "not a whole parquet file"),
        ("bad.parquet", lambda path: cut(path, 0.99), "not a whole parquet file"),
        ("bad.json", lambda path: path.write_text("{}"), ".json is not read here"),
        ("bad.csv", lambda path: path.write_text("click_id,impression_id\n1"), "not a whole csv file"),
        ("bad.csv", lambda path: path.write_text("click_id,impression_id\n1,2\n"), "column 'arrived_at' is missing"),
        ("bad.csv", lambda path: path.write_bytes(b"\xff\xfeclick_id\n1"), "not a whole csv file"),
        ("bad.parquet", lambda path: pq.write_table(log_of_day(0)["users"], path), "column 'click_id' is missing"),
        ("bad.parquet", lambda path: pq.write_table(CLICKS.empty_table().append_column("x", [[]]), path), "'x' is unknown"),
        ("bad.parquet", lambda path: pq.write_table(pa.table({"click_id": [[1]]}), path), "is missing"),
    ],
)  # fmt: skip
def test_a_bad_file_is_set_aside_and_the_good_ones_go_in(
    home: Home, name: str, spoil: Callable[[Path], object], says: str
) -> None:
    land_days(home, 1)
    path = land(home, "clicks", 0, log_of_day(0)["clicks"].slice(0, 8), name)
    spoil(path)
    counts = ingest_day(home, SPEC, day_of(0))
    clicks = counts.streams["clicks"]
    assert (clicks.files, clicks.refused_files, clicks.accepted) == (2, 1, len(log_of_day(0)["clicks"]))
    (refused,) = quarantine(home)
    assert (refused["stream"], refused["file"], refused["row"]) == ("clicks", f"clicks/day={day_of(0)}/{name}", None)
    assert str(refused["reason"]).startswith(str(refused["file"]))
    assert says in str(refused["reason"])


def test_a_file_that_was_put_right_changes_its_day_and_those_after_it(home: Home, tmp_path: Path) -> None:
    land_days(home, 3)
    click(home, 1, 5, an_impression(0))
    path = land(home, "impressions", 0, log_of_day(0)["impressions"])
    whole = path.read_bytes()
    cut(path, 0.5)
    broken = ingest_all(home, SPEC, progress=False)
    assert broken[1].streams["clicks"].pending > 0
    path.write_bytes(whole)
    mended = ingest_all(home, SPEC, progress=False)
    other = Home(tmp_path / "other")
    land_days(other, 3)
    click(other, 1, 5, an_impression(0))
    assert mended == ingest_all(other, SPEC, progress=False)
    assert content(home) == content(other)


def test_csv_files_are_read_like_parquet(home: Home, tmp_path: Path) -> None:
    other = Home(tmp_path / "other")
    for stream, table in log_of_day(0).items():
        land(other, stream, 0, table)
        path = home.writing(home.landing / stream / f"day={day_of(0)}/part-0.csv")
        pcsv.write_csv(table, path)
    assert ingest_all(home, SPEC, progress=False) == ingest_all(other, SPEC, progress=False)
    assert {k: v for k, v in content(home).items() if k != "ingests"} == {
        k: v for k, v in content(other).items() if k != "ingests"
    }


def test_a_csv_keeps_bad_bytes_and_bad_numbers_in_quarantine(home: Home) -> None:
    land_days(home, 1)
    path = home.writing(home.landing / "users" / f"day={day_of(0)}/more.csv")
    at = "2026-01-05 01:00:00Z"
    rows = [
        f"{n},{at},{at},{age},".encode() + country for n, age, country in ((7, 30, b"NL"), (8, "old", b"NL"), (9, "", b"\xff"))
    ]
    path.write_bytes(b"\n".join([b"user_id,event_timestamp,arrived_at,user_age,user_country", *rows, b""]))
    counts = ingest_day(home, SPEC, day_of(0))
    assert (counts.streams["users"].accepted, counts.streams["users"].quarantined) == (2, 2)
    found = {(r["row"], r["field"], r["value"]) for r in quarantine(home)}
    assert found == {(1, "user_age", "old"), (2, "user_country", r"\xff")}


def test_rows_of_another_day_or_the_future_are_quarantined_with_their_content(home: Home) -> None:
    land_days(home, 1)
    for name, at in (("future.parquet", FIRST_DAY_US + DAY_US), ("past.parquet", FIRST_DAY_US - 1)):
        when = times(np.array([at]))
        land(home, "clicks", 0, pa.table([[at], [an_impression(0)], when, when], schema=CLICKS), name)
    counts = ingest_day(home, SPEC, day_of(0))
    assert counts.streams["clicks"].quarantined == 2
    future, past = quarantine(home)
    assert "lies in the future" in str(future["reason"])
    assert "belongs in that day's folder" in str(past["reason"])
    assert json.loads(str(future["content"]))["click_id"] == FIRST_DAY_US + DAY_US


def test_files_still_being_written_are_left_alone(home: Home) -> None:
    land_days(home, 1)
    for name in ("part-1.parquet.tmp", ".part-1.parquet", "_part-1.parquet"):
        (home.landing / "clicks" / f"day={day_of(0)}" / name).write_bytes(b"half")
    assert ingest_day(home, SPEC, day_of(0)).streams["clicks"].files == 1


def test_a_folder_that_names_no_day_is_an_error(home: Home) -> None:
    (home.landing / "clicks/day=5-1-2026").mkdir(parents=True)
    with pytest.raises(ExplainedError, match="day=5-1-2026: not a day"):
        ingest_all(home, SPEC, progress=False)


def test_a_file_without_suffix_is_named_as_such(tmp_path: Path) -> None:
    (tmp_path / "part").write_bytes(b"x")
    with pytest.raises(UnreadableFile, match="without suffix"):
        read(tmp_path / "part")


def test_a_stream_may_be_quiet_for_a_day(home: Home) -> None:
    land_days(home, 2)
    for path in (home.landing / "clicks").rglob("*.parquet"):
        path.unlink()
    counts = ingest_all(home, SPEC, progress=False)
    assert counts[0].streams["clicks"].rows_in == 0
    assert len(Lake.of(home).read("clicks")) == 0


def test_a_drill_ingests_into_its_branch_only(home: Home) -> None:
    land_days(home, 2)
    ingest_all(home, SPEC, progress=False)
    before = branch.fingerprint(home)
    base = Home(home.root, writable=False)
    drill = branch.create(base, "drill")
    click(drill, 1, 5, an_impression(0))
    assert ingest_all(drill, SPEC, progress=False)[1].streams["clicks"].accepted == len(log_of_day(1)["clicks"]) + 1
    land(drill, "clicks", 2, CLICKS.empty_table())
    with pytest.raises(ReadOnlyHome):
        land(base, "clicks", 2, CLICKS.empty_table())
    assert branch.fingerprint(home) == before


def test_a_read_only_home_is_not_ingested_into(home: Home) -> None:
    land_days(home, 1)
    with pytest.raises(ReadOnlyHome):
        ingest_all(Home(home.root, writable=False), SPEC, progress=False)
    assert not home.lake.exists()
