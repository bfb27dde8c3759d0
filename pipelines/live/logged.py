"""The prediction log while it is written: its new records as rows.  Read every five minutes of a drill; the rows go on into the
branch's lake by the hour.
"""

from pathlib import Path

import pyarrow as pa

from infra.home import Home
from serving.prediction_log import Record, read, segments
from serving.prediction_rows import to_table


class LogTail:
    """Remembers how far each segment was read."""

    def __init__(self, home: Home) -> None:
        """Records that are in the log already are left alone."""
        self._home = home
        self._offsets = {path.name: path.stat().st_size for path in segments(home)}

    def new(self) -> list[pa.Table]:
        """Rows (features.schemas.PREDICTIONS, f_NAME and so on) of the records written since the last call."""
        tables = []
        for segment in segments(self._home):
            records, end = self._records(segment)
            if records:
                tables.append(to_table(records))
                self._offsets[segment.name] = end
        return tables

    def _records(self, segment: Path) -> tuple[list[Record], int]:
        records, end = [], self._offsets.get(segment.name, 0)
        for record, behind in read(segment, end):
            records.append(record)
            end = behind
        return records, end
