"""From the prediction log's segments to the lake's table `predictions`, each record exactly once.  Called by `clickproof
ingest`.

A commit carries the segment's name and the byte offset behind its last record as a Delta application transaction, so rows and
progress are one atomic fact: a run that is killed leaves either both or neither, and a rerun goes on from there.  What
follows a torn tail, or a record still being written, waits for a later run.
"""

from dataclasses import dataclass

from infra.home import Home
from infra.lake import Lake
from pipelines.segment_reading import alone, chunks, size_of
from serving.prediction_log import read, segments
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
    with alone(home, home.log):
        for segment in segments(home):
            app = f"prediction-log/{segment.stem}"
            start = offset = max(lake.committed(TABLE, app), 0)
            size = size_of(segment, offset)
            for records, end in chunks(read(segment, offset), offset, chunk_bytes):
                table = to_table(records)
                if lake.append(TABLE, table, txn=(app, end), widen=True):
                    requests, rows = requests + len(records), rows + table.num_rows
                offset = end
            touched += offset > start
            waiting += size - offset
    return PredictionCounts(requests, rows, touched, max(waiting, 0))
