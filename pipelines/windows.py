"""Windows for the monitor, made from tables: a stretch of the prediction log, the clicks that found it, what was recomputed.

Pure.  The plant (worlds that go on, with or without a bug), the lake's own log (`pipelines.lake_windows`) and live mode make
their windows with these few functions, so that one set of detectors sees one shape.
"""

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features.batch import Array
from features.ids import uniform
from features.sources import logged_column
from monitoring.columns import columns_of as columns_of  # callers of windows need the columns with them
from monitoring.window import BOOKS
from serving.scorer import ScoringArtefact

I64 = npt.NDArray[np.int64]

SAMPLE = 300  # rows of an hour that are recomputed: some 7,000 a day, which costs well under a second
OLD_SAMPLE = 100  # of them, those that are also looked up as the store stood a day earlier
_SALT = 0x5245_504C

# Columns of features.schemas.PREDICTIONS -> those of a window's log.
_NAMES = {
    "impression_id": "id", "event_timestamp": "time", "p": "p", "artefact": "model", "encoder": "encoder", "arm": "arm",
    "user_id": "user", "ad_id": "item", "slot": "slot", "randomised": "randomised", "s": "s", "request_id": "request",
    "fallback_mask": "fallback_mask",
}  # fmt: skip


def log_of(predictions: pa.Table) -> pa.Table:
    """A window's log from rows of the prediction log that were shown (features.schemas.PREDICTIONS, f_, snapshot_, age_).

    Sequences are left out: no monitor looks at them.
    """
    columns = {new: predictions[old] for old, new in _NAMES.items() if old in predictions.column_names}
    columns["time"] = pc.cast(columns["time"], pa.int64())
    columns["p"] = pc.cast(columns["p"], pa.float64())
    for field in predictions.schema:
        if field.name.startswith(("f_", "snapshot_", "age_")) and not pa.types.is_nested(field.type):
            columns[field.name] = predictions[field.name]
    return pa.table(columns)


def sample_rows(ids: I64, most: int = SAMPLE) -> I64:
    """Positions, ascending, of the `most` rows whose ids hash lowest: the same rows wherever the log is cut."""
    if len(ids) <= most:
        return np.arange(len(ids))
    return np.sort(np.argpartition(uniform(_SALT, ids), most)[:most])


def feature_columns(table: pa.Table) -> dict[str, Array]:
    """The f_ columns as numpy, by feature: what an artefact scores."""
    return {name[2:]: logged_column(table[name]) for name in table.column_names if name.startswith("f_")}


def feature_arrays(columns: Mapping[str, Array]) -> dict[str, pa.Array]:
    """Features as Arrow columns f_NAME; a sequence [n, length] becomes lists."""
    return {f"f_{name}": _arrow(values) for name, values in columns.items()}


def _arrow(values: Array) -> pa.Array:
    if values.ndim == 1:
        return pa.array(values)
    offsets = np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.ascontiguousarray(values).reshape(-1)))


def offline_of(rows: pa.Table) -> pa.Table:
    """Recomputed features as a window holds them: id and f_NAME, from rows with impression_id and f_NAME."""
    names = [f.name for f in rows.schema if f.name.startswith("f_") and not pa.types.is_nested(f.type)]
    return rows.select(["impression_id", *names]).rename_columns(["id", *names])


def rescored_of(predictions: pa.Table, artefact: Callable[[str], ScoringArtefact | None]) -> pa.Table:
    """What the declared artefact of each row gives on its logged features: id, p.

    `artefact` finds one by hash, None where there is none: such rows are left out.
    """
    ids, p = [], []
    for name in pc.unique(predictions["artefact"]).to_pylist():
        model = artefact(name)
        if model is None:
            continue
        rows = predictions.filter(pc.equal(predictions["artefact"], name))
        s = model.score(feature_columns(rows))
        ids.append(rows["impression_id"].to_numpy())
        # To single precision and back, as serving logs it.
        p.append(model.probability(s, rows["slot"].to_numpy()).astype(np.float32).astype(np.float64))
    if not ids:
        return pa.table({"id": pa.array([], pa.int64()), "p": pa.array([], pa.float64())})
    return pa.table({"id": np.concatenate(ids), "p": np.concatenate(p)})


def joined(clicks: pa.Table, log: pa.Table) -> pa.Table:
    """The log's row of each click's prediction, with clicked_at and arrived_at (us); clicks without a prediction are dropped.

    `clicks` as features.schemas.CLICKS, in the order in which they come out; of two log rows with one id the first counts.
    """
    at = positions(log["id"].to_numpy(), clicks["impression_id"].to_numpy())
    found = at >= 0
    rows = log.take(pa.array(at[found]))
    kept = clicks.filter(pa.array(found))
    times = {"clicked_at": "event_timestamp", "arrived_at": "arrived_at"}
    for new, old in times.items():
        rows = rows.append_column(new, pc.cast(kept[old], pa.int64()))
    return rows


def positions(ids: I64, wanted: I64) -> I64:
    """The first position in `ids` of each wanted id, -1 where it isn't there: int64 as long as `wanted`."""
    if not len(ids):
        return np.full(len(wanted), -1)
    order = np.argsort(ids, kind="stable")
    place = np.minimum(np.searchsorted(ids, wanted, sorter=order), len(ids) - 1)
    at = order[place]
    return np.where(ids[at] == wanted, at, -1)


def books_of(rows: Iterable[tuple[str, str, int]]) -> pa.Table:
    """BOOKS from (stream, stage, rows)."""
    return pa.Table.from_pylist([dict(zip(BOOKS.names, row, strict=True)) for row in rows], schema=BOOKS)
