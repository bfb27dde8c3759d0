"""The lake: atomic, exactly once, pruned by day, read in one order, closed to drills."""

from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, SchemaMismatchError

from features.schemas import CLICKS, TIME
from infra.clock import to_datetime
from infra.home import Home, ReadOnlyHome
from infra.lake import Lake, MissingTable, watermark_us
from infra.settings import Settings, use

NOON = 1_767_614_400_000_000  # 2026-01-05 12:00


def clicks(*ids: int, day: str | None = None, at: int = NOON) -> pa.Table:
    times = pa.array([at] * len(ids), TIME)
    table = pa.table([pa.array(ids, pa.int64()), pa.array(ids, pa.int64()), times, times], schema=CLICKS)
    return table if day is None else table.append_column("day", pa.array([day] * len(ids), pa.string()))


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake")


def ids(lake: Lake, days: list[str] | None = None) -> list[int]:
    return lake.read("clicks", ["click_id"], days)["click_id"].to_pylist()


def test_appended_rows_come_back_with_types_and_nullability(lake: Lake) -> None:
    rows = clicks(1, 2, day="2026-01-05")
    assert lake.append("clicks", rows)
    assert lake.read("clicks").select(CLICKS.names).equals(rows.select(CLICKS.names))
    assert lake.read("clicks").schema.field("click_id") == CLICKS.field("click_id")


def test_a_transaction_is_applied_once(lake: Lake) -> None:
    assert lake.append("clicks", clicks(1, day="2026-01-05"), ("log", 0))
    assert not lake.append("clicks", clicks(1, day="2026-01-05"), ("log", 0))
    assert lake.append("clicks", clicks(2, day="2026-01-05"), ("log", 3))
    assert not lake.append("clicks", clicks(3, day="2026-01-05"), ("log", 2))  # a later one is there
    assert lake.append("clicks", clicks(4, day="2026-01-05"), ("other", 0))
    assert ids(lake) == [1, 2, 4]
    assert (lake.committed("clicks", "log"), lake.committed("clicks", "nobody"), lake.committed("nothing", "log")) == (
        3,
        -1,
        -1,
    )


