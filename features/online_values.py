"""Feast's wire format for keys and values, written without Feast: what the online writers share.

A key is Feast's entity key, serialisation version 3; a value is one protobuf `Value` (feast.types.Value) with one field set, or
no bytes at all for null.  `import feast` costs seconds and its conversions are per cell in Python; here whole columns are
encoded at once.  `tests/features/test_feast_parity.py` holds them against Feast's own code, which reads what we write.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features.catalogue import Feature, View
from features.packed import layout
from features.snapshots import KEYS, matrix, times_us

Array = npt.NDArray[Any]
I64 = npt.NDArray[np.int64]

PROJECT = "clickproof"  # Feast's project: part of table names and Redis keys

# Tags of feast.types.Value: field number * 8 + wire type.
_STRING, _INT64, _FLOAT, _INT64_LIST = b"\x12", b"\x20", b"\x35", b"\x72"
_FLOAT_LIST = b"\x82\x01"
_PACKED = b"\x0a"  # field 1 of the list messages
_FLOAT_CELL = np.dtype([("tag", "u1"), ("value", "<f4")])
_TYPE_STRING, _TYPE_INT64 = 2, 4  # feast.types.ValueType


class Mark(NamedTuple):
    """Up to when a view's stored data are complete (-1: unknown), how often the view was written, and with which layout."""

    snapshot: int
    event_us: int
    available_us: int
    writes: int = 0
    layout: int = 0


@dataclass(frozen=True, slots=True)
class Encoded:
    """n rows of a view, one an entity, as the stores write them."""

    keys: list[bytes]
    event_us: I64
    available_us: I64
    values: dict[str, list[bytes]]  # feature -> [n] in Feast's format
    packed: list[bytes]  # [n], see features.packed


def key_bytes(view: View, keys: Sequence[Any]) -> list[bytes]:
    """Feast's serialised entity keys."""
    name = KEYS[view.entity].encode()
    head = struct.pack("<III", 1, _TYPE_STRING, len(name)) + name
    if view.entity == "placement":
        words = [str(key).encode() for key in keys]
        return [head + struct.pack("<II", _TYPE_STRING, len(word)) + word for word in words]
    head += struct.pack("<II", _TYPE_INT64, 8)
    return [head + struct.pack("<q", int(key)) for key in keys]


def key_values(view: View, keys: Sequence[bytes]) -> Array:
    """The entities behind serialised keys, as `key_bytes` took them."""
    head = 12 + len(KEYS[view.entity]) + 8
    if view.entity == "placement":
        return np.array([key[head:].decode() for key in keys], dtype=np.str_)
    return np.frombuffer(b"".join(key[head:] for key in keys), "<i8").astype(np.int64)


def encode(view: View, rows: pa.Table) -> Encoded:
    """Snapshot rows, reduced to the newest of each entity (event_timestamp, then available_at), in Feast's format."""
    key = KEYS[view.entity]
    rows = rows.sort_by([(key, "ascending"), ("event_timestamp", "ascending"), ("available_at", "ascending")])
    if rows.num_rows > 1:
        same = pc.equal(rows[key].slice(0, rows.num_rows - 1), rows[key].slice(1)).to_numpy()
        rows = rows.filter(pa.array(np.append(~same, True)))
    return Encoded(
        key_bytes(view, rows[key].to_pylist()),
        times_us(rows["event_timestamp"]),
        times_us(rows["available_at"]),
        {feature.name: _encode_column(feature, rows[feature.name]) for feature in view.features},
        layout(view).pack(rows),
    )


def _encode_column(feature: Feature, column: pa.ChunkedArray) -> list[bytes]:
    if feature.kind == "float":
        numbers = pc.fill_null(column, np.nan).to_numpy()
        cells = np.empty(len(numbers), _FLOAT_CELL)
        cells["tag"], cells["value"] = _FLOAT[0], numbers
        blob = cells.tobytes()
        return [b"" if null else blob[i * 5 : i * 5 + 5] for i, null in enumerate(np.isnan(numbers).tolist())]
    if feature.kind == "floats":
        packed = np.ascontiguousarray(matrix(column, feature.length), "<f4")
        size = feature.length * 4
        head = _PACKED + varint(size)
        head = _FLOAT_LIST + varint(len(head) + size) + head
        blob = packed.tobytes()
        return [head + blob[low : low + size] for low in range(0, len(blob), size)]
    if feature.kind == "ints":
        return [_int_list(row) for row in matrix(column, feature.length).tolist()]
    if feature.kind == "string":
        words = [word.encode() for word in pc.fill_null(column, "").to_pylist()]
        return [_STRING + varint(len(word)) + word for word in words]
    numbers = times_us(column)  # also for plain whole numbers: -1 where null
    null = -1 if feature.kind == "time" else None
    return [b"" if number == null else _INT64 + varint(number) for number in numbers.tolist()]


def _int_list(numbers: list[int]) -> bytes:
    packed = b"".join(map(varint, numbers))
    inner = _PACKED + varint(len(packed)) + packed
    return _INT64_LIST + varint(len(inner)) + inner


def varint(number: int) -> bytes:
    """Protobuf's variable-length whole number; a negative one takes ten bytes."""
    if 0 <= number < 128:
        return bytes((number,))
    number &= (1 << 64) - 1
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)
