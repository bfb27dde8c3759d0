"""Clicks that the endpoint took reach landing, and through it the lake, exactly once."""

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from landed_log import FIRST_DAY_US, SPEC, day_of, land_days, log_of_day

from features.schemas import CLICKS
from infra.clock import DAY_US, HOUR_US
from infra.errors import ExplainedError
from infra.home import Home, ReadOnlyHome
from infra.lake import Lake
from pipelines import event_ingest, landing
from pipelines.event_ingest import LandedClicks, land_clicks
from pipelines.ingest import ingest_all
from serving.event_log import Click, Clicks, EventLog, segments

NOON_US = FIRST_DAY_US + 12 * HOUR_US


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def record(first: int, count: int = 3, at_us: int = NOON_US) -> Clicks:
    return Clicks(at_us, [Click(number, 10_000 + number, at_us - 5) for number in range(first, first + count)])


def write(home: Home, records: list[Clicks], segment_bytes: int = 1 << 30) -> EventLog:
    log = EventLog(home, segment_bytes)
    for each in records:
        log.append(each)
    log.close()
    return log


def landed(home: Home) -> list[tuple[str, int]]:
    """(day, click id) of every landed row, in the order of files."""
    days = landing.days(home, ["clicks"])
    return [
        (day, number)
        for day in days
        for path in landing.files(home, "clicks", day)
        for number in landing.read(path)["click_id"].to_pylist()
    ]


def test_files_are_as_deliveries_are_and_pass_the_contract(home: Home) -> None:
    land_days(home, 2)
    shown = log_of_day(0)["impressions"]["impression_id"].to_pylist()[:20]
    taken = Clicks(FIRST_DAY_US + DAY_US + HOUR_US, [Click(n, i, FIRST_DAY_US + DAY_US) for n, i in enumerate(shown)])
    write(home, [taken])
    assert land_clicks(home) == LandedClicks(20, 1, 0)
    (path,) = (p for p in landing.files(home, "clicks", day_of(1)) if p.name.startswith("events-"))
    assert landing.read(path).schema.equals(CLICKS)
    counts = ingest_all(home, SPEC, progress=False)[1].streams["clicks"]
    delivered = len(log_of_day(1)["clicks"])
    assert (counts.files, counts.delivered, counts.quarantined) == (2, delivered + 20, 0)
    rows = Lake.of(home).read("clicks", days=[day_of(1)]).filter(pa.compute.less(pa.compute.field("click_id"), 20))
    assert sorted(rows["impression_id"].to_pylist()) == sorted(shown)
    assert set(rows["arrived_at"].cast(pa.int64()).to_pylist()) == {taken.arrived_us}


def test_doing_it_again_lands_nothing_and_goes_on_where_it_stopped(home: Home) -> None:
    log = EventLog(home)
    log.append(record(0))
    assert land_clicks(home) == LandedClicks(3, 1, 0)
    assert land_clicks(home) == LandedClicks(0, 0, 0)
    log.append(record(3))
    log.append(record(6))
    log.close()
    write(home, [record(9)])
    assert land_clicks(home) == LandedClicks(9, 2, 0)
    assert [number for _, number in landed(home)] == list(range(12))


def test_a_segment_that_runs_past_midnight_lands_on_both_days(home: Home) -> None:
    midnight = FIRST_DAY_US + DAY_US
    write(home, [record(0, at_us=midnight - 1), record(3, at_us=midnight), record(6, at_us=midnight - 1)])  # a clock set back
    assert land_clicks(home) == LandedClicks(9, 3, 0)
    assert landed(home) == [(day_of(0), n) for n in (0, 1, 2, 6, 7, 8)] + [(day_of(1), n) for n in (3, 4, 5)]
    assert land_clicks(home) == LandedClicks(0, 0, 0)


