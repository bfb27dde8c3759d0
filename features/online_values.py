"""Feast's wire format for keys and values, written and read without Feast: what the online writers and readers share.

A key is Feast's entity key, serialisation version 3; a value is one protobuf `Value` (feast.types.Value) with one field set, or
no bytes at all for null.  Reading `import feast` costs seconds and its conversions are per cell in Python; here whole columns
are encoded and decoded at once.  `tests/features/test_feast_parity.py` holds both against Feast's own code.
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
from features.snapshots import KEYS, matrix, times_us

Array = npt.NDArray[Any]
I64 = npt.NDArray[np.int64]

PROJECT = "clickproof"  # Feast's project: part of table names and Redis keys

# Tags of feast.types.Value: field number * 8 + wire type.
_STRING, _INT64, _FLOAT, _INT64_LIST = b"\x12", b"\x20", b"\x35", b"\x72"
_FLOAT_LIST = b"\x82\x01"
_PACKED = b"\x0a"  # field 1 of the list messages
_FLOAT_CELL = np.dtype([("tag", "u1"), ("value", "<f4")])
_NAN = _FLOAT + struct.pack("<f", np.nan)  # what null is read as
_TYPE_STRING, _TYPE_INT64 = 2, 4  # feast.types.ValueType


class Mark(NamedTuple):
    """Up to when a view's stored data are complete (-1: unknown), and how often the view was written."""

    snapshot: int
    event_us: int
    available_us: int
    writes: int = 0


@dataclass(frozen=True, slots=True)
class Encoded:
    """n rows of a view, one an entity, as the stores write them."""

    keys: list[bytes]
    event_us: I64
    available_us: I64
    snapshot: I64
    values: dict[str, list[bytes]]  # feature -> [n]


@dataclass(frozen=True, slots=True)
class RawRows:
    """What a store holds of n asked entities in one view: snapshot -1 where there is no row."""

    snapshot: I64  # [n]
    values: dict[str, list[bytes]]  # feature -> [n]; no bytes: null, or no row


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
        rows["snapshot"].to_numpy(),
        {feature.name: _encode_column(feature, rows[feature.name]) for feature in view.features},
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


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """A whole number and the position behind it."""
    number = shift = 0
    while True:
        byte = data[at]
        at += 1
        number |= (byte & 127) << shift
        if byte < 128:
            break
        shift += 7
    return number - (1 << 64) if number >> 63 else number, at


def decode(feature: Feature, values: list[bytes]) -> Array:
    """[n + 1] or [n + 1, length]: a column as `features.derive` takes it, with the unknown behind it.

    Raises ValueError where a value isn't of the feature's type."""
    n = len(values)
    if feature.kind == "float":
        if all(len(value) == 5 for value in values):
            cells = np.frombuffer(b"".join(values), _FLOAT_CELL)
            if (cells["tag"] == _FLOAT[0]).all():
                return np.append(cells["value"], np.float32(np.nan))
        return np.array([*(_float(feature, value) for value in values), np.nan], np.float32)
    if feature.kind == "floats":
        matrix_ = np.full((n + 1, feature.length), np.nan, np.float32)
        for i, value in enumerate(values):
            if value:
                matrix_[i] = np.frombuffer(_inside(feature, value, _FLOAT_LIST), "<f4")
        return matrix_
    if feature.kind == "ints":
        lists = np.full((n + 1, feature.length), -1, np.int64)
        for i, value in enumerate(values):
            if value:
                lists[i] = _ints(_inside(feature, value, _INT64_LIST))
        return lists
    if feature.kind == "string":
        return np.array([*(_string(feature, value) for value in values), ""], np.str_)
    return np.array([*(_int(feature, value) for value in values), -1], np.int64)


def decode_view(view: View, values: dict[str, list[bytes]]) -> dict[str, Array]:
    """`decode` of all features of a view, the plain numbers of all of them at once."""
    names = [feature.name for feature in view.features if feature.kind == "float"]
    cells = [value or _NAN for name in names for value in values[name]]
    found: dict[str, Array] = {}
    if cells and all(len(cell) == 5 for cell in cells):
        read = np.frombuffer(b"".join(cells), _FLOAT_CELL)
        if (read["tag"] == _FLOAT[0]).all():
            n = len(values[names[0]])
            numbers = np.full((len(names), n + 1), np.nan, np.float32)
            numbers[:, :n] = read["value"].reshape(-1, n)
            found = dict(zip(names, numbers, strict=True))
    return {f.name: found[f.name] if f.name in found else decode(f, values[f.name]) for f in view.features}


def _wrong(feature: Feature, value: bytes) -> ValueError:
    return ValueError(f"the online store holds {value[:20]!r} for {feature.name}: no {feature.kind}; materialise it again")


def _float(feature: Feature, value: bytes) -> float:
    if not value:
        return np.nan
    if value[:1] != _FLOAT or len(value) != 5:
        raise _wrong(feature, value)
    return float(struct.unpack("<f", value[1:])[0])


def _int(feature: Feature, value: bytes) -> int:
    if not value:
        return -1
    if value[:1] != _INT64:
        raise _wrong(feature, value)
    return read_varint(value, 1)[0]


def _string(feature: Feature, value: bytes) -> str:
    if not value:
        return ""
    if value[:1] != _STRING:
        raise _wrong(feature, value)
    length, at = read_varint(value, 1)
    return value[at : at + length].decode()


def _inside(feature: Feature, value: bytes, tag: bytes) -> bytes:
    """The packed numbers inside a list value."""
    if not value.startswith(tag):
        raise _wrong(feature, value)
    _, at = read_varint(value, len(tag))
    if value[at : at + 1] != _PACKED:
        raise _wrong(feature, value)
    size, at = read_varint(value, at + 1)
    return value[at : at + size]


def _ints(packed: bytes) -> list[int]:
    numbers, at = [], 0
    while at < len(packed):
        number, at = read_varint(packed, at)
        numbers.append(number)
    return numbers
