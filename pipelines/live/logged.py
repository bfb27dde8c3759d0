"""The endpoint's logs while they are written: new predictions and clicks as rows.  Read every five minutes of a drill; the rows
go on into the branch's lake by the hour.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Generic, TypeVar

import pyarrow as pa

from features.schemas import CLICKS
from infra.home import Home
from pipelines.event_ingest import to_table as click_rows
from serving import event_log, prediction_log
from serving.prediction_rows import to_table

T = TypeVar("T")


class _Tail(Generic[T]):
    """Remembers how far each segment was read."""

    def __init__(
        self,
        home: Home,
        segments: Callable[[Home], list[Path]],
        read: Callable[[Path, int], Iterator[tuple[T, int]]],
    ) -> None:
        """Records that are in the log already are left alone."""
        self._home, self._segments, self._read = home, segments, read
        self._offsets = {path.name: path.stat().st_size for path in segments(home)}

    def new(self) -> list[list[T]]:
        """Records written since the last call, by segment."""
        found = []
        for segment in self._segments(self._home):
            records = []
            for record, behind in self._read(segment, self._offsets.get(segment.name, 0)):
                records.append(record)
                self._offsets[segment.name] = behind
            if records:
                found.append(records)
        return found


class LogTail:
    """The prediction log."""

    def __init__(self, home: Home) -> None:
        """Records that are in the log already are left alone."""
        self._tail = _Tail(home, prediction_log.segments, prediction_log.read)

    def new(self) -> list[pa.Table]:
        """Rows (features.schemas.PREDICTIONS, f_NAME and so on) of the records written since the last call."""
        return [to_table(records) for records in self._tail.new()]


class ClickTail:
    """The event log."""

    def __init__(self, home: Home) -> None:
        """Records that are in the log already are left alone."""
        self._tail = _Tail(home, event_log.segments, event_log.read)

    def new(self) -> pa.Table:
        """Rows (features.schemas.CLICKS) of the records written since the last call."""
        return pa.concat_tables([CLICKS.empty_table(), *(click_rows(records) for records in self._tail.new())])
