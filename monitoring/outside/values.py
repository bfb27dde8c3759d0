"""One column of a file as the monitor wants it: numbers, categories, probabilities, labels, times.

Files differ in types: a CSV is all text, a parquet may hold the same ids as integers in one file and as text in the next.
Every function takes an Arrow column and gives an Arrow array of a fixed type, null where a value can't be read, so that the
caller can count those.  Pure.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

Column: TypeAlias = Any  # a pa.ChunkedArray
Unit = Literal["timestamps", "seconds", "milliseconds", "microseconds", "nanoseconds", "ISO 8601 text"]

# Epoch numbers of the years 2001 to 2286 in seconds have ten digits, and three more for each finer unit.
_EPOCHS: tuple[tuple[float, Unit, float], ...] = (
    (1e11, "seconds", 1e6), (1e14, "milliseconds", 1e3), (1e17, "microseconds", 1.0), (np.inf, "nanoseconds", 1e-3),
)  # fmt: skip
_TRUE = ("1", "1.0", "true", "t", "yes", "y", "click", "clicked")
_FALSE = ("0", "0.0", "false", "f", "no", "n", "-1", "-1.0", "", "none", "null", "nan", "no click", "not clicked")
_WHOLE = r"^-?(0|[1-9][0-9]{0,17})(\.0+)?$"


@dataclass(frozen=True, slots=True)
class Read:
    """A column read: `values` and how many rows held something that is not what it should be."""

    values: pa.Array
    bad: int = 0
    said: str = ""  # what was detected, where there was a choice


def plain(column: Column) -> pa.Array:
    """One array without dictionary encoding, nulls included."""
    if pa.types.is_dictionary(column.type):
        column = pc.cast(column, column.type.value_type)
    if pa.types.is_large_string(column.type):
        column = pc.cast(column, pa.string())
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def numbers(column: Column) -> Read:
    """float64; null where null or not finite, bad where text is no number.  TypeError for what can't be a number."""
    values = plain(column)
    kind = values.type
    if pa.types.is_null(kind):
        return Read(pa.nulls(len(values), pa.float64()))
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        found = values if not pa.types.is_boolean(kind) else pc.cast(values, pa.int8())
        return Read(_finite(pc.cast(found, pa.float64(), safe=False)))
    if pa.types.is_temporal(kind) and not pa.types.is_duration(kind):
        return Read(pc.cast(pc.divide(pc.cast(_micros(values), pa.float64()), 1e6), pa.float64()))
    if not pa.types.is_string(kind):
        raise TypeError(f"a column of {kind} holds no numbers")
    try:
        return Read(_finite(pc.cast(values, pa.float64())))
    except pa.ArrowInvalid:
        read = pd.to_numeric(pd.Series(values.to_numpy(zero_copy_only=False)), errors="coerce")
        found = pa.array(np.asarray(read, dtype=np.float64), from_pandas=True)
        missing = pc.or_(pc.is_null(values), pc.is_in(pc.utf8_lower(values), pa.array(["nan", "inf", "-inf", ""])))
        return Read(_finite(found), int(pc.sum(pc.and_(pc.is_null(found), pc.invert(missing))).as_py() or 0))


def _finite(values: pa.Array) -> pa.Array:
    return pc.if_else(pc.is_finite(values), values, pa.scalar(None, pa.float64()))


def categories(column: Column) -> pa.Array:
    """int64 where every value is a whole number, otherwise strings; null where null."""
    values = plain(column)
    kind = values.type
    if pa.types.is_null(kind):
        return pa.nulls(len(values), pa.string())
    if pa.types.is_integer(kind):
        return pc.cast(values, pa.int64(), safe=False)
    if pa.types.is_boolean(kind):
        return pc.cast(values, pa.int64())
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        found = _finite(pc.cast(values, pa.float64(), safe=False))
        whole = pc.all(pc.equal(pc.round(found), found)).as_py()
        return pc.cast(found, pa.int64()) if whole in (True, None) else pc.cast(found, pa.string())
    if pa.types.is_temporal(kind) or pa.types.is_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return pc.cast(values, pa.string())
    if not pa.types.is_string(kind):
        raise TypeError(f"a column of {kind} holds no categories")
    distinct = pc.drop_null(pc.unique(values))
    if len(distinct) and pc.all(pc.match_substring_regex(distinct, _WHOLE)).as_py():
        return pc.cast(pc.replace_substring_regex(values, r"\.0+$", ""), pa.int64())
    return values


