"""What shadows scored: one record a request and shadow, in segments of `serving.segment_log`.

`serving.shadow` appends; `pipelines.shadow_ingest` reads the segments into the lake.  A record says up to where it read the
prediction log, so that a shadow scorer that is started again goes on behind the last one that it wrote.
"""

import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

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


def behind_s(home: Home, shadowed_since: float) -> float:
    """How long ago that was last so, seconds; where it never was, since there are shadows (seconds since the epoch).

    It grows while the scorer is slower than requests come, and while it doesn't run."""
    try:
        last = max(shadowed_since, _mark(home).stat().st_mtime)
    except FileNotFoundError:
        last = shadowed_since
    return max(0.0, time.time() - last)


def _mark(home: Home) -> Path:
    return home.shadows / "caught-up"


def progress(home: Home) -> dict[str, int]:
    """How far the prediction log was scored: segment -> offset."""
    found: dict[str, int] = {}
    for segment in segments(home):
        for record, _ in read(segment):
            found[record.segment] = max(record.behind, found.get(record.segment, 0))
    return found
