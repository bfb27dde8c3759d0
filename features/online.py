"""Features of live requests: `OnlineSource` reads the online store without the Feast SDK on the path.

The user's row is read for each request (or was kept, see `features.online_users`); ads, campaigns and placements lie in the
process (`features.online_ads`), loaded again when the store's marks say that they were written.  Every answer says how old
each view was and what was missing.  Equal to Feast's `get_online_features` value by value
(tests/features/test_feast_parity.py), and to `AsOfSource` at the same moment.
"""

import asyncio
import sqlite3
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
import redis

from features.batch import I64, MISSING, OK, STALE, Array, Degraded, FeatureBatch, OneRequest, RequestBatch, ViewStates
from features.blocks import Blocks, Names
from features.catalogue import CONTEXT, Entity
from features.derive import NEEDS, derivation
from features.online_ads import Hot, ad_columns, load, nothing, placement_columns
from features.online_guard import check_layout
from features.online_redis import RedisStore, hash_key, row_field
from features.online_redis_reader import RedisReader
from features.online_store import OnlineStore, open_store
from features.online_users import MOST, Generation, Users
from features.online_values import Mark
from features.side_by_side import Columns, Entities
from features.spec import service_views
from infra.clock import SECOND_US
from infra.home import Home

STORE_FAILED = (sqlite3.Error, redis.RedisError, OSError, ValueError)  # the last: a row that can't be read
REFRESH_S = 0.2  # how often a server looks whether the store was written


class _Known(NamedTuple):
    """What is known of the store at a moment; replaced as a whole."""

    hot: Hot
    marks: Mapping[str, Mark]
    users: Generation