def labels(column: Column) -> Read:
    """int8 0 or 1; null where not known, bad where it is neither."""
    values = plain(column)
    if pa.types.is_boolean(values.type):
        return Read(pc.cast(values, pa.int8()))
    if pa.types.is_string(values.type):
        lower = pc.utf8_lower(pc.utf8_trim_whitespace(values))
        yes, no = pc.is_in(lower, pa.array(_TRUE)), pc.is_in(lower, pa.array(_FALSE))
        known = pc.or_(yes, no)
        found = pc.if_else(pc.and_(known, pc.is_valid(values)), pc.cast(yes, pa.int8()), pa.scalar(None, pa.int8()))
        return Read(found, int(pc.sum(pc.and_(pc.is_valid(values), pc.invert(known))).as_py() or 0))
    read = numbers(column).values
    yes, no = pc.equal(read, 1.0), pc.is_in(read, pa.array([0.0, -1.0]))
    found = pc.if_else(yes, pa.scalar(1, pa.int8()), pc.if_else(no, pa.scalar(0, pa.int8()), pa.scalar(None, pa.int8())))
    return Read(found, int(pc.sum(pc.and_(pc.is_valid(read), pc.is_null(found))).as_py() or 0))


def texts(column: Column) -> pa.Array:
    """Strings."""
    found = categories(column)
    return found if pa.types.is_string(found.type) else pc.cast(found, pa.string())


def times(column: Column) -> Read:
    """int64 microseconds, UTC; says what the column held.  Times without a zone are taken as UTC.  Bad where unreadable."""
    values = plain(column)
    kind = values.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        said = "timestamps" if not pa.types.is_timestamp(kind) or kind.tz else "timestamps without a zone, taken as UTC"
        return Read(_micros(values), 0, said)
    if pa.types.is_string(kind):
        read = numbers(column)
        if read.bad < 0.5 * (len(values) - values.null_count):
            return replace(_epochs(read.values), bad=read.bad)
        return _iso(values)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return _epochs(numbers(column).values if not pa.types.is_integer(kind) else values)
    raise TypeError(f"a column of {kind} holds no times")


def _micros(values: pa.Array) -> pa.Array:
    return pc.cast(pc.cast(values, pa.timestamp("us"), safe=False), pa.int64())


def _epochs(values: pa.Array) -> Read:
    sizes = np.abs(pc.drop_null(pc.cast(values, pa.float64(), safe=False)).to_numpy(zero_copy_only=False))
    middle = float(np.median(sizes)) if len(sizes) else 0.0
    for limit, unit, scale in _EPOCHS:
        if middle < limit:
            if pa.types.is_integer(values.type) and scale >= 1:
                wide = pc.multiply(pc.cast(values, pa.int64()), pa.scalar(int(scale), pa.int64()))
            else:
                wide = pc.cast(pc.round(pc.multiply(pc.cast(values, pa.float64(), safe=False), scale)), pa.int64(), safe=False)
            return Read(wide, 0, f"{unit} since 1970, UTC")
    raise AssertionError("the last limit is infinite")


def _iso(values: pa.Array) -> Read:
    for kind, said in ((pa.timestamp("us", "UTC"), "ISO 8601"), (pa.timestamp("us"), "ISO 8601 without a zone, taken as UTC")):
        try:
            return Read(_micros(pc.cast(values, kind)), 0, said)
        except pa.ArrowInvalid:
            continue
    read = pd.to_datetime(pd.Series(values.to_numpy(zero_copy_only=False)), errors="coerce", format="ISO8601", utc=True)
    micros = read.dt.as_unit("us")
    found = pa.array(micros.astype("int64").to_numpy(), mask=micros.isna().to_numpy())
    return Read(found, int(pc.sum(pc.and_(pc.is_null(found), pc.is_valid(values))).as_py() or 0), "ISO 8601, zones as written")
