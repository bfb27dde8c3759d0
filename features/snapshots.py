"""Feature snapshots on disk: one parquet file a view and day, and a manifest of what was complete when.

`pipelines.materialize` writes them; the as-of source, Feast's offline store and the online writer read them.

    features/VIEW/day=YYYY-MM-DD.parquet            entity key | event_timestamp | available_at | snapshot | the view's features
    features/_manifest/VIEW/day=YYYY-MM-DD.parquet  snapshot | event_timestamp | available_at, one row a completed unit

Files are replaced whole (written beside, then renamed), so a reader sees the old day or the new one, never a part.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features.catalogue import Kind, View
from features.schemas import TIME
from infra.home import Home

Array = npt.NDArray[Any]

KEYS: dict[str, str] = {"user": "user_id", "ad": "ad_id", "campaign": "campaign_id", "placement": "placement"}
STAMPS = ("event_timestamp", "available_at", "snapshot")
# The views whose every snapshot holds every entity ever seen: the newest visible one is enough to answer.
DAILY = ("user_daily", "ad_daily", "campaign_daily", "placement_daily")

_TYPES: dict[Kind, pa.DataType] = {
    "float": pa.float32(),
    "int": pa.int64(),
    "string": pa.string(),
    "time": TIME,
    "floats": pa.list_(pa.float32()),
    "ints": pa.list_(pa.int64()),
}

MANIFEST = pa.schema([("snapshot", pa.int64()), ("event_timestamp", TIME), ("available_at", TIME)])


def schema(view: View) -> pa.Schema:
    """The columns of a view's snapshot files."""
    key = pa.field(KEYS[view.entity], pa.string() if view.entity == "placement" else pa.int64())
    stamps = [pa.field("event_timestamp", TIME), pa.field("available_at", TIME), pa.field("snapshot", pa.int64())]
    return pa.schema([key, *stamps, *(pa.field(f.name, _TYPES[f.kind]) for f in view.features)])


def table(
    view: View, keys: Array, event_us: Array, available_us: Array, snapshot: Array, values: Mapping[str, Array]
) -> pa.Table:
    """n snapshot rows from arrays: times as int64 us, arrays [n, length].  A time below 0 becomes null; NaN stays NaN."""
    columns: list[pa.Array] = [pa.array(keys), to_time(event_us), to_time(available_us), pa.array(snapshot, pa.int64())]
    for feature in view.features:
        column = values[feature.name]
        if feature.kind == "time":
            columns.append(to_time(column))
        elif feature.kind in ("floats", "ints"):
            columns.append(lists(column, pa.float32() if feature.kind == "floats" else pa.int64()))
        else:
            columns.append(pa.array(column).cast(_TYPES[feature.kind]))
    return pa.Table.from_arrays(columns, schema=schema(view))


def to_time(at_us: Array) -> pa.Array:
    """int64 us -> timestamp[us, UTC]; null where negative."""
    return pa.array(at_us, pa.int64(), mask=np.asarray(at_us) < 0).cast(TIME)


def lists(values: Array, item: pa.DataType) -> pa.Array:
    """A matrix [n, length] as a column of lists."""
    n, length = values.shape
    offsets = pa.array(np.arange(n + 1, dtype=np.int32) * length)
    return pa.ListArray.from_arrays(offsets, pa.array(np.ascontiguousarray(values).reshape(-1)).cast(item))


def times_us(column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """timestamp[us, UTC] -> int64 us; -1 where null."""
    return pc.fill_null(pc.cast(column, pa.int64()), -1).to_numpy()


def matrix(column: pa.ChunkedArray, length: int) -> Array:
    """A column of lists of one length as [n, length].  Raises ValueError for a list of another length."""
    flat = pa.concat_arrays([pa.array([], column.type.value_type), *(chunk.flatten() for chunk in column.chunks)])
    if len(flat) != len(column) * length:
        raise ValueError(f"a list column has {len(flat)} values in {len(column)} rows where each should have {length}")
    return flat.to_numpy(zero_copy_only=False).reshape(-1, length)


def day_path(home: Home, view: str, day: str) -> Path:
    """The file of one view and day."""
    return home.features / view / f"day={day}.parquet"


def manifest_path(home: Home, view: str, day: str) -> Path:
    """The manifest of one view and day."""
    return home.features / "_manifest" / view / f"day={day}.parquet"


def write(home: Home, view: View, day: str, rows: pa.Table, manifest: pa.Table) -> None:
    """Replace one day of a view: the rows first, then the manifest that makes them count as complete.

    Raises ValueError where the rows' columns aren't the view's, naming the difference.
    """
    expected = schema(view)
    if not rows.schema.equals(expected):
        raise ValueError(f"rows of {view.name} for {day} have columns\n{rows.schema}\nbut the catalogue says\n{expected}")
    listed = [f.name for f in view.features if f.kind == "floats"]
    _replace(home, day_path(home, view.name, day), rows, dictionary=[n for n in rows.column_names if n not in listed])
    _replace(home, manifest_path(home, view.name, day), manifest.cast(MANIFEST), dictionary=False)


def _replace(home: Home, path: Path, rows: pa.Table, dictionary: bool | list[str]) -> None:
    home.writing(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    pq.write_table(rows, beside, compression="zstd", compression_level=1, use_dictionary=dictionary)
    os.replace(beside, path)


def days(home: Home, view: str) -> list[str]:
    """The days that are complete, in order."""
    return sorted(path.stem.removeprefix("day=") for path in (home.features / "_manifest" / view).glob("day=*.parquet"))


def read(home: Home, view: str, day: str, columns: Sequence[str] | None = None) -> pa.Table:
    """One day of a view, or some of its columns.  Raises FileNotFoundError naming the command that makes it."""
    path = day_path(home, view, day)
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there: materialise {day} first (clickproof materialize)")
    # Through an open file: a path with "day=" in it would add a partition column.
    with path.open("rb") as file:
        return pq.read_table(file, columns=None if columns is None else list(columns))


def manifest(home: Home, view: str) -> pa.Table:
    """Every completed unit of a view, by day; columns as MANIFEST, plus `day`."""
    parts = []
    for day in days(home, view):
        path = manifest_path(home, view, day)
        about = path.stat()
        parts.append(_units(path, day, about.st_ino, about.st_mtime_ns))
    return pa.concat_tables(parts) if parts else MANIFEST.append(pa.field("day", pa.string())).empty_table()


@lru_cache(maxsize=4096)
def _units(path: Path, day: str, inode: int, modified_ns: int) -> pa.Table:
    """A manifest's rows.  Kept, because every join asks for all of a view's; one that changes is another file."""
    with path.open("rb") as file:
        part = pq.read_table(file)
    return part.append_column("day", pa.array([day] * part.num_rows, pa.string()))


def version(home: Home, view: str) -> str:
    """A hash of the content of all of a view's files and manifests: equal exactly where the snapshots are (16 hex digits)."""
    digest = hashlib.blake2b(digest_size=8)
    for day in days(home, view):
        for path in (day_path(home, view, day), manifest_path(home, view, day)):
            digest.update(path.name.encode())
            digest.update(hashlib.blake2b(path.read_bytes()).digest())
    return digest.hexdigest()
