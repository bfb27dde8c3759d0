"""The prediction log reaches the lake exactly once."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from features.batch import MISSING, OK, FeatureBatch, RequestBatch, ViewState
from features.catalogue import VIEWS
from features.ids import derived_id
from features.schemas import PREDICTIONS
from features.sources import LoggedSource
from infra.clock import DAY_US, FixedClock
from infra.errors import ExplainedError
from infra.home import Home
from infra.lake import Lake
from pipelines.prediction_ingest import PredictionCounts, ingest_predictions
from serving.assignment import Assignment
from serving.policy import EpsilonPolicy
from serving.prediction_log import PredictionLog, read, segments
from serving.prediction_rows import to_table
from serving.scorer import RankRequest, Scorer

NOW_US = 1_767_571_200_000_000
REQUEST = RankRequest(user_id=3, ad_id=np.arange(100, 130), slots=4, context={"device": "mobile"})


class Source:
    """Features that are functions of the ids; users above 5 have no recent row.  Two views, not the first of the catalogue."""

    def fetch(self, requests: RequestBatch) -> FeatureBatch:
        n = len(requests)
        gone = requests.user_id > 5
        status = np.where(gone, MISSING, OK).astype(np.uint8)
        columns = {
            "user_ctr": np.where(gone, np.nan, requests.user_id / 10).astype(np.float32),
            "ad_category": requests.ad_id % 24,
            "user_clicked_categories": np.stack([requests.ad_id % 5, np.full(n, -1)], axis=1),
            "device": requests.context["device"],
        }
        ok = ViewState(np.full(n, 20260104), np.full(n, 60, np.float32), np.zeros(n, np.uint8))
        user = ViewState(np.where(gone, 0, 9), np.where(gone, np.nan, 1).astype(np.float32), status)
        return FeatureBatch(columns, {"user_recent": user, "ad_profile": ok})


class Model:
    hash, encoder_hash = "m1", "e1"

    def score(self, columns):
        return (columns["ad_category"] / 24 - 2).astype(np.float32)

    def probability(self, s, slot):
        return 1 / (1 + np.exp(-(s - 0.4 * slot)))


def serve(home: Home, requests: int, first: int = 0, close: bool = True, segment_bytes: int = 1 << 30, at_us: int = NOW_US):
    log = PredictionLog(home, segment_bytes)
    scorer = Scorer(Source(), Model(), EpsilonPolicy(0.2), Assignment("s", ("a", "b"), (1, 1)), log, FixedClock(at_us))
    answers = [scorer.rank(replace(REQUEST, request_id=first + i, user_id=(first + i) % 8 - 1)) for i in range(requests)]
    if close:
        log.close()
    return answers, log


def test_rows_carry_what_was_answered(tmp_path):
    home = Home(tmp_path)
    answers, _ = serve(home, 20)
    assert ingest_predictions(home) == PredictionCounts(20, 600, 1, 0)
    table = Lake.of(home).read("predictions")
    assert set(PREDICTIONS.names) <= set(table.column_names)
    assert set(table["day"].to_pylist()) == {"2026-01-05"}
    for answer in answers:
        rows = table.filter(pa.compute.equal(table["request_id"], answer.request_id))
        assert rows.num_rows == 30
        np.testing.assert_array_equal(rows["s"].to_numpy(), answer.s)
        slot = rows["slot"].to_numpy()
        assert np.flatnonzero(slot >= 0).tolist() == sorted(answer.slate.shown.tolist())
        shown = rows.take(pa.array(answer.slate.shown))
        assert shown["slot"].to_pylist() == [0, 1, 2, 3]
        assert shown["impression_id"].to_pylist() == derived_id(answer.request_id, np.arange(4)).tolist()
        np.testing.assert_array_equal(shown["p"].to_numpy(), answer.p)
        np.testing.assert_array_equal(shown["propensity"].to_numpy(), answer.slate.propensity)
        assert shown["f_user_clicked_categories"].to_pylist() == [[ad % 5, -1] for ad in shown["ad_id"].to_pylist()]
        assert set(shown["f_device"].to_pylist()) == {"mobile"}
        hidden = rows.filter(pa.array(slot < 0))
        assert hidden["p"].null_count == hidden["impression_id"].null_count == hidden["propensity"].null_count == 26
        assert hidden["f_device"].null_count >= 20  # a hashed 1% has its features logged
    unknown = table.filter(pa.compute.is_null(table["user_id"]))
    assert set(unknown["request_id"].to_pylist()) == {0, 8, 16}


def test_bits_of_the_fallback_mask_follow_the_catalogue(tmp_path):
    home = Home(tmp_path)
    serve(home, 8)
    ingest_predictions(home)
    table = Lake.of(home).read("predictions")
    bit = [view.name for view in VIEWS].index("user_recent")
    expected = {r: 1 << bit if r == 7 else 0 for r in range(8)}  # request 7 is user 6, the only one without recent rows
    assert dict(zip(table["request_id"].to_pylist(), table["fallback_mask"].to_pylist(), strict=True)) == expected


def test_logged_values_are_read_back_by_the_logged_source(tmp_path):
    home = Home(tmp_path)
    serve(home, 8)
    ingest_predictions(home)
    rows = Lake.of(home).read("predictions")
    rows = rows.filter(pa.compute.is_valid(rows["impression_id"]))
    n = rows.num_rows
    user = rows["user_id"].fill_null(-1).to_numpy()
    asked = RequestBatch(
        rows["impression_id"].to_numpy(), np.full(n, NOW_US), user, rows["ad_id"].to_numpy(), {"device": np.full(n, "mobile")}
    )
    logged, again = LoggedSource(rows).fetch(asked), Source().fetch(asked)
    for name, values in again.columns.items():
        np.testing.assert_array_equal(logged.columns[name], values)
    for name, state in again.views.items():
        np.testing.assert_array_equal(logged.views[name].snapshot, state.snapshot)
        np.testing.assert_array_equal(logged.views[name].status, state.status)
        np.testing.assert_array_equal(logged.views[name].age_s, state.age_s)


def test_doing_it_again_adds_nothing_and_goes_on_where_it_stopped(tmp_path):
    home = Home(tmp_path)
    _, log = serve(home, 5, close=False)
    assert ingest_predictions(home).requests == 5
    assert ingest_predictions(home) == PredictionCounts(0, 0, 0, 0)
    for record, _ in list(read(log.path)):
        log.append(record)
    log.close()
    serve(home, 3, first=100)
    assert ingest_predictions(home) == PredictionCounts(8, 240, 2, 0)
    assert Lake.of(home).read("predictions", ["request_id"]).num_rows == 13 * 30


def test_small_chunks_and_many_segments_come_to_the_same(tmp_path):
    one, many = Home(tmp_path / "one"), Home(tmp_path / "many")
    serve(one, 12)
    serve(many, 12, segment_bytes=5_000)
    assert len(segments(many)) > 2
    ingest_predictions(one)
    assert ingest_predictions(many, chunk_bytes=1).requests == 12
    tables = [
        Lake.of(home).read("predictions").sort_by([("request_id", "ascending"), ("ad_id", "ascending")]) for home in (one, many)
    ]
    assert str(tables[0].to_pylist()) == str(tables[1].to_pylist())  # as text, in which NaN equals NaN


def test_a_torn_tail_waits_and_is_taken_when_it_is_whole(tmp_path):
    home = Home(tmp_path)
    _, log = serve(home, 4)
    whole = log.path.read_bytes()
    log.path.write_bytes(whole[:-100])
    counts = ingest_predictions(home)
    assert counts.requests == 3
    assert 0 < counts.waiting_bytes < len(whole)
    log.path.write_bytes(whole)
    assert ingest_predictions(home) == PredictionCounts(1, 30, 1, 0)


def test_a_segment_that_was_cut_is_an_error_that_says_so(tmp_path):
    home = Home(tmp_path)
    _, log = serve(home, 4)
    ingest_predictions(home)
    os.truncate(log.path, 10)
    with pytest.raises(ExplainedError, match="was cut or replaced"):
        ingest_predictions(home)


def test_requests_of_two_days_and_of_another_feature_set_share_the_table(tmp_path, monkeypatch):
    home = Home(tmp_path)
    serve(home, 2)
    ingest_predictions(home)
    whole = Source.fetch
    monkeypatch.setattr(
        Source, "fetch", lambda self, rows: FeatureBatch({**whole(self, rows).columns, "hour": np.full(len(rows), 3)}, {})
    )
    serve(home, 2, first=50, at_us=NOW_US + DAY_US)
    ingest_predictions(home)
    lake = Lake.of(home)
    assert lake.days("predictions") == ["2026-01-05", "2026-01-06"]
    table = lake.read("predictions")
    shown = table.filter(pa.compute.is_valid(table["impression_id"]))
    hour = dict(zip(shown["request_id"].to_pylist(), shown["f_hour"].to_pylist(), strict=True))
    assert hour == {0: None, 1: None, 50: 3, 51: 3}


def test_no_log_is_nothing_to_do(tmp_path):
    assert ingest_predictions(Home(tmp_path)) == PredictionCounts(0, 0, 0, 0)
    assert list(tmp_path.iterdir()) == []


INGEST = """
import sys
from pathlib import Path
from infra.home import Home
from pipelines.prediction_ingest import ingest_predictions
print("go", flush=True)
ingest_predictions(Home(Path(sys.argv[1])), chunk_bytes=1)
"""


@pytest.mark.parametrize("delay_s", [0.0, 0.06, 0.15, 0.4])
def test_killing_the_ingestion_anywhere_neither_loses_nor_doubles_a_row(tmp_path, delay_s, request):
    home = Home(tmp_path)
    serve(home, 40)
    command = [sys.executable, "-c", INGEST, str(home.root)]
    run = subprocess.Popen(command, cwd=request.config.rootpath, stdout=subprocess.PIPE)
    assert run.stdout is not None
    assert run.stdout.readline() == b"go\n"
    try:
        run.wait(delay_s)
    except subprocess.TimeoutExpired:
        run.send_signal(signal.SIGKILL)
    run.stdout.close()
    run.wait()
    ingest_predictions(home)
    rows = Lake.of(home).read("predictions", ["request_id", "ad_id"]).to_pylist()
    assert len(rows) == 40 * 30
    assert len({(row["request_id"], row["ad_id"]) for row in rows}) == 40 * 30


def test_two_ingestions_at_once_do_not_double_rows(tmp_path, request):
    home = Home(tmp_path)
    serve(home, 25)
    command = [sys.executable, "-c", INGEST, str(home.root)]
    runs = [subprocess.Popen(command, cwd=request.config.rootpath, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [run.wait() for run in runs] == [0, 0]
    assert Lake.of(home).read("predictions", ["request_id"]).num_rows == 25 * 30


def test_rows_are_built_without_a_lake(tmp_path):
    home = Home(tmp_path)
    serve(home, 3)
    (segment,) = segments(home)
    table = to_table(record for record, _ in read(Path(segment)))
    assert table.num_rows == 90
