"""From the prediction log's segments to the lake's table `predictions`, each record exactly once.  Called by `clickproof
ingest`.

A commit carries the segment's name and the byte offset behind its last record as a Delta application transaction, so rows and
progress are one atomic fact: a run that is killed leaves either both or neither, and a rerun goes on from there.  What
follows a torn tail, or a record still being written, waits for a later run.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from infra.errors import ExplainedError
from infra.home import Home
from infra.lake import Lake
from serving.prediction_log import Record, read, segments
from serving.prediction_rows import to_table

TABLE = "predictions"
CHUNK_BYTES = 32 << 20  # of log in one commit: some thousand requests


@dataclass(frozen=True, slots=True)
class PredictionCounts:
    """What one run of the ingestion did."""

    requests: int  # records taken
    rows: int  # rows added to the lake: one a candidate
    segments: int  # segments that had something new
    waiting_bytes: int  # behind a torn or unfinished record


def ingest_predictions(home: Home, chunk_bytes: int = CHUNK_BYTES) -> PredictionCounts:
    """Bring what is new in the prediction log into the lake; nothing is added twice, however often and wherever it stops.

    Raises ExplainedError where a segment is shorter than what was already taken from it.
    """
    lake = Lake.of(home)
    requests = rows = touched = waiting = 0
    if not segments(home):
        return PredictionCounts(0, 0, 0, 0)
    with _alone(home):
        for segment in segments(home):
            app = f"prediction-log/{segment.stem}"
            start = offset = max(lake.committed(TABLE, app), 0)
            size = segment.stat().st_size
            if size < offset:
                raise ExplainedError(
                    f"{segment} has {size} bytes, but {offset} were ingested from it: it was cut or replaced; restore it, "
                    "or move it away if its records are in the lake"
                )
            for records, end in _chunks(segment, offset, chunk_bytes):
                table = to_table(records)
                if lake.append(TABLE, table, txn=(app, end), widen=True):
                    requests, rows = requests + len(records), rows + table.num_rows
                offset = end
            touched += offset > start
            waiting += size - offset
    return PredictionCounts(requests, rows, touched, max(waiting, 0))


@contextmanager
def _alone(home: Home) -> Iterator[None]:
    """One ingestion at a time: two that cut the same segment into different chunks would each see the other's as not
    yet done.

    The lock goes with the process that holds it, however that ends.
    """
    with home.writing(home.log / ".ingesting").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _chunks(segment: Path, offset: int, chunk_bytes: int) -> Iterator[tuple[list[Record], int]]:
    """(records, offset behind them) in chunks of about `chunk_bytes`."""
    records: list[Record] = []
    start = end = offset
    for record, end in read(segment, offset):
        records.append(record)
        if end - start >= chunk_bytes:
            yield records, end
            records, start = [], end
    if records:
        yield records, end
