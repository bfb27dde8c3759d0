"""What shadows scored: one record a request and shadow, in segments of `serving.segment_log`.

`serving.shadow` appends; `pipelines.shadow_ingest` reads the segments into the lake.  A record says up to where it read the
prediction log, so that a shadow scorer that is started again goes on behind the last one that it wrote.
"""

from collections.abc import Iterator
from pathlib import Path

import msgspec

from infra.clock import SECOND_US, SystemClock
from infra.home import Home
from serving import segment_log
from serving.prediction_log import Column

SUFFIX = ".slog"


class ShadowRecord(msgspec.Struct, array_like=True):
    """One shadow's scores of a request with n candidates, of which k were shown."""

    request_id: int
    time_us: int
    artefact: str  # the shadow's
    encoder: str
    ad_id: Column  # int64 [n]
    s: Column  # float32 [n]
    shown: Column  # int64 [k]
    p: Column  # float32 [k] at the slots that the ads were given
    segment: str  # of the prediction log
    behind: int  # offset behind the request in it


def segments(home: Home) -> list[Path]:
    """Every segment, oldest first."""
    return segment_log.segments(home.shadows, SUFFIX)


def read(segment: Path, offset: int = 0) -> Iterator[tuple[ShadowRecord, int]]:
    """Records of one segment from a byte offset on, each with the offset just behind it."""
    decoder = msgspec.msgpack.Decoder(ShadowRecord)
    for payload, behind in segment_log.payloads(segment, offset):
        yield decoder.decode(payload), behind


def caught_up(home: Home) -> None:
    """Write down that everything was scored that is in the prediction log by now."""
    home.writing(_mark(home)).touch()


def behind_s(home: Home, since_us: int) -> float:
    """How long ago that was last so, seconds; where it never was, since there are shadows (`since_us` by the system's clock).

    It grows while the scorer is slower than requests come, and while it doesn't run."""
    try:
        last_us = max(since_us, _mark(home).stat().st_mtime_ns // 1000)
    except FileNotFoundError:
        last_us = since_us
    return max(0, SystemClock().now_us() - last_us) / SECOND_US


def _mark(home: Home) -> Path:
    return home.shadows / "caught-up"


def progress(home: Home) -> dict[str, dict[str, int]]:
    """How far each shadow scored the prediction log: artefact -> segment -> offset."""
    found: dict[str, dict[str, int]] = {}
    for segment in segments(home):
        for record, _ in read(segment):
            mine = found.setdefault(record.artefact, {})
            mine[record.segment] = max(record.behind, mine.get(record.segment, 0))
    return found