class OnlineSource:
    """Implements `features.batch.FeatureSource` over an online store.  Safe to use from several threads."""

    def __init__(
        self,
        home: Home,
        entities: Sequence[Entity],
        context: Sequence[str],
        service: str = "ctr_full",
        url: str | None = None,
        *,
        degrade: bool = False,
        users_kept: int = MOST,
    ) -> None:
        """`url` as in `features.online_store.open_store`.  With `degrade` a request is answered, and marked, when the store
        fails; otherwise what the store raises goes through.  `counts` tells how many rows came "VIEW.missing" and
        "VIEW.stale", and how often the store failed.  ExplainedError where the store was written with other features."""
        views = service_views(entities, service)
        by_user = [view for view in views if view.entity == "user"]
        self._ad_columns, self._placement_columns = ad_columns(views), placement_columns(views)
        self.views = (*by_user, *self._ad_columns.views, *self._placement_columns.views)
        self.context = tuple(context)
        self.counts: Counter[str] = Counter()
        self._home, self._url, self._degrade = home, url, degrade
        self._store: OnlineStore = open_store(home, url)
        self.users = Users(self._store, by_user, users_kept)
        self._shape = _Shape(self.users.columns, self._ad_columns, self._placement_columns, self.context)
        self._ageing = [(i, float(view.max_age_s)) for i, view in enumerate(self.views) if view.max_age_s is not None]
        self._known: _Known | None = None
        self._lock = threading.Lock()
        self._stop: threading.Event | None = None
        self._keeper: threading.Thread | None = None
        self._reader: RedisReader | None = None

    def close(self) -> None:
        """Close the store."""
        if self._stop is not None and self._keeper is not None:
            self._stop.set()
            self._keeper.join()
        if self._reader is not None:
            self._reader.close()
        self._store.close()

    def ages_s(self, now_us: int) -> dict[str, float]:
        """How old each view's stored data would be in a request at `now_us`, seconds; of those that were ever written."""
        known = self._known
        marks = known.marks if known else {}
        ages = {view.name: (now_us - marks[view.name].event_us) / SECOND_US for view in self.views if view.name in marks}
        return {name: age for name, age in ages.items() if marks[name].event_us >= 0}

    def refresh(self, store: OnlineStore | None = None) -> _Known:
        """Look at the store's marks, and load ads and placements again where they were written since."""
        store = store or self._store
        marks = store.marks()
        known = self._known
        if known is not None and marks is known.marks:
            return known
        for view in self.views:
            check_layout(view, marks.get(view.name))
        hot = known.hot if known else None
        shared = [*self._ad_columns.views, *self._placement_columns.views]
        if hot is None or hot.writes != {view.name: marks[view.name].writes for view in shared if view.name in marks}:
            hot = load(store, self._ad_columns, self._placement_columns, marks)
        users = tuple(marks[view.name].writes if view.name in marks else 0 for view in self.users.columns.views)
        self._known = _Known(hot, marks, users)  # one assignment: a reader sees the old or the new
        return self._known

    def _looked_up(self) -> _Known:
        """`refresh`, or what was known before where the store fails and requests are to be answered all the same."""
        try:
            return self.refresh()
        except STORE_FAILED as error:
            self.counts[f"store.{type(error).__name__}"] += 1
            if not self._degrade:
                raise
        if self._known is None:
            hot = nothing(self._ad_columns, self._placement_columns)
            return _Known(hot, {}, (0,) * len(self.users.columns.views))
        return self._known

    def keep_fresh(self) -> None:
        """Refresh in the background from now on, so that no request waits for a load: for servers."""
        self.refresh()
        self._stop = threading.Event()
        self._keeper = threading.Thread(target=self._keep, args=(self._stop,), name="online-store", daemon=True)
        self._keeper.start()

    def _keep(self, stop: threading.Event) -> None:
        store: OnlineStore | None = None
        while not stop.wait(REFRESH_S):
            try:
                store = store or open_store(self._home, self._url)  # its own: a load must not hold up a request's read
                self.refresh(store)
            except STORE_FAILED:
                self.counts["refresh.failed"] += 1  # what is known goes on ageing, and says so
        if store is not None:
            store.close()

    def read_ahead(self, timeout_s: float) -> None:
        """From now on users' rows come only through `prefetch`, which waits for a remote store without holding up the event
        loop that this is called in."""
        if isinstance(self._store, RedisStore):
            self._reader = RedisReader(self._store.url, timeout_s)

    def prefetch(self, user_id: int) -> "asyncio.Future[None] | None":
        """Begin to read the row that the next request of this user wants; None where there is nothing to wait for.  The future
        never raises: what could not be read is missing, and marked."""
        known, reader = self._known, self._reader
        if reader is None or known is None or user_id < 0 or not self.users.columns.views:
            return None
        if self.users.kept(user_id, known.users) is not None:
            self.users.counts["hits"] += 1
            return None
        if not reader.ready:
            self.counts["store.unavailable"] += 1
            return None
        (key,) = self.users.key(user_id)
        views = self.users.columns.views
        asked = reader.read(hash_key(key), [row_field(view) for view in views])
        done: asyncio.Future[None] = asked.get_loop().create_future()

        def keep(answer: "asyncio.Future[list[bytes | None]]") -> None:
            try:
                self.users.keep(user_id, known.users, [[packed] for packed in answer.result()])
                self.users.counts["misses"] += 1
            except STORE_FAILED as error:
                self.counts[f"store.{type(error).__name__}"] += 1
            done.set_result(None)

        asked.add_done_callback(keep)
        return done

    def fetch(self, requests: RequestBatch) -> FeatureBatch:
        """Features of each row, in row order; see FeatureSource.  Raises ValueError where a context column isn't in the
        requests."""
        known = self._known
        if known is None or self._keeper is None:
            known = self._looked_up()
        if isinstance(requests, OneRequest):
            return self._one(requests, known)
        absent = [name for name in self.context if name not in requests.context]
        if absent:
            raise ValueError(f"the requests lack the context columns {absent}; they have {sorted(requests.context)}")
        users = self.users.many(requests.user_id) if self.users.columns.views else None
        context = {name: requests.context[name] for name in self.context}
        words = context["placement"].tolist() if "placement" in context else [""] * len(requests)
        placements = known.hot.placements.take(known.hot.placement_places(words))
        return self._assemble(requests.user_id, requests.time_us, context, users, requests.ad_id, placements, known)

    def _one(self, request: OneRequest, known: _Known) -> FeatureBatch:
        """All rows of one request: its own columns have one value each."""
        given = request.one_context
        try:
            context = {name: given[name] for name in self.context}
        except KeyError as error:
            raise ValueError(f"the request lacks the context column {error}; it has {sorted(given)}") from None
        user, degraded = self._user(request.one_user, known)
        return self._assemble(
            np.array([request.one_user]),
            np.array([request.one_time_us]),
            {name: np.array([value]) for name, value in context.items()},
            user,
            request.ad_id,
            known.hot.placement(str(context.get("placement", ""))),
            known,
            degraded,
        )

    def _user(self, user_id: int, known: _Known) -> tuple[Entities | None, Degraded]:
        """The user's row, and what it had to fall back to."""
        if not self.users.columns.views:
            return None, ""
        if user_id < 0:
            return self.users.unknown, ""
        if self._reader is not None:
            row = self.users.just_read(user_id, known.users)
            if row is not None:
                return row, ""
            last = self.users.last(user_id)
            return (self.users.unknown, "priors") if last is None else (last, "stale features")
        try:
            return self.users.one(user_id, known.users), ""
        except STORE_FAILED as error:
            self.counts[f"store.{type(error).__name__}"] += 1
            if not self._degrade:
                raise
        last = self.users.last(user_id)
        return (self.users.unknown, "priors") if last is None else (last, "stale features")

    def _assemble(
        self,
        user_id: I64,
        time_us: I64,
        context: Mapping[str, Array],
        user: Entities | None,
        ad_id: I64,
        placement: Entities,
        known: _Known,
        degraded: Degraded = "",
    ) -> FeatureBatch:
        """Columns of users, context and placements are [n], or [1] where all rows have the same."""
        n, shape = len(ad_id), self._shape
        ads = known.hot.ads.take(known.hot.ad_places(ad_id))
        parts = [ads, placement] if user is None else [user, ads, placement]
        stored: dict[str, Array] = {}
        for part in parts:
            stored |= shape.inputs(part)
        derived, whole_derived = shape.derivation(stored, time_us, context, n)
        numbers = np.empty((n, len(shape.names.numbers)), np.float32)
        whole = np.empty((n, len(shape.names.whole)), np.int64)
        whole[:, 0], whole[:, 1] = user_id, ad_id
        left, low = 0, 2
        for name in shape.whole_context:
            whole[:, low] = context[name]
            low += 1
        for part in parts:
            right = left + len(part.columns.numbers)
            numbers[:, left:right] = part.numbers[:, : right - left]
            left = right
            if part.columns.whole:
                whole[:, low : low + len(part.columns.whole)] = part.whole[:, : len(part.columns.whole)]
                low += len(part.columns.whole)
        numbers[:, left:] = derived.T
        same: dict[str, int] = {}
        if len(user_id) == 1:
            first = whole[0].tolist()
            same = {name: first[at] for name, at in shape.of_request.items()}
        for name, values in zip(shape.derivation.whole, whole_derived, strict=True):
            whole[:, low] = values
            low += 1
            if len(values) == 1:
                same[name] = int(values[0])
        others = {name: context[name] for name in shape.other_context}
        for part in parts:
            others |= part.words
            for name in part.columns.sequences:
                others[name] = part.stored[name]
        states = self._states(parts, time_us, known.marks, n, degraded)
        return FeatureBatch(Blocks(shape.names, numbers, whole, others, same), states, degraded)

    def _states(
        self, parts: Sequence[Entities], time_us: I64, marks: Mapping[str, Mark], n: int, degraded: Degraded
    ) -> ViewStates:
        names = self._shape.views
        snapshot, age_s = np.empty((n, len(names)), np.int64), np.empty((n, len(names)), np.float32)
        status = np.zeros((n, len(names)), np.uint8)
        flawed, left = False, 0
        for part in parts:
            right = left + len(part.columns.views)
            snapshot[:, left:right] = part.snapshot
            if part.flawed:
                status[:, left:right] = part.missing  # MISSING is 1
                flawed = True
            left = right
        times = time_us.tolist() if len(time_us) == 1 else [int(time_us.min()), int(time_us.max())]
        until = [mark.event_us if (mark := marks.get(name)) else -1 for name in names]
        if len(times) == 1:
            age_s[:] = [(times[0] - at) / SECOND_US for at in until]
        else:
            age_s[:] = (time_us[:, None] - np.array(until)) / SECOND_US
        for i in [i for i, at in enumerate(until) if at < 0]:
            age_s[:, i] = np.nan
        for i, limit in self._ageing:
            if until[i] < 0 or not np.float32((times[-1] - until[i]) / SECOND_US) <= limit:
                status[(status[:, i] == OK) & ~(age_s[:, i] <= limit), i] = STALE
                flawed = True
        if degraded == "stale features":
            mine = status[:, : len(self.users.columns.views)]
            mine[mine == OK] = STALE
            flawed = True
        if flawed:
            with self._lock:
                for at, name in enumerate(names):
                    self.counts[f"{name}.missing"] += int((status[:, at] == MISSING).sum())
                    self.counts[f"{name}.stale"] += int((status[:, at] == STALE).sum())
        return ViewStates(names, snapshot, age_s, status, flawed)


