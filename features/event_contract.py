"""The contract at the lake's door: takes a batch of events, gives back what may enter, and what may not with the reason.

Pure and vectorised.  Called by ingestion for each stream and day, and by anyone who wonders whether their own log would be
accepted.  The rules themselves are in `features.event_rules`.
"""

from collections.abc import Sequence
from typing import NamedTuple, cast

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from features.event_rules import EARLIEST_US, Rule, Window, event_schema, rules
from features.schemas import KEYS, TIME

Mask = npt.NDArray[np.bool_]
I64 = npt.NDArray[np.int64]

# What was refused and why.  `row` counts from 0; it, field, value and content are null where a whole file was refused.
QUARANTINE = pa.schema(
    [
        pa.field("stream", pa.string(), nullable=False),
        pa.field("file", pa.string(), nullable=False),
        pa.field("row", pa.int64()),
        pa.field("field", pa.string()),
        pa.field("value", pa.string()),
        pa.field("rule", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),  # one sentence: where, what, what must hold, what to do
        pa.field("content", pa.string()),  # the row as delivered, as JSON
    ]
)


class WrongColumns(ValueError):
    """A batch as a whole does not have the shape of its stream: a column is missing, unknown or of another type."""


class Origin(NamedTuple):
    """Where each of n rows came from: names of files, index into them [n], row number in the file from 0 [n]."""

    files: Sequence[str]
    file: I64
    row: I64


class Checked(NamedTuple):
    """rows in == len(accepted) + len(quarantined) + duplicates."""

    accepted: pa.Table  # in the stream's schema, in the order of the batch
    quarantined: pa.Table  # QUARANTINE
    duplicates: int  # rows whose id an earlier row of the batch has
    rows: I64  # which rows of the batch were accepted


def check(
    stream: str,
    table: pa.Table,
    now_us: int,
    context_columns: tuple[str, ...] = (),
    *,
    since_us: int = EARLIEST_US,
    origin: Origin | None = None,
) -> Checked:
    """Judge one batch of a stream of `features.schemas.STREAMS`, received between `since_us` and `now_us`.

    Types that hold the same values are converted (int64 for int16, double for float, any time with a zone); where all columns
    are text, as from a CSV file, they are parsed.  A row is refused for the first rule it breaks; of rows with one id the first
    that breaks none is accepted.  Raises WrongColumns where the batch as a whole has another shape."""
    schema = event_schema(stream, context_columns)
    table = pa.table([_plain(column) for column in table.columns], names=table.column_names)
    typed, unreadable = _conform(stream, table, schema)
    window = Window(since_us, now_us)
    broken = [(Rule(name, must, fix, lambda t, w: None), mask) for name, must, fix, mask in unreadable]
    broken += [(rule, _breaks(rule, typed, window)) for rule in rules(stream, schema)]
    kept = [(rule, mask) for rule, mask in broken if mask.any()]

    verdict = np.full(len(table), -1, np.int64)
    for number in reversed(range(len(kept))):
        verdict[kept[number][1]] = number
    good, bad = np.flatnonzero(verdict < 0), np.flatnonzero(verdict >= 0)
    ids = typed[KEYS[stream]].to_numpy()[good] if len(good) else np.zeros(0, np.int64)
    first = np.sort(np.unique(ids, return_index=True)[1])
    origin = origin or Origin(["batch"], np.zeros(len(table), np.int64), np.arange(len(table)))
    refused = _refused(stream, table.take(bad), [rule for rule, _ in kept], verdict[bad], origin, bad)
    return Checked(typed.take(good[first]).cast(schema), refused, len(good) - len(first), good[first])


def refused_rows(stream: str, rows: pa.Table, rule: Rule, origin: Origin) -> pa.Table:
    """The quarantine's rows for `rows` that all broke one rule, as with rules between tables, which `check` cannot judge."""
    return _refused(stream, rows, [rule], np.zeros(len(rows), np.int64), origin, np.arange(len(rows)))