@settings(deadline=None, max_examples=25)
@given(st.data())
def test_wherever_runs_begin_and_end_every_click_lands_once(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    home = Home(tmp_path_factory.mktemp("any"))
    log = EventLog(home, segment_bytes=data.draw(st.sampled_from([40, 200, 1 << 20])))
    number = 0
    for _ in range(data.draw(st.integers(1, 25))):
        if data.draw(st.booleans()):
            log.append(record(number, 2, NOON_US + data.draw(st.integers(0, 2)) * DAY_US))
            number += 2
        else:
            land_clicks(home, chunk_bytes=data.draw(st.sampled_from([1, 60, 1 << 20])))
    log.close()
    land_clicks(home)
    assert sorted(n for _, n in landed(home)) == list(range(number))


def test_a_torn_tail_waits_and_is_landed_when_it_is_whole(home: Home) -> None:
    path = write(home, [record(0), record(3)]).path
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    assert land_clicks(home) == LandedClicks(3, 1, len(whole) // 2 - 5)
    path.write_bytes(whole)
    assert land_clicks(home) == LandedClicks(3, 1, 0)


def test_a_segment_that_was_cut_is_an_error_that_says_so(home: Home) -> None:
    path = write(home, [record(0)]).path
    land_clicks(home)
    os.truncate(path, 10)
    with pytest.raises(ExplainedError, match="was cut or replaced"):
        land_clicks(home)


def test_no_log_is_nothing_to_do_and_a_base_is_not_written(home: Home) -> None:
    assert land_clicks(home) == LandedClicks(0, 0, 0)
    assert not home.root.exists()
    write(home, [record(0)])
    with pytest.raises(ReadOnlyHome):
        land_clicks(Home(home.root, writable=False))


@pytest.fixture(scope="module")
def processes() -> multiprocessing.context.ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pipelines.event_ingest"])
    return context


def die_at(root: Path, file: int, moment: str) -> None:
    """Land, and kill this process when its file number `file` is half written, is whole, or has just got its name."""
    real_write, real_replace, files = event_ingest.pq.write_table, os.replace, iter(range(10**6))
    mine: list[bool] = []

    def write_table(table: pa.Table, path: Path, **options: Any) -> None:
        mine.append(next(files) == file)
        real_write(table, path, **options)
        if mine[-1] and moment == "half":
            os.truncate(path, path.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    def replace(old: Path, new: Path) -> None:
        if mine[-1] and moment == "whole":
            os.kill(os.getpid(), signal.SIGKILL)
        real_replace(old, new)
        if mine[-1] and moment == "named":
            os.kill(os.getpid(), signal.SIGKILL)

    event_ingest.pq.write_table, event_ingest.os.replace = write_table, replace
    land_clicks(Home(root), chunk_bytes=1)


@pytest.mark.parametrize("moment", ["half", "whole", "named"])
@pytest.mark.parametrize("file", range(4))
def test_killed_around_every_file_it_neither_loses_nor_doubles_a_click(
    home: Home, processes: multiprocessing.context.ForkServerContext, file: int, moment: str
) -> None:
    log = EventLog(home)
    for number in range(4):  # over a midnight
        log.append(record(3 * number, at_us=NOON_US + number // 2 * DAY_US))
    child = processes.Process(target=die_at, args=(home.root, file, moment))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert [n for _, n in landed(home)] == list(range(3 * (file + (moment == "named"))))  # whole files only
    log.append(record(12))  # the segment went on: another run cuts it elsewhere
    log.close()
    land_clicks(home)
    assert sorted(n for _, n in landed(home)) == list(range(15))


def land_in_small_files(root: Path) -> None:
    land_clicks(Home(root), chunk_bytes=1)


def test_two_runs_at_once_do_not_double_clicks(home: Home, processes: multiprocessing.context.ForkServerContext) -> None:
    write(home, [record(3 * number) for number in range(30)])
    runs = [processes.Process(target=land_in_small_files, args=(home.root,)) for _ in range(2)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
        assert run.exitcode == 0
    assert [n for _, n in landed(home)] == list(range(90))


def test_what_came_twice_is_counted_as_a_duplicate(home: Home) -> None:
    land_days(home, 1)
    shown = log_of_day(0)["impressions"]["impression_id"].to_pylist()
    last_us = FIRST_DAY_US + DAY_US - 1
    clicks = [Click(number, shown[number], last_us) for number in range(5)]
    for _ in range(2):  # two processes, or one before and after a restart
        write(home, [Clicks(last_us, clicks)])
    assert land_clicks(home) == LandedClicks(10, 2, 0)
    counts = ingest_all(home, SPEC, progress=False)[0].streams["clicks"]
    assert counts.duplicates == 5
    assert counts.rows_in == counts.accepted + counts.quarantined + counts.duplicates + counts.pending
    assert segments(home)
