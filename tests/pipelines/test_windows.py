"""The pure makers of windows against brute force, and the lake's own windows."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from as_a_user import MainJob
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from features.schemas import CLICKS, TIME
from infra import branch
from infra.clock import HOUR_US
from infra.home import Home
from infra.lake import Lake
from pipelines.flows import monitor as flow
from pipelines.lake_windows import LakeWindows
from pipelines.promotion import champion_of
from pipelines.sources.registry import source_of
from pipelines.windows import columns_of, joined, log_of, positions, rescored_of, sample_rows

IDS = st.lists(st.integers(0, 30), max_size=40)


@given(ids=IDS, wanted=IDS)
def test_positions_are_the_first_of_each_id(ids: list[int], wanted: list[int]) -> None:
    found = positions(np.array(ids, np.int64), np.array(wanted, np.int64))
    assert found.tolist() == [ids.index(each) if each in ids else -1 for each in wanted]


@given(shown=st.lists(st.integers(0, 30), max_size=20, unique=True), clicked=IDS)
def test_joined_clicks_carry_their_predictions_row(shown: list[int], clicked: list[int]) -> None:
    log = pa.table({"id": pa.array(shown, pa.int64()), "p": pa.array([each / 100 for each in shown], pa.float64())})
    times = pa.array([5 * each for each in clicked], pa.int64())
    clicks = pa.table(
        {
            "click_id": pa.array(range(len(clicked)), pa.int64()), "impression_id": pa.array(clicked, pa.int64()),
            "event_timestamp": times.cast(TIME), "arrived_at": pc.add(times, 1).cast(TIME),
        },
        schema=CLICKS,
    )  # fmt: skip
    assert joined(clicks, log).to_pylist() == [
        {"id": each, "p": each / 100, "clicked_at": 5 * each, "arrived_at": 5 * each + 1} for each in clicked if each in shown
    ]


@given(n=st.integers(0, 400), most=st.integers(1, 50), cut=st.integers(0, 400))
def test_the_sample_of_a_log_does_not_hang_on_its_order(n: int, most: int, cut: int) -> None:
    ids = np.arange(n, dtype=np.int64) * 7919
    turned = np.roll(ids, cut)
    assert set(ids[sample_rows(ids, most)]) == set(turned[sample_rows(turned, most)])
    assert len(sample_rows(ids, most)) == min(n, most)
    assert (np.diff(sample_rows(ids, most)) > 0).all()


def test_the_columns_of_a_world_say_what_turns_over_and_what_varies_together() -> None:
    columns = columns_of(("user", "ad", "campaign", "placement"), ("device", "placement", "page_topic"), "ctr_full")
    assert columns.ids == ("user_id", "ad_id", "campaign_id", "advertiser_id")
    assert columns.families["user_ctr"] == "user"
    assert columns.families["device"] == "request"
    assert columns.units["ad_log_price"] == "ad_id"
    assert columns.units["ad_category"] == "campaign_id"
    assert columns.max_age_s["ad_daily"] == 30 * 3600
    assert columns_of((), ("device",), "ctr_full").ids == ()


def test_sequences_and_rows_of_unknown_models_are_left_out() -> None:
    rows = pa.table(
        {
            "impression_id": [1, 2], "event_timestamp": pa.array([0, 1]).cast(TIME), "p": pa.array([0.1, 0.2], pa.float32()),
            "artefact": ["gone", "gone"], "slot": pa.array([0, 1], pa.int16()), "f_x": [1.0, 2.0], "f_seq": [[1], [2]],
        }
    )  # fmt: skip
    assert log_of(rows).column_names == ["id", "time", "p", "model", "slot", "f_x"]
    assert rescored_of(rows, lambda name: None).num_rows == 0


@pytest.fixture
def work(main_job: MainJob, tmp_path: Path) -> Home:
    """A home of its own with what the main job left: its branches stay as they are."""
    made = branch.create(main_job.home, "windows-test")
    home = Home(tmp_path / "home")
    made.root.rename(home.root)
    return home


def test_a_home_that_never_served_is_watched_on_the_champions_scores(main_job: MainJob, work: Home) -> None:
    champion = champion_of(work)
    assert champion is not None
    windows = LakeWindows(work, source_of(main_job.settings).spec, champion)
    assert windows.served_days() == []
    day = windows.scored_days()[-2]
    assert day > champion.trained_days[1]
    found = list(windows.day(day))
    assert len(found) == 24
    shown = windows.lake.read("impressions")
    at = shown["event_timestamp"].cast(pa.int64()).to_numpy()
    for window in found:
        assert len(window.log) == int(((at >= window.start_us) & (at < window.start_us + HOUR_US)).sum())
        assert window.offline is None
        assert window.rescored is None
    counts = {(r["stream"], r["stage"]): 0 for w in found for r in w.books.to_pylist()}
    for window in found:
        for row in window.books.to_pylist():
            counts[row["stream"], row["stage"]] += row["rows"]
    assert counts["impressions", "accepted"] == windows.lake.read("impressions", ["slot"], [day]).num_rows
    assert counts["clicks", "joined"] == sum(len(window.clicks) for window in found) > 0


def test_what_was_served_is_replayed(main_job: MainJob, work: Home) -> None:
    """A day's batch scores, written as the endpoint's log would be, are judged as served."""
    champion = champion_of(work)
    assert champion is not None
    spec = source_of(main_job.settings).spec
    before = LakeWindows(work, spec, champion)
    day = before.scored_days()[-2]
    Lake.of(work).replace_day("predictions", day, before._logged(day))
    windows = LakeWindows(work, spec, champion)
    assert windows.served_days() == [day]
    for window in windows.day(day):
        assert window.offline is not None
        assert window.rescored is not None
        log = window.log.to_pandas().set_index("id")
        again = window.offline.to_pandas().set_index("id")
        assert len(again) == min(len(log), 300)
        assert log.loc[again.index, list(again.columns)].equals(again)
        p = window.rescored.to_pandas().set_index("id")["p"]
        assert (log.loc[p.index, "p"] == p).all()


def test_monitors_learn_from_the_days_before_the_latest_and_say_what_they_skipped(main_job: MainJob, work: Home) -> None:
    judged = flow.judge.fn(work, source_of(main_job.settings).spec, champion_of(work))
    assert judged.day == Lake.of(work).days("impressions")[-1]
    assert judged.learnt == sorted(judged.learnt)
    assert judged.learnt[-1] < judged.day
    assert "calibration" in judged.ran
    assert "make serve" in judged.skipped["replay"]
    known = len(judged.incidents)
    assert flow.remember.fn(work, SecretStr(""), judged.incidents) == known
    assert flow.remember.fn(work, SecretStr(""), judged.incidents) == 0
