"""The batch scorer: a day of impressions from the lake through the same `Scorer` as online requests.  Called by `clickproof
score`.

Impressions stream through in chunks and scores stream into the day's one atomic commit, so memory does not grow with the day.
A part of a day (`features.partition.Part`) is scored without the rest of it: a task of a cluster.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from time import perf_counter
from typing import cast

import numpy as np
import pyarrow as pa

from features.batch import FeatureBatch, FeatureSource, RequestBatch, ViewStates
from features.catalogue import Entity
from features.partition import Part
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
from serving.scorer import Scorer, fetch

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


@dataclass(slots=True)
class ScoreCounts:
    """What scoring a day came to."""

    day: str
    rows: int = 0
    fallbacks: int = 0  # rows for which some feature view was missing or stale
    join_s: float = 0.0  # seconds spent on finding features
    score_s: float = 0.0  # seconds spent on encoding, model and calibration

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
    lake = Lake.of(home)
    if day not in (days := lake.days("impressions")):
        there = f"there are {days[0]} to {days[-1]}" if days else "the lake holds none at all; run `clickproof ingest`"
        raise ExplainedError(f"no impression arrived on {day}; {there}")
    counts = ScoreCounts(day)
    scores = score_part(home, Part(day), artefact, source, chunk_rows, counts)
    lake.replace_day(TABLE, day, pa.RecordBatchReader.from_batches(SCHEMA, scores))
    return counts


def score_part(
    home: Home,
    part: Part,
    artefact: Artefact,
    source: FeatureSource | None = None,
    chunk_rows: int = CHUNK_ROWS,
    counts: ScoreCounts | None = None,
) -> Iterator[pa.RecordBatch]:
    """Scores (`SCHEMA`) of one part's impressions, in order, `chunk_rows` at a time; adds what was done to `counts`."""
    counts = counts or ScoreCounts(part.day)
    context = context_names(artefact.spec.names)
    source = source or AsOfSource(home, cast(tuple[Entity, ...], artefact.entities), context, artefact.service)
    scorer = Scorer(source, artefact, GreedyPolicy(), Assignment("batch"), None, FixedClock(0))
    names = ["impression_id", "event_timestamp", "user_id", "ad_id", "slot", *context]
    for impressions in _even(part.batches(Lake.of(home), "impressions", names), chunk_rows):
        rows, slot = from_impressions(impressions, context), impressions["slot"].to_numpy()
        started = perf_counter()
        features = fetch(scorer.source, rows)
        joined = perf_counter()
        s, p = scorer.score_features(features, slot)
        counts.score_s += perf_counter() - joined
        counts.join_s += joined - started
        result = _result(rows, slot, s, p, features, artefact.hash)
        counts.rows += result.num_rows
        counts.fallbacks += int(np.count_nonzero(result["fallback_mask"].to_numpy()))
        yield result


def _even(batches: Iterator[pa.RecordBatch], rows: int) -> Iterator[pa.Table]:
    """Batches of any size as tables of `rows` rows, the last one shorter: a call of the join costs the same for few rows."""
    waiting: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        while batch.num_rows:
            piece = batch.slice(0, rows - count)
            batch = batch.slice(piece.num_rows)
            waiting.append(piece)
            count += piece.num_rows
            if count == rows:
                yield pa.Table.from_batches(waiting)
                waiting, count = [], 0
    if waiting:
        yield pa.Table.from_batches(waiting)


def _result(
    rows: RequestBatch, slot: np.ndarray, s: np.ndarray, p: np.ndarray, features: FeatureBatch, artefact: str
) -> pa.RecordBatch:
    n = len(rows)
    times = pa.array(rows.time_us).cast(TIME)
    columns = [rows.row_id, times, slot.astype(np.int16), s, p, ViewStates.of(features.views, n).mask(), pa.repeat(artefact, n)]
    return pa.RecordBatch.from_arrays([pa.array(column) for column in columns], schema=SCHEMA)
