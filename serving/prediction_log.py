"""The prediction log: what was answered, to whom, from which values, written before the answer leaves.

`serving.scorer` appends; `pipelines.prediction_ingest` reads the segments into the lake.  One request is one record:

    length of the payload (uint32, little endian) | CRC-32 of the payload (uint32) | payload (MessagePack of `Record`)

A record goes out through one write(2) to a file opened for appending, so it survives the death of the process at any point
after `append` returns (not a power loss: that would take an fsync).  A process that dies inside the write leaves a torn tail,
which a reader recognises by length or checksum and leaves alone.  No segment is ever reopened for writing: a torn tail stays
the last thing in its file.
"""

import os
import secrets
import struct
import threading
import zlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from infra.home import Home

_HEAD = struct.Struct("<II")
MAX_RECORD_BYTES = 64 << 20  # a longer length in a header is damage, not a record
SEGMENT_BYTES = 64 << 20  # a segment is closed once it is longer than this
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
    slot order, then a hashed 1% of the rest.
    """

    request_id: int
    time_us: int
    user_id: int  # -1: unknown
    policy: str
    randomised: bool
    arm: str
    artefact: str
    encoder: str
    ad_id: Column  # int64 [n]
    s: Column  # float32 [n]
    bid: Column | None  # float32 [n]
    fallback_mask: Column  # int32 [n]
    shown: Column  # int64 [k] indexes of candidates, top first
    p: Column  # float32 [k] at the slot given
    propensity: Column  # float32 [k]
    logged: Column  # int64 [m]
    numbers: Matrix  # float32 features [m, d]
    whole: Matrix  # int64 features [m, e]
    others: dict[str, Column]  # strings and sequences: feature -> [m] or [m, length]
    snapshots: Matrix  # int64 [m, views]
    ages: Matrix  # float32 [m, views], seconds, NaN where missing


def pack(values: npt.NDArray[Any]) -> Column:
    """An array as a `Column`, copied."""
    return Column(_code(values.dtype), values.shape, values.tobytes())


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
    found = {name: unpack(column) for name, column in record.others.items()}
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


class TornWrite(OSError):
    """The system took only a part of a record (a full disk, mostly); the answer must not be given."""


class PredictionLog:
    """Appends records to a segment of its own in `home.log`.  Threads may share one; processes each have their own."""

    def __init__(self, home: Home, segment_bytes: int = SEGMENT_BYTES) -> None:
        self._home = home
        self._segment_bytes = segment_bytes
        self._encoder = msgspec.msgpack.Encoder()
        self._lock = threading.Lock()
        self._written = 0
        self._fd, self.path = _new_segment(home)

    def append(self, record: Record) -> int:
        """Write one record; bytes written.  When this returns the record survives SIGKILL.

        Raises OSError where it can't be written.  After a torn write the segment is left as it is, a new one is opened for
        what comes next, and TornWrite is raised.
        """
        payload = self._encoder.encode(record)
        frame = _HEAD.pack(len(payload), zlib.crc32(payload)) + payload
        with self._lock:
            if self._fd < 0:
                raise ValueError(f"the prediction log {self.path} is closed; make a new PredictionLog to write more")
            if self._written >= self._segment_bytes:
                self._rotate()
            taken = os.write(self._fd, frame)
            self._written += taken
            if taken != len(frame):
                torn = self.path
                self._rotate()
                raise TornWrite(f"{torn}: only {taken} of {len(frame)} bytes of a record were written; is the disk full?")
        return taken

    def close(self) -> None:
        """Close the segment; an empty one is removed.  Closing again does nothing."""
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1
                if self._written == 0:
                    self.path.unlink(missing_ok=True)

    def _rotate(self) -> None:
        os.close(self._fd)
        self._fd = -1  # stays so if no new segment can be opened: then every later append fails loudly
        self._fd, self.path = _new_segment(self._home)
        self._written = 0


def _new_segment(home: Home) -> tuple[int, Path]:
    """A new, empty segment: a number for order, and a token because a name must never come back, even after old segments were
    deleted (the ingestion remembers offsets by name)."""
    number = max((int(path.name.partition("-")[0]) for path in segments(home)), default=0) + 1
    path = home.writing(home.log / f"{number:08d}-{secrets.token_hex(6)}{SUFFIX}")
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644), path


def segments(home: Home) -> list[Path]:
    """Every segment of a home's log, oldest first."""
    return sorted(home.log.glob(f"*{SUFFIX}"))


def read(segment: Path, offset: int = 0) -> Iterator[tuple[Record, int]]:
    """Records of one segment from a byte offset on, each with the offset just behind it (where to go on later).

    Stops before a torn or damaged record: it may still be in the middle of being written.
    """
    decoder = msgspec.msgpack.Decoder(Record)
    with segment.open("rb") as file:
        file.seek(offset)
        while len(head := file.read(_HEAD.size)) == _HEAD.size:
            length, checksum = _HEAD.unpack(head)
            if not 0 < length <= MAX_RECORD_BYTES:  # zeros: a file extended but not written, after a power loss
                return
            payload = file.read(length)
            if len(payload) < length or zlib.crc32(payload) != checksum:
                return
            offset += _HEAD.size + length
            yield decoder.decode(payload), offset