class _Shape:
    """The columns that a source answers with, and where each comes from."""

    def __init__(self, users: Columns, ads: Columns, placements: Columns, context: Sequence[str]) -> None:
        parts = (users, ads, placements)
        whole = {feature.name for feature in CONTEXT if feature.kind == "int"}
        self.whole_context = tuple(name for name in context if name in whole)
        self.other_context = tuple(name for name in context if name not in whole)
        self.views = tuple(view.name for part in parts for view in part.views)
        stored = frozenset(feature.name for part in parts for view in part.views for feature in view.features)
        self.derivation = derivation(stored, frozenset(context))
        derived = (*self.derivation.numbers, *self.derivation.whole)
        self._inputs = {"user_recent_until", *chain.from_iterable(NEEDS.get(name, (name,)) for name in derived)} & stored
        self.names = Names(
            (*chain.from_iterable(part.numbers for part in parts), *self.derivation.numbers),
            (
                "user_id", "ad_id", *self.whole_context, *chain.from_iterable(part.whole for part in parts),
                *self.derivation.whole,
            ),
        )  # fmt: skip

        shared = ("user_id", *self.whole_context, *users.whole)
        self.of_request = {name: self.names.whole.index(name) for name in shared}

    def inputs(self, part: Entities) -> dict[str, Array]:
        """What is derived from, by name."""
        if len(part) == 1:  # kept from request to request, with its names
            return part.stored
        at = part.columns.number_at, part.columns.whole_at
        found: dict[str, Array] = {name: part.numbers[:, at[0][name]] for name in self._inputs & at[0].keys()}
        return found | {name: part.whole[:, at[1][name]] for name in self._inputs & at[1].keys()}
