"""From the shadows' segments to the lake's table `shadow_scores`, each record exactly once.  Called by `clickproof ingest`.

As with `pipelines.prediction_ingest`, rows and progress are one commit.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from features.ids import derived_id
from features.schemas import SHADOW_SCORES, TIME
from infra.home import Home
from infra.lake import Lake
from pipelines.segment_reading import alone, chunks, size_of
from serving.prediction_log import unpack
from serving.shadow_log import ShadowRecord, read, segments

TABLE = "shadow_scores"
CHUNK_BYTES = 32 << 20


def ingest_shadows(home: Home, chunk_bytes: int = CHUNK_BYTES) -> int:
    """Bring what is new into the lake, however often and wherever it stops; rows added.

    Raises ExplainedError where a segment is shorter than what was already taken from it."""
    lake, rows = Lake.of(home), 0
    if not segments(home):
        return 0
    with alone(home, home.shadows):
        for segment in segments(home):
            app = f"shadow-log/{segment.stem}"
            offset = max(lake.committed(TABLE, app), 0)
            size_of(segment, offset)
            for records, end in chunks(read(segment, offset), offset, chunk_bytes):
                table = to_table(records)
                if lake.append(TABLE, table, txn=(app, end)):
                    rows += table.num_rows
                offset = end
    return rows


def to_table(records: Sequence[ShadowRecord]) -> pa.Table:
    """One row a candidate: columns features.schemas.SHADOW_SCORES, then `day`, the UTC day of the request."""
    s = [unpack(record.s) for record in records]
    counts = np.array([len(of_request) for of_request in s])
    first = np.cumsum(counts) - counts
    shown = np.concatenate([unpack(record.shown) + start for record, start in zip(records, first, strict=True)])
    slots = np.concatenate([np.arange(len(unpack(record.shown))) for record in records])
    slot = np.full(int(counts.sum()), -1, np.int16)
    slot[shown] = slots
    place = np.full(len(slot), -1)
    place[shown] = np.arange(len(shown))
    at_slot = pa.array(place, mask=place < 0)
    request_id = np.repeat([record.request_id for record in records], counts)
    time_us = np.repeat([record.time_us for record in records], counts)
    columns = {
        "request_id": pa.array(request_id),
        "impression_id": pa.array(derived_id(request_id[shown], slots)).take(at_slot),
        "event_timestamp": pa.array(time_us).cast(TIME),
        "ad_id": pa.array(np.concatenate([unpack(record.ad_id) for record in records])),
        "slot": pa.array(slot),
        "artefact": pa.array(np.repeat([record.artefact for record in records], counts)),
        "encoder": pa.array(np.repeat([record.encoder for record in records], counts)),
        "s": pa.array(np.concatenate(s)),
        "p": pa.array(np.concatenate([unpack(record.p) for record in records])).take(at_slot),
    }
    table = pa.Table.from_arrays([columns[name] for name in SHADOW_SCORES.names], schema=SHADOW_SCORES)
    day = np.datetime_as_string(time_us.astype("datetime64[us]"), unit="D")
    return table.append_column(pa.field("day", pa.string(), nullable=False), pa.array(day))
