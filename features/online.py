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
from typing import NamedTuple

import numpy as np
import redis

from features.batch import I64, MISSING, STALE, U8, Array, Degraded, FeatureBatch, OneRequest, RequestBatch, ViewStates
from features.blocks import Blocks, Names
from features.catalogue import CONTEXT, Entity
from features.derive import CONSTANTS, derivation
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
    until_us: I64  # of each view, up to when it is complete; -1: unknown


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
        self.views = (*by_user, *self._placement_columns.views, *self._ad_columns.views)
        self.context = tuple(context)
        self.counts: Counter[str] = Counter()
        self._home, self._url, self._degrade = home, url, degrade
        self._store: OnlineStore = open_store(home, url)
        self.users = Users(self._store, by_user, users_kept)
        self._shape = _Shape(self.users.columns, self._ad_columns, self._placement_columns, self.context)
        from features.derive_rows import answer_rows

        self._answer_rows = answer_rows
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
        self._known = self._knowing(hot, marks, users)  # one assignment: a reader sees the old or the new
        return self._known

    def _knowing(self, hot: Hot, marks: Mapping[str, Mark], users: Generation) -> _Known:
        until = [mark.event_us if (mark := marks.get(view.name)) else -1 for view in self.views]
        return _Known(hot, marks, users, np.array(until, np.int64))

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
            return self._knowing(hot, {}, (0,) * len(self.users.columns.views))
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
        user = self.users.many(requests.user_id) if self.users.columns.views else self.users.unknown
        context = {name: requests.context[name] for name in self.context}
        words = context["placement"].tolist() if "placement" in context else [""] * len(requests)
        placement = known.hot.placements.take(known.hot.placement_places(words))
        given = np.stack([requests.user_id, *(context[name] for name in self._shape.whole_context)], axis=1).astype(
            np.int64, "C"
        )
        others = {name: context[name] for name in self._shape.other_context}
        return self._assemble(user, np.array(requests.ad_id), placement, np.array(requests.time_us), given, others, known)

    def _one(self, request: OneRequest, known: _Known) -> FeatureBatch:
        """All rows of one request: its own columns have one value each."""
        asked, shape = request.one_context, self._shape
        try:
            given = np.array([[request.one_user, *[asked[name] for name in shape.whole_context]]], np.int64)
            others = {name: np.array([asked[name]]) for name in shape.other_context}
        except KeyError as error:
            raise ValueError(f"the request lacks the context column {error}; it has {sorted(asked)}") from None
        user, degraded = self._user(request.one_user, known)
        placement = known.hot.placement(str(asked["placement"]) if "placement" in others else "")
        time_us = np.array([request.one_time_us])
        return self._assemble(user, request.ad_id, placement, time_us, given, others, known, degraded)

    def _user(self, user_id: int, known: _Known) -> tuple[Entities, Degraded]:
        """The user's row, and what it had to fall back to."""
        if user_id < 0 or not self.users.columns.views:
            return self.users.unknown, ""
        if self._reader is not None:
            row = self.users.just_read(user_id, known.users)
            if row is not None:
                return row, ""
        else:
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
        user: Entities,
        ad_id: I64,
        placement: Entities,
        time_us: I64,
        given: I64,
        others: Mapping[str, Array],
        known: _Known,
        degraded: Degraded = "",
    ) -> FeatureBatch:
        """`user`, `placement`, `time_us`, `given` (user id and whole context) and `others` (the other context) have n rows, or
        one where all rows have the same."""
        n, shape, ads = len(ad_id), self._shape, known.hot.ads
        numbers, whole = np.empty((n, len(shape.names.numbers)), np.float32), np.empty((n, len(shape.names.whole)), np.int64)
        views = len(shape.views)
        snapshot, age_s, status = (
            np.empty((n, views), np.int64),
            np.empty((n, views), np.float32),
            np.empty((n, views), np.uint8),
        )
        ad = np.empty(n, np.int64)
        flawed = self._answer_rows(
            known.hot.ad_ids, ads.numbers, ads.whole, ads.snapshot, ads.missing,
            user.numbers, user.whole, user.snapshot, user.missing,
            placement.numbers, placement.snapshot, placement.missing,
            ad_id, time_us, given, known.until_us, shape.limit_s, CONSTANTS, shape.plan, shape.read[degraded],
            ad, numbers, whole, snapshot, age_s, status,
        )  # fmt: skip
        others = {**others, **user.words, **placement.words, **{name: words[ad] for name, words in ads.words.items()}}
        for name in user.columns.sequences:
            others[name] = user.whole[:, user.columns.whole_at[name]]
        same = shape.of_request if len(given) == 1 else {}
        if flawed:
            self._count_flaws(status)
        states = ViewStates(shape.views, snapshot, age_s, status, flawed)
        return FeatureBatch(Blocks(shape.names, numbers, whole, others, same), states, degraded)

    def _count_flaws(self, status: U8) -> None:
        missing, stale = (status == MISSING).sum(axis=0).tolist(), (status == STALE).sum(axis=0).tolist()
        with self._lock:
            for at, name in enumerate(self._shape.views):
                self.counts[f"{name}.missing"] += missing[at]
                self.counts[f"{name}.stale"] += stale[at]


class _Shape:
    """The columns that a source answers with, and where each comes from: users', placements', ads' and derived ones."""

    def __init__(self, users: Columns, ads: Columns, placements: Columns, context: Sequence[str]) -> None:
        parts = (users, placements, ads)
        whole = {feature.name for feature in CONTEXT if feature.kind == "int"}
        self.whole_context = tuple(name for name in context if name in whole)
        self.other_context = tuple(name for name in context if name not in whole)
        views = [view for part in parts for view in part.views]
        self.views = tuple(view.name for view in views)
        self.limit_s = np.array([-1 if view.max_age_s is None else view.max_age_s for view in views], np.float32)
        chosen = derivation(frozenset(feature.name for view in views for feature in view.features), frozenset(context))
        numbers = [name for part in parts for name in part.numbers]
        given = ("user_id", *self.whole_context)
        known = ("ad_id", *given, *users.whole, *ads.whole)
        self.names = Names((*numbers, *chosen.numbers), (*known, *chosen.whole))
        topic = given.index("page_topic") if "page_topic" in given else -1
        self.plan = chosen.plan(users.first, ads.first, topic, (len(numbers), len(known)))
        read = [len(users.numbers), len(users.whole), len(placements.numbers), len(ads.numbers), len(ads.whole)]
        assert not placements.whole, "features.derive_rows.answer_rows reads no whole numbers of placements"
        self.read: dict[Degraded, I64] = {
            degraded: np.array([*read, degraded == "stale features"], np.int64) for degraded in ("", "stale features", "priors")
        }
        shared = (*given, *users.whole, *chosen.whole)
        self.of_request = {name: self.names.whole.index(name) for name in shared}