def test_of_two_writers_with_one_transaction_one_wins(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    lake.append("clicks", clicks(1, day="2026-01-05"), ("log", 1))
    stale = [lake._open("clicks")]  # the loser looked at the table before the winner committed
    lake.append("clicks", clicks(2, day="2026-01-05"), ("log", 2))
    real = lake._open
    monkeypatch.setattr(lake, "_open", lambda table: stale.pop() if stale else real(table))
    assert not lake.append("clicks", clicks(2, day="2026-01-05"), ("log", 2))
    assert ids(lake) == [1, 2]


def test_replacing_a_day_is_idempotent_and_leaves_other_days(lake: Lake) -> None:
    lake.replace_day("clicks", "2026-01-05", clicks(1, 2))
    lake.replace_day("clicks", "2026-01-06", clicks(3))
    for _ in range(2):
        lake.replace_day("clicks", "2026-01-05", clicks(7, 8, 9))
    assert ids(lake) == [7, 8, 9, 3]
    lake.replace_day("clicks", "2026-01-05", clicks())
    assert ids(lake) == [3]
    assert lake.days("clicks") == ["2026-01-06"]


def test_replacing_nothing_by_nothing_makes_no_commit(lake: Lake) -> None:
    lake.replace_day("clicks", "2026-01-05", clicks())
    version = lake.version("clicks")
    lake.replace_day("clicks", "2026-01-06", clicks())
    assert lake.version("clicks") == version == 0
    assert len(lake.read("clicks")) == 0


def test_a_row_of_another_day_does_not_get_in(lake: Lake) -> None:
    lake.replace_day("clicks", "2026-01-05", clicks(1))
    with pytest.raises(DeltaError, match="validation"):
        lake.replace_day("clicks", "2026-01-05", clicks(2, day="2026-01-06"))
    assert ids(lake) == [1]


@pytest.mark.parametrize("day", ["2026-1-5", "20260105", "x' OR day <> 'x"])
def test_a_day_has_one_way_of_writing(lake: Lake, day: str) -> None:
    with pytest.raises(ValueError):
        lake.replace_day("clicks", day, clicks(1))


def test_columns_may_come_in_any_order_but_must_be_the_tables(lake: Lake) -> None:
    rows = clicks(1, day="2026-01-05")
    lake.append("clicks", rows)
    lake.append("clicks", clicks(2, day="2026-01-05").select(rows.column_names[::-1]))
    assert ids(lake) == [1, 2]
    wider = clicks(3, day="2026-01-05").append_column("colour", pa.array(["red"]))
    with pytest.raises(SchemaMismatchError):
        lake.append("clicks", wider)
    lake.append("clicks", wider, widen=True)
    assert lake.read("clicks")["colour"].to_pylist() == [None, None, "red"]
    with pytest.raises(ValueError, match="no column `day`"):
        lake.append("clicks", clicks(1))


def test_only_the_asked_days_are_read(lake: Lake, tmp_path: Path) -> None:
    for number in (3, 1, 2):
        lake.replace_day("clicks", f"2026-01-0{number}", clicks(number))
    for file in (tmp_path / "lake/clicks/day=2026-01-03").glob("*.parquet"):
        file.unlink()  # reading it would fail
    assert ids(lake, ["2026-01-02", "2026-01-01"]) == [1, 2]
    assert ids(lake, []) == []


def test_rows_come_in_order_of_day_and_commit(lake: Lake) -> None:
    for number in range(6):
        lake.append("clicks", clicks(number * 2, number * 2 + 1, day=f"2026-01-0{2 - number % 2}"))
    assert ids(lake) == [2, 3, 6, 7, 10, 11, 0, 1, 4, 5, 8, 9]


def test_rows_of_a_table_in_chunks_keep_their_order(lake: Lake) -> None:
    rows = clicks(*range(60_000))
    lake.replace_day(
        "clicks", "2026-01-05", pa.concat_tables([rows.slice(start, 10_000) for start in range(0, 60_000, 10_000)])
    )
    assert ids(lake) == list(range(60_000))


def stream(*parts: pa.Table) -> pa.RecordBatchReader:
    return pa.RecordBatchReader.from_batches(CLICKS, (batch for part in parts for batch in part.to_batches()))


def test_rows_of_a_reader_replace_a_day_in_their_order_and_one_commit(lake: Lake) -> None:
    lake.replace_day("clicks", "2026-01-04", clicks(1))
    lake.replace_day("clicks", "2026-01-05", clicks(2))
    many = [clicks(*range(start, start + 5000)) for start in range(100_000, 0, -5000)]
    assert lake.replace_day("clicks", "2026-01-05", stream(*many), ("scorer", 1))
    assert lake.version("clicks") == 2
    wanted = [i for start in range(100_000, 0, -5000) for i in range(start, start + 5000)]
    assert ids(lake) == [1, *wanted]
    assert not lake.replace_day("clicks", "2026-01-05", stream(clicks(9)), ("scorer", 1))
    assert lake.replace_day("clicks", "2026-01-05", stream())
    assert ids(lake) == [1]
    assert lake.days("clicks") == ["2026-01-04"]


def test_a_reader_that_fails_leaves_the_day_and_the_disk_as_they_were(lake: Lake) -> None:
    def failing() -> Iterator[pa.RecordBatch]:
        yield clicks(2).to_batches()[0]
        raise RuntimeError("the join failed")

    lake.replace_day("clicks", "2026-01-05", clicks(1))
    files = sorted(Path(lake.url).rglob("*.parquet"))
    with pytest.raises(RuntimeError, match="the join failed"):
        lake.replace_day("clicks", "2026-01-05", pa.RecordBatchReader.from_batches(CLICKS, failing()))
    with pytest.raises(ValueError, match="no fit"):
        lake.replace_day("clicks", "2026-01-05", clicks(3).select(["click_id"]).to_reader())
    assert (ids(lake), sorted(Path(lake.url).rglob("*.parquet"))) == ([1], files)


@pytest.mark.parametrize("filled", [False, True])
@pytest.mark.parametrize("streamed", [False, True])
def test_of_two_writers_of_one_day_the_later_replaces_the_earlier(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, filled: bool, streamed: bool
) -> None:
    lake.replace_day("clicks", "2026-01-04", clicks(1))
    if filled:
        lake.replace_day("clicks", "2026-01-05", clicks(2))
    stale = [DeltaTable(lake._uri("clicks"))]  # the loser looked at the table before the winner committed
    lake.replace_day("clicks", "2026-01-05", stream(clicks(3, 4)) if streamed else clicks(3, 4))
    real = lake._open
    monkeypatch.setattr(lake, "_open", lambda table: stale.pop() if stale else real(table))
    lake.replace_day("clicks", "2026-01-05", stream(clicks(5, 6)) if streamed else clicks(5, 6))
    assert not stale
    assert ids(lake) == [1, 5, 6]


def test_duckdb_reads_a_scan_and_filters_to_the_microsecond(lake: Lake) -> None:
    lake.replace_day("clicks", "2026-01-05", clicks(1, at=NOON + 1_234_999))
    scan = lake.scan("clicks")
    with duckdb.connect() as db:
        db.register("clicks", scan)
        assert db.sql("SELECT count(*) FROM clicks WHERE day = '2026-01-05'").fetchall() == [(1,)]
    just_before = pa.scalar(NOON + 1_234_998, TIME)  # statistics in the Delta log are in milliseconds, and must not lose rows
    assert scan.count_rows(filter=pc.field("arrived_at") > just_before) == 1


def test_a_missing_table_names_the_command_that_makes_it(lake: Lake) -> None:
    with pytest.raises(MissingTable, match=r"no table 'clicks'.*`clickproof ingest`"):
        lake.read("clicks")
    assert (lake.version("clicks"), lake.days("clicks"), lake.tables(), lake.versions()) == (-1, [], [], {})
    assert not Path(lake.url).exists()


def test_a_read_only_home_refuses_every_write(tmp_path: Path) -> None:
    Lake.of(Home(tmp_path)).append("clicks", clicks(1, day="2026-01-05"))
    closed = Lake.of(Home(tmp_path, writable=False))
    with pytest.raises(ReadOnlyHome):
        closed.append("clicks", clicks(2, day="2026-01-05"))
    with pytest.raises(ReadOnlyHome):
        closed.replace_day("clicks", "2026-01-05", clicks())
    assert ids(closed) == [1]


def test_tables_survive_checkpoints(lake: Lake) -> None:
    for number in range(105):  # a checkpoint is written every 100 commits
        lake.append("clicks", clicks(number, day="2026-01-05"), ("log", number))
    assert ids(lake) == list(range(105))
    assert lake.committed("clicks", "log") == 104


def test_a_url_in_the_settings_is_the_base_homes_lake_and_nobody_elses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infra.settings._in_use", [])
    use(Settings(home=tmp_path / "state", lake_url=f"file://{tmp_path}/store"))
    base = Settings(home=tmp_path / "state").base()
    lake = Lake.of(base)
    (tmp_path / "store" / base.root.name).mkdir(parents=True)
    lake.replace_day("clicks", "2026-01-05", clicks(1))
    assert (tmp_path / "store" / base.root.name / "clicks/_delta_log").is_dir()
    assert lake.versions() == {"clicks": 0}
    assert not base.lake.exists()
    assert Lake.of(Home(base.branches / "drill")).tables() == []


def test_the_watermark_is_the_latest_stamp_of_events_and_features(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with pytest.raises(MissingTable, match="clickproof ingest"):
        watermark_us(home)
    lake = Lake.of(home)
    lake.replace_day("clicks", "2026-01-04", clicks(1, at=NOON - 5))
    lake.replace_day("clicks", "2026-01-05", clicks(2, at=NOON + 7))
    assert watermark_us(home) == NOON + 7
    for number, later in ((4, 1), (5, 99)):
        file = home.features / "_manifest/user_daily" / f"day=2026-01-0{number}.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"available_at": pa.array([to_datetime(NOON + later)], TIME)}), file)
    assert watermark_us(home) == NOON + 99
