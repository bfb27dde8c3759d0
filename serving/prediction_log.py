"""The prediction log: what was answered, to whom, from which values, written before the answer leaves.

`serving.scorer` appends; `pipelines.prediction_ingest` reads the segments into the lake.  One request is one record: the
MessagePack of `Record`, in a segment of `serving.segment_log`, which says what survives what.
"""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from infra.home import Home
from serving import segment_log
from serving.segment_log import SEGMENT_BYTES, SegmentLog, TornWrite

__all__ = [
    "Column", "Matrix", "PredictionLog", "Record", "TornWrite", "features_of", "matrix", "names_of", "pack", "read", "repeated",
    "segments", "unpack",
]  # fmt: skip

SUFFIX = ".plog"


class Column(msgspec.Struct, array_like=True):
    """A numpy array as it lies in memory: dtype (numpy's own code, such as '<f4' or '<U7'), shape, bytes."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


class Matrix(msgspec.Struct, array_like=True):
    """Columns side by side: their names (MessagePack of a list of strings, see `names_of`) and their values [m, columns]."""

    names: msgspec.Raw
    values: Column


class Record(msgspec.Struct, kw_only=True):
    """One request with n candidates, of which k were shown and m have their feature values logged.

    Fields are the columns of `features.schemas.PREDICTIONS`.  `logged` holds the indexes of the m candidates: the shown ones in
    slot order, then a hashed 1% of the rest; behind these `sampled` ones, while there is a shadow, all others for it to score.
    """

    request_id: int
    time_us: int
    user_id: int  # -1: unknown
    policy: str
    randomised: bool
    arm: str
    artefact: str
    encoder: str
    took_us: int  # to find features, score and choose; of requests scored together, with the whole of their call
    ad_id: Column  # int64 [n]
    s: Column  # float32 [n]
    bid: Column | None  # float32 [n]
    fallback_mask: Column  # int32 [n]
    shown: Column  # int64 [k] indexes of candidates, top first
    p: Column  # float32 [k] at the slot given
    propensity: Column  # float32 [k]
    logged: Column  # int64 [m]
    sampled: int  # how many of these go into the lake
    numbers: Matrix  # float32 features [m, d]
    whole: Matrix  # int64 features [m, e]
    others: dict[str, Column]  # strings and sequences: feature -> [m] or [m, length]
    snapshots: Matrix  # int64 [m, views]
    ages: Matrix  # float32 [m, views], seconds, NaN where missing


def pack(values: npt.NDArray[Any]) -> Column:
    """An array as a `Column`, copied."""
    return Column(_code(values.dtype), values.shape, values.tobytes())


def repeated(values: npt.NDArray[Any], rows: int) -> Column:
    """An array [1, ..] that stands for `rows` equal ones, as the `Column` of them all."""
    return Column(_code(values.dtype), (rows, *values.shape[1:]), values.tobytes() * rows)


def unpack(column: Column) -> npt.NDArray[Any]:
    """The array that `pack` took, read-only."""
    return np.frombuffer(column.data, dtype=np.dtype(column.dtype)).reshape(column.shape)


def matrix(names: tuple[str, ...], values: npt.NDArray[Any]) -> Matrix:
    """Named columns as a `Matrix`, copied."""
    return Matrix(_raw(names), pack(values))


def names_of(block: Matrix) -> tuple[str, ...]:
    """The names of a matrix' columns."""
    return _names(bytes(block.names))


def features_of(record: Record) -> dict[str, npt.NDArray[Any]]:
    """A record's logged feature values by name, [m] or [m, length], read-only."""
    found: dict[str, npt.NDArray[Any]] = {name: unpack(column) for name, column in record.others.items()}
    for block in (record.whole, record.numbers):
        found |= zip(names_of(block), unpack(block.values).T, strict=True)
    return found


@lru_cache(maxsize=256)
def _code(dtype: np.dtype[Any]) -> str:
    return dtype.str


@lru_cache(maxsize=256)
def _raw(names: tuple[str, ...]) -> msgspec.Raw:
    """Names as they stand in each record: encoded once."""
    return msgspec.Raw(msgspec.msgpack.encode(names))


@lru_cache(maxsize=256)
def _names(raw: bytes) -> tuple[str, ...]:
    return tuple(msgspec.msgpack.decode(raw, type=list[str]))


class PredictionLog:
    """Appends records to a segment of its own in `home.log`.  Threads may share one; processes each have their own."""

    def __init__(self, home: Home, segment_bytes: int = SEGMENT_BYTES) -> None:
        self._log = SegmentLog(home, home.log, SUFFIX, segment_bytes)
        self._encoder = msgspec.msgpack.Encoder()

    @property
    def path(self) -> Path:
        """The segment that was opened last."""
        return self._log.path

    @property
    def files(self) -> SegmentLog:
        """What it writes through: for who watches it."""
        return self._log

    def append(self, record: Record) -> int:
        """Write one record; bytes written.  When this returns the record survives SIGKILL.  Raises as `SegmentLog.append`."""
        return self._log.append(self._encoder.encode(record))

    def close(self) -> None:
        """Close the segment; an empty one is removed.  Closing again does nothing.  Raises as `SegmentLog.close`."""
        self._log.close()


def segments(home: Home) -> list[Path]:
    """Every segment of a home's log, oldest first."""
    return segment_log.segments(home.log, SUFFIX)


def read(segment: Path, offset: int = 0) -> Iterator[tuple[Record, int]]:
    """Records of one segment from a byte offset on, each with the offset just behind it (where to go on later).

    Stops before a torn or damaged record: it may still be in the middle of being written.
    """
    decoder = msgspec.msgpack.Decoder(Record)
    for payload, behind in segment_log.payloads(segment, offset):
        yield decoder.decode(payload), behind
