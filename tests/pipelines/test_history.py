"""Landing an environment's events: by day of arrival, the same bytes again, resumed where it stopped, truth kept apart."""

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from features.schemas import KEYS
from infra.clock import DAY_US, day_name
from infra.errors import ExplainedError
from infra.home import Home, ReadOnlyHome
from pipelines.sources.contract import Requests, Slates
from pipelines.sources.history import load_state, simulate, state_path
from pipelines.sources.registry import source
from pipelines.sources.world.config import FIRST_DAY_US, WorldConfig
from pipelines.sources.world.legacy import LegacyRanker
from pipelines.sources.world.market import World
from pipelines.sources.world.source import WorldSource

STREAMS = ("requests", "impressions", "clicks", "users", "ads")


def short(seed: int = 1, days: int = 3) -> WorldSource:
    """A tiny world whose history is cut short."""
    return WorldSource(replace(WorldConfig.of("tiny", seed), days=days))


def fingerprint(home: Home) -> dict[str, str]:
    files = sorted(path for path in home.root.rglob("*") if path.is_file())
    return {str(path.relative_to(home.root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def landed(home: Home, stream: str) -> pa.Table:
    parts = sorted((home.landing / stream).glob("day=*/part-0.parquet"))
    return pa.concat_tables([pq.ParquetFile(part).read() for part in parts])


def us(table: pa.Table, name: str) -> np.ndarray:
    return table[name].cast(pa.int64()).to_numpy()


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = Home(tmp_path_factory.mktemp("history"))
    short().deliver(home, progress=False)
    return home


def test_deliver_counts_what_it_lands(history: Home) -> None:
    rows = short().deliver(history, progress=False)
    assert rows == {stream: landed(history, stream).num_rows for stream in STREAMS}
    assert all(rows.values())


def test_each_file_holds_the_arrivals_of_its_day_in_order(history: Home) -> None:
    for stream in STREAMS:
        days = sorted(path.parent.name for path in (history.landing / stream).glob("day=*/part-0.parquet"))
        assert days == [f"day={day_name(FIRST_DAY_US + day * DAY_US)}" for day in range(3)]
        for day in days:
            table = pq.ParquetFile(history.landing / stream / day / "part-0.parquet").read()
            arrived, key = us(table, "arrived_at"), table[KEYS[stream]].to_numpy()
            assert {f"day={day_name(at)}" for at in arrived} <= {day}
            assert (np.lexsort((key, arrived)) == np.arange(len(key))).all()


def test_late_events_land_on_the_day_they_arrive(history: Home) -> None:
    """Some clicks of the first day arrive on the second: they are in its file, and the counts add up."""
    second = pq.ParquetFile(history.landing / "clicks" / f"day={day_name(FIRST_DAY_US + DAY_US)}" / "part-0.parquet").read()
    of_first_day = us(second, "event_timestamp") < FIRST_DAY_US + DAY_US
    world = World(short().config)
    answers = list(simulate(world, LegacyRanker.of(world), world.config.end_us))
    clicks = pa.concat_tables([answer.clicks for answer in answers])
    at, arrives = us(clicks, "event_timestamp"), us(clicks, "arrived_at")
    crossing = (at < FIRST_DAY_US + DAY_US) & (arrives >= FIRST_DAY_US + DAY_US) & (arrives < FIRST_DAY_US + 2 * DAY_US)
    assert of_first_day.sum() == crossing.sum()
    impressions = pa.concat_tables([answer.impressions for answer in answers])
    shown, arrives = us(impressions, "event_timestamp"), us(impressions, "arrived_at")
    midnight = FIRST_DAY_US + DAY_US
    assert ((shown < midnight) & (arrives >= midnight)).sum() > 0, "otherwise this test sees no late impression"
    assert landed(history, "impressions").num_rows == (arrives < world.config.end_us).sum()


def test_nothing_lands_after_the_watermark_and_what_is_on_its_way_is_kept(history: Home) -> None:
    end_us = short().config.end_us
    for stream in STREAMS:
        assert us(landed(history, stream), "arrived_at").max() < end_us
    saved = load_state(state_path(history))
    assert saved is not None
    with pa.ipc.open_stream(pa.py_buffer(saved["late_clicks"].tobytes())) as stream:
        late = stream.read_all()
    assert late.num_rows > 0
    assert us(late, "arrived_at").min() >= end_us


def test_truth_is_only_in_truth(history: Home) -> None:
    for path in history.landing.rglob("*.parquet"):
        assert "p_true" not in pq.ParquetFile(path).schema_arrow.names
    saved = load_state(state_path(history))
    assert saved is not None
    assert not any("true" in name for name in saved)
    shown = landed(history, "impressions")
    for day in range(3):
        truth = pq.ParquetFile(history.truth / f"day={day_name(FIRST_DAY_US + day * DAY_US)}.parquet").read()
        assert truth.schema == pa.schema(
            [pa.field("impression_id", pa.int64(), False), pa.field("p_true", pa.float64(), False)]
        )
        first = FIRST_DAY_US + day * DAY_US
        at = us(shown, "event_timestamp")
        of_day = shown["impression_id"].to_numpy()[(at >= first) & (at < first + DAY_US)]
        assert np.isin(of_day, truth["impression_id"].to_numpy()).all()
        assert 0 <= truth.num_rows - len(of_day) < 0.01 * truth.num_rows, "the rest had not arrived by the watermark"


def test_delivering_again_or_elsewhere_gives_the_same_bytes(history: Home, tmp_path: Path) -> None:
    before = fingerprint(history)
    short().deliver(history, progress=False)
    assert fingerprint(history) == before
    other = Home(tmp_path)
    short().deliver(other, progress=False)
    assert fingerprint(other) == before


def test_an_interrupted_history_is_completed_to_the_same_bytes(
    history: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, renamed = Home(tmp_path), os.replace
    moves = 0

    def pulled_plug(source_path: Path, target: Path) -> None:
        nonlocal moves
        moves += 1
        if moves == 11:  # in the middle of the second day's files
            raise KeyboardInterrupt
        renamed(source_path, target)

    monkeypatch.setattr(os, "replace", pulled_plug)
    with pytest.raises(KeyboardInterrupt):
        short().deliver(home, progress=False)
    monkeypatch.undo()
    assert len(list(home.truth.glob("day=*"))) < 3
    short().deliver(home, progress=False)
    assert {k: v for k, v in fingerprint(home).items() if ".part" not in k} == fingerprint(history)


def test_a_lost_file_is_written_again(history: Home, tmp_path: Path) -> None:
    home = Home(tmp_path)
    short().deliver(home, progress=False)
    (home.landing / "clicks" / f"day={day_name(FIRST_DAY_US)}" / "part-0.parquet").unlink()
    short().deliver(home, progress=False)
    assert fingerprint(home) == fingerprint(history)


def test_a_home_refuses_another_world(history: Home) -> None:
    with pytest.raises(ExplainedError, match="another world"):
        short(seed=2).deliver(history, progress=False)


def test_extending_a_history_equals_never_having_stopped(history: Home, tmp_path: Path) -> None:
    branch = Home(tmp_path)
    before = fingerprint(history)
    shorter = short()
    end_us = shorter.config.end_us
    later_us = end_us + 2 * DAY_US
    legacy = LegacyRanker.of(shorter.environment())
    shorter.extend(branch, legacy, later_us, progress=False, start_from=history)
    assert fingerprint(history) == before, "the base stays as it was"
    assert not (branch.landing / "clicks" / f"day={day_name(FIRST_DAY_US)}").exists()
    same = shorter.environment()
    answers = list(simulate(same, legacy, later_us))
    clicks = pa.concat_tables([answer.clicks for answer in answers])
    arrived = us(clicks, "arrived_at")
    expected = (arrived >= end_us) & (arrived < later_us)
    landed_ids = set(landed(branch, "clicks")["click_id"].to_pylist())
    assert landed_ids == set(clicks["click_id"].to_numpy()[expected].tolist())
    # Going on again on the branch itself needs no other home.
    rows = shorter.extend(branch, legacy, later_us + DAY_US, progress=False)
    assert rows["clicks"] > len(landed_ids)


def test_a_drill_can_change_the_requests_and_the_policy(history: Home, tmp_path: Path) -> None:
    branch = Home(tmp_path)

    def all_mobile(requests: Requests) -> Requests:
        return replace(requests, context=requests.context | {"device": np.full(len(requests), "mobile")})

    def first_candidates(requests: Requests) -> Slates:
        n, k = requests.candidates.shape
        shown = np.tile(np.arange(4), (n, 1))
        return Slates(requests, shown, np.full((n, 4), 1 / k, np.float32), np.ones(n, bool), "drill")

    spec = short()
    spec.extend(branch, first_candidates, spec.config.end_us + DAY_US, all_mobile, progress=False, start_from=history)
    shown = landed(branch, "impressions")
    fresh = shown.filter(pc.equal(shown["policy"], "drill"))
    assert fresh.num_rows > 1000
    assert pc.unique(fresh["device"]).to_pylist() == ["mobile"]
    assert set(pc.unique(shown["policy"]).to_pylist()) == {"drill", "legacy"}, "late events of the history land here too"


def test_a_transform_may_drop_requests(tmp_path: Path) -> None:
    world = World(short().config)

    def every_other(requests: Requests) -> Requests:
        keep = slice(None, None, 2)
        context = {name: values[keep] for name, values in requests.context.items()}
        return Requests(
            requests.request_id[keep], requests.time_us[keep], requests.user_id[keep], context, requests.candidates[keep],
            requests.bids[keep],
        )  # fmt: skip

    half = sum(a.requests.num_rows for a in simulate(world, LegacyRanker.of(world), FIRST_DAY_US + DAY_US, every_other))
    full = World(short().config)
    total = sum(a.requests.num_rows for a in simulate(full, LegacyRanker.of(full), FIRST_DAY_US + DAY_US))
    assert 0.45 < half / total < 0.56


def test_a_read_only_home_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ReadOnlyHome):
        short().deliver(Home(tmp_path, writable=False), progress=False)
    assert not list(tmp_path.iterdir())


def test_extending_nothing_says_what_to_do(tmp_path: Path) -> None:
    spec = short()
    with pytest.raises(ExplainedError, match="no history to continue"):
        spec.extend(Home(tmp_path), LegacyRanker.of(spec.environment()), spec.config.end_us, progress=False)


def test_registry_makes_the_world_the_settings_ask_for() -> None:
    made = source("world", "tiny", 7, None)
    assert isinstance(made, WorldSource)
    assert made.config == WorldConfig.of("tiny", 7)
    assert made.spec.truth
    assert made.environment().now_us == made.spec.first_day_us
