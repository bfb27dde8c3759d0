"""Features of past requests: `AsOfSource`, history as it could be seen at each row's time (training, batch scoring, replay),
and `LoggedSource`, what serving wrote down.  The third form, the online store, is `features.online`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features import snapshots
from features.asof import asof_index
from features.batch import I64, MISSING, OK, STALE, Array, FeatureBatch, RequestBatch, ViewState
from features.catalogue import VIEWS, Entity, Feature, View
from features.derive import derive
from features.requests import context_column
from features.snapshots import KEYS, matrix, times_us
from features.spec import service_views
from infra.clock import SECOND_US
from infra.home import Home

CHUNK = 65_536  # rows derived at once: bounds the memory that per-category arrays need

# (view, available_us [m], event_us [m]) -> the same two as they should be taken to be: for questions of the kind "what if".
Stamps = Callable[[View, I64, I64], tuple[I64, I64]]


def as_stored(view: View, available_us: I64, event_us: I64) -> tuple[I64, I64]:
    """The stamps as they are: what everything but a question about lateness uses."""
    return available_us, event_us


class AsOfSource:
    """Features as serving could have seen them, from snapshot files.  Reads only the days that the requests can see."""

    def __init__(
        self,
        home: Home,
        entities: Sequence[Entity],
        context: Sequence[str],
        service: str = "ctr_full",
        stamps: Stamps = as_stored,
    ) -> None:
        """`context` names the request's own columns, as the source's spec does.  `stamps` may let rows come later or earlier
        than they did."""
        self.home = home
        self.stamps = stamps
        self.context = tuple(context)
        self.views = service_views(entities, service)

    def fetch(self, requests: RequestBatch) -> FeatureBatch:
        """Features of each row, in row order; see FeatureSource.  Raises ValueError where a context column isn't in the
        requests."""
        absent = [name for name in self.context if name not in requests.context]
        if absent:
            raise ValueError(f"the requests lack the context columns {absent}; they have {sorted(requests.context)}")
        found = {
            view.name: _look_up(self.home, view, _keys(view, requests), requests.time_us, self.stamps) for view in self.views
        }
        campaign = found.get("ad_profile")
        for view in self.views:
            if view.entity == "campaign":  # the second step: an ad's campaign is itself a feature
                keys = campaign.take("campaign_id", slice(None)) if campaign else np.full(len(requests), -1)
                found[view.name] = _look_up(self.home, view, keys, requests.time_us, self.stamps)
        columns = self._derive(found, requests)
        for name, values in columns.items():
            if len(values) != len(requests):
                raise AssertionError(f"{name} has {len(values)} rows for {len(requests)} requests")
        return FeatureBatch(columns, {name: rows.state for name, rows in found.items()})

    def _derive(self, found: "dict[str, Found]", requests: RequestBatch) -> dict[str, Array]:
        """`derive` in chunks; a chunk's inputs are gathered, used and dropped."""
        n = len(requests)
        columns: dict[str, Array] = {}
        for low in range(0, max(n, 1), CHUNK):
            part = slice(low, low + CHUNK)
            stored = {f.name: found[v.name].take(f.name, part) for v in self.views for f in v.features}
            asked = RequestBatch(
                requests.row_id[part], requests.time_us[part], requests.user_id[part], requests.ad_id[part],
                {name: requests.context[name][part] for name in self.context},
            )  # fmt: skip
            derived = derive(stored, asked)
            if n <= CHUNK:
                return derived
            for name, values in derived.items():
                if name not in columns:
                    columns[name] = np.empty((n, *values.shape[1:]), values.dtype)
                columns[name][part] = values
        return columns


def _keys(view: View, requests: RequestBatch) -> Array:
    """The entity of each request in a view; the campaign's comes later, from the ad's profile."""
    if view.entity == "placement":
        return requests.context.get("placement", np.full(len(requests), "", np.str_))
    return {"user": requests.user_id, "ad": requests.ad_id, "campaign": np.full(len(requests), -1)}[view.entity]


