"""Events on their way: what happened and has not arrived yet.  The market's answers go in, ingestion takes out what arrives.

Streams are requests, impressions and clicks as `features.schemas` has them, ordered by arrival, then id.
"""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.schemas import KEYS
from pipelines.sources.history import ANSWERS


class OnTheWay:
    """Tables by stream; grows by what happens, shrinks by what arrives."""

    def __init__(self, late: Mapping[str, pa.Table]) -> None:
        """`late` are events of the history that arrive after its end; `waiting` is the queue."""
        self.waiting = dict(late)

    def add(self, happened: Mapping[str, pa.Table]) -> None:
        """Take in what just happened."""
        for stream, rows in happened.items():
            there = self.waiting.get(stream)
            self.waiting[stream] = rows if there is None else pa.concat_tables([there, rows])

    def until(self, at_us: int) -> dict[str, pa.Table]:
        """What has arrived before an instant, and leaves the queue."""
        arrived: dict[str, pa.Table] = {}
        for stream in ANSWERS:
            rows = self.waiting[stream].combine_chunks()
            here = pc.cast(rows["arrived_at"], pa.int64()).to_numpy() < at_us
            self.waiting[stream] = rows.filter(pa.array(~here))
            arrived[stream] = rows.filter(pa.array(here)).sort_by([("arrived_at", "ascending"), (KEYS[stream], "ascending")])
        return arrived

    def __len__(self) -> int:
        return int(np.sum([rows.num_rows for rows in self.waiting.values()]))
