"""The prediction log while it is written: its new records as rows, taken into the branch's lake exactly once.

As `pipelines.prediction_ingest`, for whoever also needs the rows; a bug of the stage `log` damages them here, between log and
lake.
"""

from pathlib import Path

import pyarrow as pa

from infra.home import Home
from infra.lake import Lake
from pipelines.live.injection import Fault
from pipelines.prediction_ingest import TABLE
from serving.prediction_log import Record, read, segments
from serving.prediction_rows import to_table


class LogTail:
    """Remembers how far each segment was read."""

    def __init__(self, home: Home) -> None:
        """Records that are in the log already are left alone."""
        self._home = home
        self._offsets = {path.name: path.stat().st_size for path in segments(home)}

    def new(self, fault: Fault) -> pa.Table:
        """Rows (features.schemas.PREDICTIONS and f_NAME) of the records written since the last call, damaged as `fault` says.

        Raises RuntimeError where there are none: the endpoint has not been asked anything."""
        lake, tables = Lake.of(self._home), []
        for segment in segments(self._home):
            records, end = self._records(segment)
            if records:
                tables.append(fault.rows("log", "predictions", to_table(records)))
                lake.append(TABLE, tables[-1], txn=(f"prediction-log/{segment.stem}", end), widen=True)
                self._offsets[segment.name] = end
        if not tables:
            raise RuntimeError(f"{self._home.log} holds no new record: the endpoint has not been asked anything this hour")
        return pa.concat_tables(tables, promote_options="default")

    def _records(self, segment: Path) -> tuple[list[Record], int]:
        records, end = [], self._offsets.get(segment.name, 0)
        for record, behind in read(segment, end):
            records.append(record)
            end = behind
        return records, end
