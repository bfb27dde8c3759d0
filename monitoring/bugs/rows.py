"""How injections read and rewrite columns: the few moves that every file of bugs here is made of.

A move changes chosen rows of named columns and leaves the rest, nulls, types and order as they were.  Luck is a hash of ids
and the scene's seed, so rows handed over in an hour's table or one by one fare alike.  Bugs from outside may use them too.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features.catalogue import view
from features.derive import NEEDS
from features.ids import uniform
from features.requests import context_column
from infra.clock import HOUR_US
from monitoring.bugs.entry import Inject, Scene

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]


def hit(ids: Array, salt: int, share: Array | float, scene: Scene) -> Mask:
    """[n] bool: which of n ids are among a hashed `share` (one number, or one an id); the same id always fares alike."""
    return uniform(ids, salt, scene.seed) < share


def ids(rows: pa.Table, column: str) -> npt.NDArray[np.int64]:
    """A column of whole numbers or times as int64 [n]; -1 where null."""
    return pc.fill_null(pc.cast(rows[column], pa.int64()), -1).to_numpy()


def numbers(rows: pa.Table, column: str) -> npt.NDArray[np.float64]:
    """A column as float64 [n]; NaN where null."""
    return pc.fill_null(pc.cast(rows[column], pa.float64()), np.nan).to_numpy()


def words(rows: pa.Table, column: str) -> Array:
    """A column of texts as numpy unicode [n]; "" where null."""
    return context_column(rows[column])


def put(rows: pa.Table, values: Mapping[str, Array | float | int | str], where: Mask) -> pa.Table:
    """`rows` with each named column's values, [n] or one for all, in the rows of the mask `where` [n]; types stay."""
    if not where.any():
        return rows
    mask = pa.array(where)
    for name, new in values.items():
        at = rows.schema.get_field_index(name)
        if at < 0:
            raise KeyError(f"there is no column {name!r} to rewrite; there are {rows.column_names}")
        kind = rows.schema.field(at).type
        fresh = pa.array(np.array(np.broadcast_to(new, len(where)))).cast(kind)
        rows = rows.set_column(at, rows.schema.field(at), pc.if_else(mask, fresh, rows[name].combine_chunks()))
    return rows


def unknown(rows: pa.Table, columns: Iterable[str], where: Mask) -> pa.Table:
    """`rows` with the value that says "not known" (NaN, -1, "") in chosen rows of the columns."""
    return put(rows, {name: _unknown(rows.schema.field(name).type) for name in columns}, where)


def _unknown(kind: pa.DataType) -> float | int | str:
    return float("nan") if pa.types.is_floating(kind) else -1 if pa.types.is_integer(kind) else ""


def hours_since_onset(rows: pa.Table, scene: Scene) -> npt.NDArray[np.float64]:
    """Hours from the bug's onset to each row's event_timestamp, at least 0: float64 [n]."""
    return np.maximum(ids(rows, "event_timestamp") - scene.onset_us, 0) / HOUR_US


Change = Callable[[pa.Table], Mapping[str, Array | float | int | str]]  # rows -> new values by column


def for_share(salt: int, change: Change, by: str = "request_id") -> Inject:
    """An injection whose dose is the share of `by` (requests, unless named) whose rows get what `change` says."""

    def inject(rows: pa.Table, share: float, scene: Scene) -> pa.Table:
        return put(rows, change(rows), hit(ids(rows, by), salt, share, scene))

    return inject


def lost(salt: int, by: str) -> Inject:
    """An injection whose dose is the share of `by` whose rows do not arrive."""

    def inject(rows: pa.Table, share: float, scene: Scene) -> pa.Table:
        gone = hit(ids(rows, by), salt, share, scene)
        return rows.filter(pa.array(~gone)) if gone.any() else rows

    return inject


def touched(*views: str) -> tuple[str, ...]:
    """The inputs of models that depend on the views' rows: stored features, and those derived from them."""
    stored = {feature.name: feature.use for name in views for feature in view(name).features}
    derived = (name for name, needs in NEEDS.items() if stored.keys() & set(needs))
    return (*(name for name, use in stored.items() if use in ("numeric", "categorical")), *derived)
