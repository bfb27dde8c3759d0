"""The batch scorer: a day of impressions from the lake through the same `Scorer` as online requests.  Called by `clickproof
score`.

Impressions stream through in chunks, so the memory for features does not grow with the day; what stays until the one atomic
commit is the result, some 50 bytes a row.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from time import perf_counter
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.batch import FeatureBatch, FeatureSource, RequestBatch
from features.catalogue import Entity
from features.requests import from_impressions
from features.schemas import TIME
from features.sources import AsOfSource
from infra.clock import FixedClock
from infra.errors import ExplainedError
from infra.home import Home
from infra.lake import Lake
from models.artefact import Artefact
from serving.assignment import Assignment
from serving.messages import context_names
from serving.policy import GreedyPolicy
from serving.scorer import Scorer, fallback_mask, fetch

TABLE = "batch_scores"
CHUNK_ROWS = 131_072  # enough to amortise reading feature snapshots, some 30 MB of features

SCHEMA = pa.schema(
    [
        pa.field("impression_id", pa.int64(), nullable=False),
        pa.field("event_timestamp", TIME, nullable=False),
        pa.field("slot", pa.int16(), nullable=False),
        pa.field("s", pa.float32(), nullable=False),
        pa.field("p", pa.float32(), nullable=False),  # at the slot that the impression had
        pa.field("fallback_mask", pa.int32(), nullable=False),
        pa.field("artefact", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True)
class ScoreCounts:
    """What scoring a day came to."""

    day: str
    rows: int
    fallbacks: int  # rows for which some feature view was missing or stale
    join_s: float  # seconds spent on finding features
    score_s: float  # seconds spent on encoding, model and calibration

    @property
    def rows_per_s(self) -> float:
        """Rows a second on one thread once features are joined."""
        return self.rows / max(self.score_s, 1e-9)


def score_day(
    home: Home, day: str, artefact: Artefact, source: FeatureSource | None = None, chunk_rows: int = CHUNK_ROWS
) -> ScoreCounts:
    """Score the impressions that arrived on a day and make them the day's content of `batch_scores`; doing it again
    changes nothing.

    Features are as they could be seen at each impression's time, unless another `source` is given.  Raises
    ExplainedError where no impression arrived on that day.
    """
    context = context_names(artefact.spec.names)
    source = source or AsOfSource(home, cast(tuple[Entity, ...], artefact.entities), context, artefact.service)
    scorer = Scorer(source, artefact, GreedyPolicy(), Assignment("batch"), None, FixedClock(0))
    lake = Lake.of(home)
    if day not in (days := lake.days("impressions")):
        there = f"there are {days[0]} to {days[-1]}" if days else "the lake holds none at all; run `clickproof ingest`"
        raise ExplainedError(f"no impression arrived on {day}; {there}")
    done: list[pa.RecordBatch] = []
    join_s = score_s = 0.0
    for impressions in _chunks(lake, day, chunk_rows):
        rows, slot = from_impressions(impressions, context), impressions["slot"].to_numpy()
        started = perf_counter()
        features = fetch(scorer.source, rows)
        joined = perf_counter()
        s, p = scorer.score_features(features, slot)
        score_s += perf_counter() - joined
        join_s += joined - started
        done.append(_result(rows, slot, s, p, features, artefact.hash))
    scores = pa.Table.from_batches(
        done, SCHEMA
    ).combine_chunks()  # the Delta writer keeps the order of rows only within a chunk
    lake.replace_day(TABLE, day, scores)
    return ScoreCounts(day, scores.num_rows, pc.sum(pc.not_equal(scores["fallback_mask"], 0)).as_py() or 0, join_s, score_s)


def _chunks(lake: Lake, day: str, chunk_rows: int) -> Iterator[pa.Table]:
    """The day's impressions in tables of `chunk_rows` rows, the last one shorter."""
    waiting: list[pa.RecordBatch] = []
    count = 0
    for batch in lake.scan("impressions").to_batches(filter=pc.field("day") == day, batch_size=chunk_rows, batch_readahead=1):
        while batch.num_rows:
            part = batch.slice(0, chunk_rows - count)
            batch = batch.slice(part.num_rows)
            waiting.append(part)
            count += part.num_rows
            if count == chunk_rows:
                yield pa.Table.from_batches(waiting)
                waiting, count = [], 0
    if waiting:
        yield pa.Table.from_batches(waiting)


def _result(
    rows: RequestBatch, slot: np.ndarray, s: np.ndarray, p: np.ndarray, features: FeatureBatch, artefact: str
) -> pa.RecordBatch:
    n = len(rows)
    times = pa.array(rows.time_us).cast(TIME)
    columns = [rows.row_id, times, slot.astype(np.int16), s, p, fallback_mask(features, n), pa.repeat(artefact, n)]
    return pa.RecordBatch.from_arrays([pa.array(column) for column in columns], schema=SCHEMA)
