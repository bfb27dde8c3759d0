"""The event log: clicks as they were taken in, written before they are acknowledged.

`serving.events` appends; `pipelines.event_ingest` lands them for ingestion.  What one request brought is one record: the
MessagePack of `Clicks`, in a segment of `serving.segment_log`, which says what survives what.
"""

from collections.abc import Iterator
from pathlib import Path

import msgspec

from infra.home import Home
from serving import segment_log
from serving.segment_log import SEGMENT_BYTES, SegmentLog

SUFFIX = ".elog"


class Click(msgspec.Struct, array_like=True, frozen=True):
    """Somebody clicked an ad that was shown."""

    click_id: int
    impression_id: int
    time_us: int


class Clicks(msgspec.Struct, array_like=True, frozen=True):
    """The new clicks of one request."""

    arrived_us: int
    clicks: list[Click]


class EventLog:
    """Appends records to a segment of its own in `home.events`.  Threads may share one; processes each have their own."""

    def __init__(self, home: Home, segment_bytes: int = SEGMENT_BYTES) -> None:
        self._log = SegmentLog(home, home.events, SUFFIX, segment_bytes)
        self._encoder = msgspec.msgpack.Encoder()

    @property
    def path(self) -> Path:
        """The segment that was opened last."""
        return self._log.path

    @property
    def files(self) -> SegmentLog:
        """What it writes through: for who watches it."""
        return self._log

    def append(self, record: Clicks) -> int:
        """Write one record; bytes written.  When this returns the record survives SIGKILL.  Raises as `SegmentLog.append`."""
        return self._log.append(self._encoder.encode(record))

    def close(self) -> None:
        """Close the segment; an empty one is removed.  Closing again does nothing.  Raises as `SegmentLog.close`."""
        self._log.close()


def segments(home: Home) -> list[Path]:
    """Every segment of a home's event log, oldest first."""
    return segment_log.segments(home.events, SUFFIX)


def read(segment: Path, offset: int = 0) -> Iterator[tuple[Clicks, int]]:
    """Records of one segment from a byte offset on, each with the offset just behind it (where to go on later).

    Stops before a torn or damaged record: it may still be in the middle of being written.
    """
    decoder = msgspec.msgpack.Decoder(Clicks)
    for payload, behind in segment_log.payloads(segment, offset):
        yield decoder.decode(payload), behind