def refused_file(stream: str, file: str, rule: str, reason: str) -> pa.Table:
    """The quarantine's one row for a file of which nothing could be used."""
    row = {"stream": stream, "file": file, "rule": rule, "reason": reason}
    return pa.Table.from_pylist([row], schema=QUARANTINE)


def _breaks(rule: Rule, table: pa.Table, window: Window) -> Mask:
    return pc.invert(pc.fill_null(rule.holds(table, window), True)).to_numpy()


def _refused(stream: str, rows: pa.Table, broken: list[Rule], verdict: I64, origin: Origin, at: I64) -> pa.Table:
    """The quarantine's rows: `rows` as delivered, each having broken rule `verdict[i]`, at positions `at` of the batch."""
    if not len(rows):
        return QUARANTINE.empty_table()
    shown = pa.table([_printable(column) for column in rows.columns], names=rows.column_names)
    value = pa.nulls(len(rows), pa.string())
    for number, rule in enumerate(broken):
        value = pc.if_else(pa.array(verdict == number), pc.cast(shown[rule.field], pa.string()), value)
    broke = {part: pl.Series([getattr(rule, part) for rule in broken]).gather(verdict) for part in ("field", "must", "fix")}
    sentence = "{}, row {}: {} is {}, but it {}; {}"
    found = pl.DataFrame(
        {"file": pl.Series(origin.files).gather(origin.file[at]), "row": origin.row[at], "value": pl.from_arrow(value), **broke}
    ).select(
        pl.lit(stream).alias("stream"), "file", "row", "field", "value", pl.col("must").alias("rule"),
        pl.format(sentence, "file", "row", "field", pl.col("value").fill_null("null"), "must", "fix").alias("reason"),
        cast(pl.DataFrame, pl.from_arrow(shown)).select(pl.struct(pl.all()).struct.json_encode()).to_series().alias("content"),
    )  # fmt: skip
    return found.to_arrow().cast(QUARANTINE)


