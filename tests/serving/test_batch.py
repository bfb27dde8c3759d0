"""A day of impressions in batch."""

import subprocess
import sys
import tracemalloc
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from small_world import DictSource, TinyArtefact

from features.partition import parts
from features.schemas import IMPRESSIONS
from infra.clock import DAY_US
from infra.errors import ExplainedError
from infra.home import Home
from infra.lake import Lake
from models.contract import FeatureSpec
from serving.batch import SCHEMA, score_day, score_part

FIRST_US = 1_767_571_200_000_000  # 2026-01-05


@dataclass(frozen=True)
class BatchArtefact(TinyArtefact):
    """The small artefact with what the batch scorer asks of it."""

    spec: FeatureSpec = FeatureSpec(("device", "user_id"), ("user_ctr", "ad_ctr"))  # noqa: RUF009 - frozen
    entities: tuple[str, ...] = ("user", "ad")
    service: str = "ctr_full"


def impressions(n: int, day: int, seed: int = 0) -> pa.Table:
    rng = np.random.default_rng(seed)
    at = FIRST_US + day * DAY_US + np.sort(rng.integers(0, DAY_US, n))
    user = rng.integers(-1, 8, n)
    table = pa.Table.from_arrays(
        [
            pa.array(day * 10_000_000 + np.arange(n)),
            pa.array(np.arange(n) // 3),
            pa.array(at).cast(IMPRESSIONS.field("event_timestamp").type),
            pa.array(at + 1000).cast(IMPRESSIONS.field("arrived_at").type),
            pa.array(user, mask=user < 0),
            pa.array(rng.integers(0, 50, n)),
            pa.array(rng.integers(0, 4, n), pa.int16()),
            pa.array(np.full(n, 20), pa.int32()),
            pa.nulls(n, pa.float32()),
            pa.nulls(n, pa.float32()),
            pa.repeat("p", n),
            pa.array(np.zeros(n, bool)),
        ],
        schema=IMPRESSIONS,
    )
    table = table.append_column("device", pa.array(rng.choice(["mobile", "tv"], n)))
    return table.append_column("day", pa.repeat(["2026-01-05", "2026-01-06"][day], n))


@pytest.fixture
def filled(home: Home) -> Home:
    lake = Lake.of(home)
    for day in (0, 1):
        for part in range(2):
            lake.append("impressions", impressions(500, day, seed=part))
    return home


def test_a_day_is_scored_at_the_slots_its_impressions_had(filled):
    counts = score_day(filled, "2026-01-06", BatchArtefact(), DictSource(), chunk_rows=300)
    assert (counts.day, counts.rows) == ("2026-01-06", 1000)
    scores = Lake.of(filled).read("batch_scores")
    assert set(scores["day"].to_pylist()) == {"2026-01-06"}
    assert scores["p"].to_numpy() == pytest.approx(
        1 / (1 + np.exp(-(scores["s"].to_numpy() - 0.4 * scores["slot"].to_numpy())))
    )
    assert counts.fallbacks == np.count_nonzero(scores["fallback_mask"].to_numpy()) > 0
    wanted = Lake.of(filled).read("impressions", ["impression_id", "slot"], ["2026-01-06"])
    assert scores.select(["impression_id", "slot"]).equals(wanted)


@pytest.mark.parametrize("chunk_rows", [1, 7, 499, 5000])
def test_the_size_of_chunks_changes_nothing(filled, chunk_rows):
    score_day(filled, "2026-01-05", BatchArtefact(), DictSource(), chunk_rows=1000)
    one = Lake.of(filled).read("batch_scores")
    score_day(filled, "2026-01-05", BatchArtefact(), DictSource(), chunk_rows=chunk_rows)
    assert Lake.of(filled).read("batch_scores").equals(one)


def test_doing_a_day_again_replaces_it_and_leaves_the_others(filled):
    for day in ("2026-01-05", "2026-01-06", "2026-01-05"):
        score_day(filled, day, BatchArtefact(), DictSource())
    assert Lake.of(filled).read("batch_scores").num_rows == 2000


def test_a_day_without_impressions_is_explained(filled, tmp_path):
    with pytest.raises(ExplainedError, match="2026-02-01; there are 2026-01-05 to 2026-01-06"):
        score_day(filled, "2026-02-01", BatchArtefact(), DictSource())
    with pytest.raises(ExplainedError, match="clickproof ingest"):
        score_day(Home(tmp_path / "empty"), "2026-02-01", BatchArtefact(), DictSource())


def test_memory_for_features_does_not_grow_with_the_day(home):
    class Wide(DictSource):
        """Adds a column of 4 kB a row, so that holding features of all rows would show."""

        def fetch(self, requests):
            batch = super().fetch(requests)
            batch.columns["wide"] = np.zeros((len(requests), 1000), np.float32)
            return batch

    lake = Lake.of(home)
    lake.append("impressions", impressions(500, 0))
    lake.append("impressions", impressions(8000, 1))
    peaks = []
    for day in ("2026-01-05", "2026-01-06"):
        tracemalloc.start()
        score_day(home, day, BatchArtefact(), Wide(), chunk_rows=250)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 2_000_000  # 16 times the rows would be 30 MB more if they were kept


PEAK = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import numpy as np
from test_batch import BatchArtefact
from features.batch import FeatureBatch
from infra.home import Home
from serving.batch import SCHEMA, score_day, score_part

class Fast:
    def fetch(self, rows):
        known = np.sin(rows.ad_id).astype(np.float32)
        return FeatureBatch({"user_ctr": known, "ad_ctr": known, "device": rows.context["device"]}, {})

counts = score_day(Home(Path(sys.argv[2])), "2026-01-05", BatchArtefact(), Fast(), chunk_rows=20_000)
status = Path("/proc/self/status").read_text()  # not getrusage: that starts from the peak of the process it was forked from
print(counts.rows, status.split("VmHWM:")[1].split()[0])
"""


def test_memory_does_not_grow_with_the_rows_of_a_day(tmp_path):
    peak_mb = []
    for rows in (200_000, 800_000):
        home = Home(tmp_path / str(rows))
        Lake.of(home).append("impressions", impressions(rows, 0))
        command = [sys.executable, "-c", PEAK, str(Path(__file__).parent), str(home.root)]
        said = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout.split()
        assert int(said[0]) == rows == Lake.of(home).scan("batch_scores").count_rows()
        peak_mb.append(int(said[1]) / 1024)
    # The results of 600,000 more rows are 30 MB, and 36 MB more in a parquet writer that waits for a million rows.
    assert peak_mb[1] - peak_mb[0] < 20


def test_buckets_of_users_put_together_are_the_day(filled):
    score_day(filled, "2026-01-06", BatchArtefact(), DictSource())
    whole = Lake.of(filled).read("batch_scores", SCHEMA.names)
    found = [
        pa.Table.from_batches(score_part(filled, part, BatchArtefact(), DictSource(), chunk_rows=70), SCHEMA)
        for part in parts(["2026-01-06"], 3)
    ]
    assert all(0 < part.num_rows < whole.num_rows for part in found)
    order = [("impression_id", "ascending"), ("event_timestamp", "ascending")]
    assert pa.concat_tables(found).sort_by(order).equals(whole.sort_by(order))
