"""From the event log's segments to landed files of the stream `clicks`, each record exactly once.  Called by `clickproof
ingest` before it reads what landed.

A file is named after what is in it: segment, and the byte offsets at which its records begin and end.  So the files themselves
say how far a segment was landed, and there is nothing else that could be forgotten or disagree: a run that is killed leaves a
file or leaves none, and the next one goes on behind it.  What follows a torn tail, or a record still being written, waits.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from features.schemas import CLICKS, TIME
from infra.clock import day_name
from infra.home import Home
from pipelines.segment_reading import alone, chunks, size_of
from serving.event_log import Clicks, read, segments

CHUNK_BYTES = 32 << 20  # of log in one file: a million clicks
_LANDED = re.compile(r"events-(?P<segment>.+)-(?P<start>\d{12})-(?P<end>\d{12})\.parquet")


@dataclass(frozen=True, slots=True)
class LandedClicks:
    """What one run did."""

    clicks: int
    files: int
    waiting_bytes: int  # behind a torn or unfinished record


def land_clicks(home: Home, chunk_bytes: int = CHUNK_BYTES) -> LandedClicks:
    """Land what is new in the event log, by day of arrival; nothing twice, however often and wherever it stops.

    Raises ExplainedError where a segment is shorter than what was landed of it, ReadOnlyHome in a drill's base."""
    clicks = files = waiting = 0
    if not segments(home):
        return LandedClicks(0, 0, 0)
    with alone(home, home.events):
        ends = _landed(home)
        for segment in segments(home):
            offset = ends.get(segment.stem, 0)
            size = size_of(segment, offset)
            for day, records, end in _parts(segment, offset, chunk_bytes):
                table = to_table(records)
                _write(home, day, f"events-{segment.stem}-{offset:012d}-{end:012d}.parquet", table)
                clicks, files, offset = clicks + table.num_rows, files + 1, end
            waiting += size - offset
    return LandedClicks(clicks, files, max(waiting, 0))


def to_table(records: list[Clicks]) -> pa.Table:
    """Records as rows of features.schemas.CLICKS, in the order of the log."""
    arrived = np.repeat([r.arrived_us for r in records], [len(r.clicks) for r in records])
    rows = np.array([(c.click_id, c.impression_id, c.time_us) for r in records for c in r.clicks], np.int64).reshape(-1, 3)
    columns = [pa.array(rows[:, 0]), pa.array(rows[:, 1]), *(pa.array(at).cast(TIME) for at in (rows[:, 2], arrived))]
    return pa.table(columns, schema=CLICKS)


def _landed(home: Home) -> dict[str, int]:
    """How far each segment was landed: the offset behind its last landed record."""
    ends: dict[str, int] = {}
    for path in (home.landing / "clicks").glob("day=*/events-*.parquet"):
        if found := _LANDED.fullmatch(path.name):
            ends[found["segment"]] = max(ends.get(found["segment"], 0), int(found["end"]))
    return ends


def _parts(segment: Path, offset: int, chunk_bytes: int) -> Iterator[tuple[str, list[Clicks], int]]:
    """(day of arrival, records, offset behind them) of what is new in a segment: a day and about `chunk_bytes` at a time."""
    for day, records in groupby(read(segment, offset), key=lambda found: day_name(found[0].arrived_us)):
        for chunk, end in chunks(records, offset, chunk_bytes):
            yield day, chunk, end
            offset = end


def _write(home: Home, day: str, name: str, table: pa.Table) -> None:
    """Write a file so that it is either whole or not there, also after a loss of power."""
    path = home.writing(home.landing / "clicks" / f"day={day}" / name)
    part = path.with_name(".events.part")  # one name, since nobody else writes here: what a killed run left is overwritten
    pq.write_table(table, part, compression="zstd")
    _to_disk(part)
    os.replace(part, path)
    _to_disk(path.parent)


def _to_disk(path: Path) -> None:
    """fsync a file or a folder."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
