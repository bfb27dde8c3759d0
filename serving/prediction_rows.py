"""Records of the prediction log as rows of the lake's table `predictions`: pure.

Used by `pipelines.prediction_ingest`, and by whoever looks at a log without a lake.
"""

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from features.catalogue import VIEWS
from features.ids import derived_id
from features.schemas import PREDICTIONS, TIME
from serving.prediction_log import Matrix, Record, names_of, unpack

Array = npt.NDArray[Any]


def to_table(records: Iterable[Record]) -> pa.Table:
    """One row a candidate: requests in the order of the log, candidates as they were asked.

    Columns are features.schemas.PREDICTIONS, then f_FEATURE, snapshot_VIEW and age_VIEW (null where not logged), and `day`, the
    UTC day of the request.  Bit i of fallback_mask is the catalogue's i-th view, whichever views a model reads.
    """
    groups = [_rows(list(same)) for _, same in groupby(records, key=layout)]
    return pa.concat_tables(groups, promote_options="default").combine_chunks()


def layout(record: Record) -> tuple[tuple[str, ...], ...]:
    """Names of what a record logs: records with the same can be put one behind the other, as one table."""
    return names_of(record.numbers), names_of(record.whole), tuple(record.others), names_of(record.snapshots)


def _rows(records: Sequence[Record]) -> pa.Table:
    """`to_table` of records that have the same features and views."""
    s, shown = ([unpack(getattr(r, name)) for r in records] for name in ("s", "shown"))
    logged = [unpack(r.logged)[: r.sampled] for r in records]
    counts = np.array([len(of_request) for of_request in s])
    first = np.cumsum(counts) - counts  # row of each request's first candidate
    n = int(counts.sum())

    def of_request(values: Any) -> Array:
        return np.repeat(np.asarray(values), counts)

    def of_slot(values: Array) -> pa.Array:
        return pa.array(values).take(shown_place)

    shown_rows = np.concatenate([rows + start for rows, start in zip(shown, first, strict=True)])
    logged_rows = np.concatenate([rows + start for rows, start in zip(logged, first, strict=True)])
    shown_place, logged_place = _places(n, shown_rows), _places(n, logged_rows)
    slots = np.concatenate([np.arange(len(rows)) for rows in shown])
    slot = np.full(n, -1, np.int16)
    slot[shown_rows] = slots
    request_id, time_us = of_request([r.request_id for r in records]), of_request([r.time_us for r in records])
    user_id = of_request([r.user_id for r in records])
    bids = [
        np.full(count, np.nan, np.float32) if r.bid is None else unpack(r.bid) for r, count in zip(records, counts, strict=True)
    ]
    bid = np.concatenate(bids)
    masks = np.concatenate([unpack(r.fallback_mask) for r in records])
    views = names_of(records[0].snapshots)
    columns: dict[str, pa.Array] = {
        "request_id": pa.array(request_id),
        "impression_id": of_slot(derived_id(request_id[shown_rows], slots)),
        "event_timestamp": pa.array(time_us).cast(TIME),
        "user_id": pa.array(user_id, mask=user_id < 0),
        "ad_id": pa.array(np.concatenate([unpack(r.ad_id) for r in records])),
        "slot": pa.array(slot),
        "n_candidates": pa.array(of_request(counts).astype(np.int32)),
        "s": pa.array(np.concatenate(s)),
        "p": of_slot(np.concatenate([unpack(r.p) for r in records])),
        "bid": pa.array(bid, mask=np.isnan(bid)),
        "propensity": of_slot(np.concatenate([unpack(r.propensity) for r in records])),
        "randomised": pa.array(of_request([r.randomised for r in records])),
        "fallback_mask": pa.array(_catalogue_bits(masks, list(views))),
    }
    for name in ("policy", "arm", "artefact", "encoder"):
        columns[name] = pa.array(of_request([getattr(r, name) for r in records]))
    table = pa.Table.from_arrays([columns[name] for name in PREDICTIONS.names], schema=PREDICTIONS)
    features: dict[str, Any] = {**_columns(records, "whole"), **_columns(records, "numbers")}
    features |= {
        name: _arrow(np.concatenate([unpack(r.others[name])[: r.sampled] for r in records])) for name in records[0].others
    }
    for name, values in features.items():
        table = table.append_column(f"f_{name}", values.take(logged_place))
    snapshots, ages = _columns(records, "snapshots"), _columns(records, "ages")
    for view in VIEWS:
        there = view.name in snapshots
        snapshot = snapshots[view.name].take(logged_place) if there else pa.nulls(n, pa.int64())
        age = ages[view.name].take(logged_place) if there else pa.nulls(n, pa.float32())
        table = table.append_column(f"snapshot_{view.name}", snapshot).append_column(f"age_{view.name}", age)
    day = np.datetime_as_string(time_us.astype("datetime64[us]"), unit="D")
    return table.append_column(pa.field("day", pa.string(), nullable=False), pa.array(day))


def _places(n: int, rows: Array) -> pa.Array:
    """For each of n rows its place in `rows`, null where it isn't there: what to `take` to spread values over all rows."""
    place = np.full(n, -1)
    place[rows] = np.arange(len(rows))
    return pa.array(place, mask=place < 0)


def _columns(records: Sequence[Record], block: str) -> dict[str, pa.Array]:
    """The columns of a matrix with the same names in all records, one behind the other: of the sampled candidates."""
    matrices: list[Matrix] = [getattr(record, block) for record in records]
    values = np.concatenate([unpack(m.values)[: r.sampled] for m, r in zip(matrices, records, strict=True)])
    return {name: pa.array(np.ascontiguousarray(values[:, at])) for at, name in enumerate(names_of(matrices[0]))}


def _arrow(values: Array) -> pa.Array:
    """A column of numbers, words or, from a matrix, lists."""
    if values.ndim == 1:
        return pa.array(values)
    offsets = np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values.reshape(-1)))


def _catalogue_bits(masks: Array, views: list[str]) -> Array:
    """Masks whose bits follow `views`, with bits in the catalogue's order instead."""
    bits = {view.name: bit for bit, view in enumerate(VIEWS)}
    moved = np.zeros(len(masks), np.int32)
    for at, name in enumerate(views):
        if name in bits:
            moved |= ((masks >> at) & 1) << bits[name]
    return moved