@dataclass(frozen=True, slots=True)
class Found:
    """The rows of one view that n requests see: values of u distinct rows and each request's place among them (u: no row)."""

    values: Mapping[str, Array]  # [u + 1] or [u + 1, length]; the last row is the unknown
    place: I64  # [n]
    state: ViewState

    def take(self, name: str, part: slice) -> Array:
        return self.values[name][self.place[part]]


def _look_up(home: Home, view: View, keys: Array, time_us: I64, stamps: Stamps) -> Found:
    """The as-of join of one view: index columns of all visible days first, then values of only the rows that somebody sees."""
    n = len(keys)
    marks = snapshots.manifest(home, view.name)
    mark_available, mark_event = stamps(view, times_us(marks["available_at"]), times_us(marks["event_timestamp"]))
    mark = asof_index(np.zeros(n, np.int64), time_us, np.zeros(len(mark_event), np.int64), mark_available, mark_event)
    days = _visible_days(home, view, marks["day"], mark, time_us)
    names = [KEYS[view.entity], "event_timestamp", "available_at", "snapshot"]
    index = [snapshots.read(home, view.name, day, names) for day in days]
    counts = np.array([0, *(part.num_rows for part in index)])
    rows = pa.concat_tables(index) if index else snapshots.schema(view).empty_table()
    row_keys = _numpy(rows[names[0]])
    available_us, event_us = stamps(view, times_us(rows["available_at"]), times_us(rows["event_timestamp"]))
    row = asof_index(keys, time_us, row_keys, available_us, event_us)
    seen, place = np.unique(row, return_inverse=True)
    if len(seen) and seen[0] == -1:  # the unknown goes last
        seen = seen[1:]
        place = np.where(place == 0, len(seen), place - 1)
    values = _values(home, view, days, np.cumsum(counts), seen)
    snapshot = np.where(row >= 0, rows["snapshot"].to_numpy()[row] if rows.num_rows else 0, 0)
    age_s = np.full(n, np.nan, np.float32)
    marked = mark >= 0
    age_s[marked] = (time_us[marked] - mark_event[mark[marked]]) / SECOND_US
    return Found(values, place, ViewState(snapshot, age_s, status(view, row >= 0, age_s)))


def status(view: View, found: Array, age_s: Array) -> Array:
    """[n] uint8: MISSING without a row, STALE where the view's data are older than it may be (or of unknown age), else OK."""
    if view.max_age_s is None:
        return np.where(found, OK, MISSING).astype(np.uint8)
    return np.where(found, np.where(age_s <= view.max_age_s, OK, STALE), MISSING).astype(np.uint8)


def _visible_days(home: Home, view: View, mark_days: pa.ChunkedArray, mark: I64, time_us: I64) -> list[str]:
    """The days whose rows some request may see, in order."""
    if len(time_us) == 0:
        return []
    latest = np.datetime64(int(time_us.max()), "us").astype("datetime64[D]").astype(str)
    days = [day for day in snapshots.days(home, view.name) if day <= latest]
    if view.name not in snapshots.DAILY:
        return days
    seen = mark[mark >= 0]
    if len(seen) == 0:
        return []
    first = min(mark_days.take(pa.array(np.unique(seen))).to_pylist())
    return [day for day in days if day >= first]


def _values(home: Home, view: View, days: list[str], starts: I64, seen: I64) -> dict[str, Array]:
    """The features of the rows `seen` (sorted positions in the days laid end to end), with one row of unknowns behind them."""
    parts = []
    for day, low, high in zip(days, starts[:-1], starts[1:], strict=True):
        rows = seen[np.searchsorted(seen, low) : np.searchsorted(seen, high)] - low
        if len(rows):
            table = snapshots.read(home, view.name, day, [f.name for f in view.features])
            parts.append(table if len(rows) == table.num_rows else table.take(pa.array(rows)))
    rows = pa.concat_tables(parts) if parts else snapshots.schema(view).empty_table()
    return {f.name: with_unknown(f, rows[f.name]) for f in view.features}