def _printable(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column as text can show it: bytes that are not UTF-8 escaped, numbers that JSON lacks (nan, inf) as text."""
    if pa.types.is_floating(column.type) and not pc.all(pc.is_finite(column)).as_py():
        return pc.cast(column, pa.string())
    if _is_text(column.type):
        codes = column.combine_chunks().cast(pa.binary()).dictionary_encode()
        decoded = [value.decode(errors="backslashreplace") for value in codes.dictionary.to_pylist()]
        return pa.chunked_array([pa.array(decoded, pa.string()).take(codes.indices)])
    return column


Unreadable = tuple[str, str, str, Mask]  # field, what it must be, the fix, in which rows it isn't


def _conform(stream: str, table: pa.Table, schema: pa.Schema) -> tuple[pa.Table, list[Unreadable]]:
    """`table` with the columns and types of `schema` (all nullable), and which values could not be had: they are null there."""
    missing, unknown = sorted(set(schema.names) - set(table.column_names)), sorted(set(table.column_names) - set(schema.names))
    if len(set(table.column_names)) != table.num_columns:
        raise WrongColumns(f"{stream}: two columns have one name; there are {table.column_names}")
    if missing:
        raise WrongColumns(f"{stream}: column {missing[0]!r} is missing; add it ({_wanted(schema.field(missing[0]))})")
    if unknown:
        raise WrongColumns(
            f"{stream}: column {unknown[0]!r} is unknown; drop it, or declare it as context in the source's spec"
        )
    as_text = all(_is_text(f.type) for f in table.schema)
    columns, unreadable = [], []
    for field in schema:
        column, bad = _as_type(table[field.name], field, as_text)
        columns.append(column)
        if bad is not None and bad.any():
            what, fix = (
                ("valid UTF-8", "encode text as UTF-8") if field.type == pa.string() else (_wanted(field), "correct the value")
            )
            unreadable.append((field.name, f"must be {what}", fix, bad))
    return pa.table(columns, names=schema.names), unreadable


def _as_type(column: pa.ChunkedArray, field: pa.Field, as_text: bool) -> tuple[pa.ChunkedArray, Mask | None]:
    """A column in the type of `field`, and where a value could not be converted (None: nowhere)."""
    want, have = field.type, column.type
    if want == pa.string() and _is_text(have):
        text, bad = _valid_text(column)
        return (pc.if_else(pc.equal(text, ""), None, text) if as_text and field.nullable else text), bad
    if have == want:
        return column, None
    if pa.types.is_null(have):
        return pa.chunked_array([pa.nulls(len(column), want)]), None
    if _is_text(have) and as_text:
        return _parsed(_valid_text(column)[0], want)
    if pa.types.is_integer(want) and pa.types.is_integer(have):
        bounds = np.iinfo(want.to_pandas_dtype())
        numbers = pc.cast(column, pa.int64(), safe=False)  # uint64 above 2**63 turns negative here, which no id may be
        bad = pc.fill_null(pc.or_(pc.less(numbers, bounds.min), pc.greater(numbers, bounds.max)), False)
        return pc.cast(pc.if_else(bad, None, numbers), want), bad.to_numpy()
    if pa.types.is_floating(want) and (pa.types.is_floating(have) or pa.types.is_integer(have)):
        return pc.cast(column, want, safe=False), None
    if pa.types.is_timestamp(want) and pa.types.is_timestamp(have) and have.tz:
        return pc.cast(column, want, safe=False), None
    raise WrongColumns(f"column {field.name!r} is {have}, as in {column[:1].to_pylist()}; write it as {_wanted(field)}")


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Dictionaries and views as plain arrays, which every kernel takes."""
    if pa.types.is_dictionary(column.type):
        column = pc.cast(column, column.type.value_type)
    if pa.types.is_string_view(column.type) or pa.types.is_binary_view(column.type):
        column = pc.cast(column, pa.large_binary())
    return column


def _valid_text(column: pa.ChunkedArray) -> tuple[pa.ChunkedArray, Mask | None]:
    """The column as valid UTF-8, with null where it was not, and where that is."""
    raw = pc.cast(column, pa.binary())
    try:
        return pc.cast(raw, pa.string()), None
    except pa.ArrowInvalid:  # some value isn't UTF-8: look at each distinct one
        codes = raw.combine_chunks().dictionary_encode()
        texts = [_decoded(value) for value in codes.dictionary.to_pylist()]
        text = pa.chunked_array([pa.array(texts, pa.string()).take(codes.indices)])
        return text, pc.and_(pc.is_null(text), pc.is_valid(raw)).to_numpy()


def _decoded(value: bytes) -> str | None:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None


def _parsed(text: pa.ChunkedArray, want: pa.DataType) -> tuple[pa.ChunkedArray, Mask]:
    """Text as numbers, booleans or times; empty is null."""
    written = pl.Series("text", pl.from_arrow(text))
    written = written.set(written == "", None)
    if want == TIME:
        values = written.str.to_datetime("%+", time_unit="us", time_zone="UTC", strict=False)
    elif want == pa.bool_():
        values = written.str.to_lowercase().replace_strict(
            {"true": True, "false": False}, default=None, return_dtype=pl.Boolean
        )
    else:
        values = written.cast(pl.DataFrame(pa.table({"x": pa.array([], want)})).schema["x"], strict=False)
    bad = (values.is_null() & written.is_not_null()).to_numpy()
    return pa.chunked_array([values.to_arrow().cast(want)]), bad


def _is_text(kind: pa.DataType) -> bool:
    return kind in (pa.string(), pa.large_string(), pa.binary(), pa.large_binary())


def _wanted(field: pa.Field) -> str:
    kind = "an ISO 8601 time with its zone, such as 2026-01-05T12:00:00Z" if field.type == TIME else str(field.type)
    return f"{kind}{' or empty' if field.nullable else ''}"
