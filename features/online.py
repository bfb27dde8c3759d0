"""Features of live requests: `OnlineSource` reads the online store without the Feast SDK on the path.

The user's row is read for each request; ads, campaigns and placements are few and lie in columns in the process, loaded again
when the store's mark of their view says that it was written.  Every read checks the age of what it found; what was missing or
stale is counted. Equal to Feast's `get_online_features` value by value (tests/features/test_feast_parity.py), and to
`AsOfSource` at the same moment.
"""

import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from features.batch import F32, I64, MISSING, OK, STALE, U8, Array, FeatureBatch, RequestBatch, ViewState
from features.catalogue import Entity, View
from features.derive import derive
from features.online_store import OnlineStore, open_store
from features.online_values import Mark, RawRows, decode_view, key_bytes, key_values
from features.spec import service_views
from infra.clock import SECOND_US
from infra.home import Home


@dataclass(frozen=True, slots=True)
class _Columns:
    """One view in the process: m entities sorted by key, and their values with the unknown behind them."""

    keys: Array
    values: dict[str, Array]  # [m + 1] or [m + 1, length]
    snapshot: I64  # [m + 1], 0 where there is no row
    missing: U8  # [m + 1] MISSING where there is no row, else OK
    writes: int  # of the view's mark when this was loaded

    def find(self, keys: Array) -> I64:
        """Each key's row; m where it isn't there."""
        m = len(self.keys)
        if m == 0:
            return np.zeros(len(keys), np.int64)
        at = np.minimum(np.searchsorted(self.keys, keys), m - 1)
        return np.where(self.keys[at] == keys, at, m)


class OnlineSource:
    """Implements `features.batch.FeatureSource` over an online store.  Safe to use from several threads."""

    def __init__(
        self,
        home: Home,
        entities: Sequence[Entity],
        context: Sequence[str],
        service: str = "ctr_full",
        url: str | None = None,
    ) -> None:
        """`url` as in `features.online_store.open_store`.  `counts` tells how many rows came "VIEW.missing" and
        "VIEW.stale"."""
        self.views = service_views(entities, service)
        self.context = tuple(context)
        self.counts: Counter[str] = Counter()
        self._store: OnlineStore = open_store(home, url)
        self._user_views = tuple(view for view in self.views if view.entity == "user")
        limits = [view.max_age_s for view in self.views]
        self._oldest = np.array([limit or 0 for limit in limits], np.float32)[:, None]
        self._ageing = np.array([limit is not None for limit in limits])[:, None]
        self._columns: dict[str, _Columns] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close the store."""
        self._store.close()

    def fetch(self, requests: RequestBatch) -> FeatureBatch:
        """Features of each row, in row order; see FeatureSource.  Raises ValueError where a context column isn't in the
        requests."""
        absent = [name for name in self.context if name not in requests.context]
        if absent:
            raise ValueError(f"the requests lack the context columns {absent}; they have {sorted(requests.context)}")
        marks = self._store.marks()
        users = self._users(requests.user_id)
        ages_s, stale = self._ages(marks, requests.time_us)
        any_stale = bool(stale.any())
        stored: dict[str, Array] = {}
        states: dict[str, ViewState] = {}
        for number, view in enumerate(self.views):
            if view.entity == "user":
                columns, place = users[view.name]
            else:
                columns = self._loaded(view, marks.get(view.name))
                place = columns.find(self._keys(view, requests, stored))
            for name, values in columns.values.items():
                stored[name] = values[place]
            status = columns.missing[place]
            if any_stale:
                status[(status == OK) & stale[number]] = STALE
            states[view.name] = ViewState(columns.snapshot[place], ages_s[number], status)
        self._count(states)
        asked = RequestBatch(
            requests.row_id, requests.time_us, requests.user_id, requests.ad_id,
            {name: requests.context[name] for name in self.context},
        )  # fmt: skip
        return FeatureBatch(derive(stored, asked), states)

    def _ages(self, marks: dict[str, Mark], time_us: I64) -> tuple[F32, npt.NDArray[np.bool_]]:
        """[views, n] the age of each view's data, s, NaN where unknown; and whether that is too old (`features.sources.status`
        says the same)."""
        events = [mark.event_us if (mark := marks.get(view.name)) else -1 for view in self.views]
        until = np.array(events, np.int64)[:, None]
        ages_s = ((time_us - until) / SECOND_US).astype(np.float32)
        if min(events, default=0) < 0:
            ages_s[until[:, 0] < 0] = np.nan
        return ages_s, ~(ages_s <= self._oldest) & self._ageing

    def _users(self, user_id: I64) -> dict[str, tuple[_Columns, I64]]:
        """The user views of the users asked for, and each row's place among them."""
        if len(user_id) and (user_id == user_id[0]).all():  # the usual request: one user, many ads
            users, place = user_id[:1], np.zeros(len(user_id), np.int64)
        else:
            users, place = np.unique(user_id, return_inverse=True)
        if not self._user_views:
            return {}
        raw = self._store.rows(self._user_views, key_bytes(self._user_views[0], users.tolist()))
        found = {}
        for view in self._user_views:
            columns = _decoded(view, users, raw[view.name], 0)
            absent = columns.missing[place] == MISSING
            found[view.name] = columns, np.where(absent, len(users), place) if absent.any() else place
        return found

    def _loaded(self, view: View, mark: Mark | None) -> _Columns:
        """A view's columns in the process, loaded again when the view was written since."""
        columns = self._columns.get(view.name)
        writes = mark.writes if mark else 0
        if columns is not None and columns.writes == writes:
            return columns
        keys, raw = self._store.everything(view)
        entities = key_values(view, keys)
        order = np.argsort(entities)
        sorted_raw = RawRows(raw.snapshot[order], {n: [v[i] for i in order.tolist()] for n, v in raw.values.items()})
        columns = _decoded(view, entities[order], sorted_raw, writes)
        self._columns[view.name] = columns  # one assignment: a reader sees the old columns or the new ones
        return columns

    def _keys(self, view: View, requests: RequestBatch, stored: dict[str, Array]) -> Array:
        if view.entity == "placement":
            return requests.context.get("placement", np.full(len(requests), "", np.str_))
        if view.entity == "campaign":
            return stored.get("campaign_id", np.full(len(requests), -1))
        return requests.ad_id

    def _count(self, states: dict[str, ViewState]) -> None:
        for name, state in states.items():
            if state.status.any():
                missing, stale = int((state.status == MISSING).sum()), int((state.status == STALE).sum())
                with self._lock:
                    self.counts[f"{name}.missing"] += missing
                    self.counts[f"{name}.stale"] += stale


def _decoded(view: View, keys: Array, raw: RawRows, writes: int) -> _Columns:
    snapshot = np.zeros(len(keys) + 1, np.int64)
    snapshot[:-1] = np.maximum(raw.snapshot, 0)
    missing = np.full(len(keys) + 1, MISSING, np.uint8)
    missing[:-1] = np.where(raw.snapshot >= 0, OK, MISSING)
    return _Columns(keys, decode_view(view, raw.values), snapshot, missing, writes)