def with_unknown(feature: Feature, column: pa.ChunkedArray) -> Array:
    """A stored column as `derive` takes it, with one more row at the end: the value of an entity that isn't known."""
    if feature.kind == "time":
        return np.append(times_us(column), -1)
    if feature.kind == "string":
        return np.append(context_column(column), "")
    if feature.kind in ("floats", "ints"):
        values = matrix(column, feature.length)
        return np.concatenate([values, np.full((1, feature.length), np.nan if feature.kind == "floats" else -1, values.dtype)])
    if feature.kind == "int":
        return np.append(pc.fill_null(column, -1).to_numpy(), -1)
    return np.append(pc.fill_null(column, np.nan).to_numpy(), np.float32(np.nan))


def _numpy(column: pa.ChunkedArray) -> Array:
    return context_column(column) if pa.types.is_string(column.type) else column.to_numpy()


class LoggedSource:
    """Features as serving logged them: rows of the lake's `predictions` by impression id."""

    def __init__(self, predictions: pa.Table) -> None:
        """Rows without an impression id (candidates that weren't shown) are left out."""
        self.rows = predictions.filter(pc.is_valid(predictions["impression_id"]))
        ids = self.rows["impression_id"].to_numpy()
        self._order = np.argsort(ids, kind="stable")
        self._ids = ids[self._order]
        self.views = tuple(view for view in VIEWS if f"snapshot_{view.name}" in predictions.column_names)

    def fetch(self, requests: RequestBatch) -> FeatureBatch:
        """The logged features of each row (`row_id` is the impression id); a row that isn't in the log is unknown and MISSING.

        A row whose feature values weren't logged has nulls in the log, and is unknown here too.
        """
        n = len(requests)
        at = np.minimum(np.searchsorted(self._ids, requests.row_id), max(len(self._ids) - 1, 0))
        found = self._ids[at] == requests.row_id if len(self._ids) else np.zeros(n, bool)
        rows = self.rows.take(pa.array(self._order[at] if len(self._ids) else at[:0], mask=~found if len(self._ids) else None))
        if rows.num_rows != n:
            rows = pa.Table.from_arrays([pa.nulls(n, f.type) for f in self.rows.schema], schema=self.rows.schema)
        columns = {name[2:]: logged_column(rows[name]) for name in rows.column_names if name.startswith("f_")}
        mask = pc.fill_null(rows["fallback_mask"], 0).to_numpy()
        views = {}
        # A row's mask has one bit for each view of its own service: those whose snapshot isn't null.
        bit = np.zeros(n, np.int32)
        for view in self.views:
            snapshot = pc.fill_null(rows[f"snapshot_{view.name}"], 0).to_numpy()
            age = pc.fill_null(pc.cast(rows[f"age_{view.name}"], pa.float32()), np.nan).to_numpy()
            fallen = np.where(mask >> bit & 1, STALE, OK)
            views[view.name] = ViewState(snapshot, age, np.where(snapshot == 0, MISSING, fallen).astype(np.uint8))
            bit += pc.is_valid(rows[f"snapshot_{view.name}"]).to_numpy()
        return FeatureBatch(columns, views)


def logged_column(column: pa.ChunkedArray) -> Array:
    """A logged feature as numpy: float32, int64 (-1), unicode ("") or a matrix; null becomes the unknown."""
    kind = column.type
    if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
        length = int(lengths.max(initial=0))
        values = np.full((len(column), length), -1, np.int64)
        whole = lengths == length
        if length:
            values[whole] = pc.list_flatten(column.filter(pa.array(whole))).to_numpy().reshape(-1, length)
        return values
    if pa.types.is_floating(kind):
        return pc.fill_null(pc.cast(column, pa.float32()), np.nan).to_numpy()
    return context_column(column)
