"""The world itself with a bug in its traffic: it stands as it stood that morning, and from the onset on other requests come.

The same market answers under the same policy, so what users do follows from what they are shown now; the features follow from
what happened.  Called by cells of the stage `traffic`.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features import aggregate, recent, snapshots
from features.batch import Array
from features.catalogue import view
from features.day_events import Ads, day_events
from features.requests import context_column
from features.schemas import TIME
from infra.clock import DAY_US, HOUR_US, SECOND_US, day_name
from infra.lake import Lake
from pipelines.materialize import WINDOW_DAYS, ad_profiles, manifest, state_before
from pipelines.plant.days import Day, a_day_late, cut, late_sample
from pipelines.plant.recording import morning
from pipelines.plant.remade import Remade
from pipelines.plant.shelf import Shelf
from pipelines.sources.contract import Requests, Response
from pipelines.sources.world.legacy import LegacyRanker
from pipelines.sources.world.market import World
from pipelines.sources.world.retrieval import bids, candidates
from pipelines.windows import positions

if TYPE_CHECKING:
    from pipelines.plant.cell import Injection
    from pipelines.plant.plant import Plant

I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Happened:
    """What came of some hours of requests, by the time of the request."""

    requests: pa.Table
    impressions: pa.Table  # with p_true
    clicks: pa.Table  # whenever they arrive


class Traffic:
    """A plant's world from the onset on, with a bug in its requests."""

    def __init__(self, plant: "Plant", inject: "Injection", onset_us: int) -> None:
        self.inject, self.onset_us = inject, onset_us
        self.world = World(plant.world.config)
        self.policy = LegacyRanker.of(self.world)
        day_us = onset_us - onset_us % DAY_US
        self.world.restore(morning(plant.home, day_us))
        for asked in self.world.requests(onset_us):  # the day up to the onset is as it was
            self.world.respond(self.policy(asked))
        created_us = self.world.inventory.created_us
        self.new_ads = np.flatnonzero(created_us >= onset_us)[np.argsort(created_us[created_us >= onset_us])] + 1

    def run(self, until_us: int) -> Happened:
        """Go on up to `until_us` and say what happened."""
        answers: list[Response] = []
        for asked in self.world.requests(until_us):
            asked = self._broken(asked)
            answers.append(self.world.respond(self.policy(asked)))
        parts = {name: pa.concat_tables([getattr(a, name) for a in answers]) for name in ("requests", "impressions", "clicks")}
        p_true = pa.concat_tables([answer.truth for answer in answers])["p_true"]
        return Happened(parts["requests"], parts["impressions"].append_column("p_true", p_true), parts["clicks"])

    def _broken(self, asked: Requests) -> Requests:
        """The requests after the bug, in order of time."""
        look = {"new_ads": pa.table({"ad_id": self.new_ads})}
        before = pa.table(
            {
                "request_id": asked.request_id,
                "event_timestamp": pa.array(asked.time_us).cast(TIME),
                "user_id": asked.user_id,
                **{name: pa.array(values) for name, values in asked.context.items()},
            }
        )
        rows = self.inject("requests", before, look)
        if rows is not before:
            asked = self._with_requests(asked, rows)
        if "candidates" in self.inject.bug.tables:
            asked = self._with_candidates(asked, look)
        return asked

    def _with_requests(self, asked: Requests, rows: pa.Table) -> Requests:
        """Requests as a table says; one that the world did not send gets the candidates that retrieval gives it."""
        rows = rows.sort_by([("event_timestamp", "ascending"), ("request_id", "ascending")])
        ids = rows["request_id"].to_numpy()
        known = positions(asked.request_id, ids)
        time_us = rows["event_timestamp"].cast(pa.int64()).to_numpy()
        k = asked.candidates.shape[1]
        candidate = asked.candidates[known]
        if (known < 0).any():
            seed, ads = self.world.config.seed, self.world.inventory
            hour_us = int(asked.time_us[0] - asked.time_us[0] % HOUR_US)
            candidate[known < 0] = candidates(seed, ads, hour_us, ids[known < 0], k) + 1
        context: dict[str, Array] = {name: context_column(rows[name]) for name in asked.context}
        users = pc.fill_null(rows["user_id"].cast(pa.int64()), -1).to_numpy()
        return Requests(ids, time_us, users, context, candidate, self._bids(ids, candidate))

    def _with_candidates(self, asked: Requests, look: dict[str, pa.Table]) -> Requests:
        """Requests with the candidates after the bug; of requests with more than others the last are left out."""
        n, k = asked.candidates.shape
        before = pa.table({"request_id": np.repeat(asked.request_id, k), "ad_id": asked.candidates.reshape(-1)})
        rows = self.inject("candidates", before, look)
        if rows is before:
            return asked
        at = positions(asked.request_id, rows["request_id"].to_numpy())
        order = np.argsort(at, kind="stable")
        order = order[at[order] >= 0]
        counts = np.bincount(at[order], minlength=n)
        k = int(counts.min(initial=k))
        if k < self.policy.slots:
            raise ValueError(f"{self.inject.bug.code} leaves a request {k} candidates; there are {self.policy.slots} slots")
        starts = np.cumsum(counts) - counts
        place = order[starts[:, None] + np.arange(k)]
        candidate = rows["ad_id"].to_numpy()[place]
        return replace(asked, candidates=candidate, bids=self._bids(asked.request_id, candidate))

    def _bids(self, request_id: I64, candidate: I64) -> npt.NDArray[np.float32]:
        return bids(self.world.config.seed, self.world.inventory, request_id, candidate - 1)


class OtherTraffic(Remade):
    """Stage `traffic`: other requests, other answers, and the features that follow from them."""

    def __init__(self, plant: "Plant", inject: "Injection", onset_us: int, until_us: int, folder: Path) -> None:
        super().__init__(plant, onset_us, until_us)
        self.traffic = Traffic(plant, inject, onset_us)
        day_us = onset_us - onset_us % DAY_US
        self.shelf = Shelf(plant.home, plant.days.views, folder, day_us)
        self.ads = self.traffic.world.ads(plant.world.config.horizon_us)
        lake = Lake.of(plant.home)
        self._state, self._newest = state_before(plant.home, lake, day_name(day_us))
        # What arrives on a day, of before the onset and since; the clean world's own later rows are not of this world.
        self._shown: list[pa.Table] = []
        self.happened: dict[int, Happened] = {}  # by day
        self._landed: set[int] = set()  # ads whose profile came with the bug
        self._late = a_day_late(self.shelf.home, plant.world.spec, plant.artefact.service)

    def predicted(self, day_us: int, first_us: int, end_us: int) -> pa.Table:
        happened = self.traffic.run(end_us)
        self.happened[day_us] = happened
        for old in [day for day in self.happened if day < day_us - 8 * DAY_US]:
            del self.happened[old]
        self._materialise(day_us)
        order = [("event_timestamp", "ascending"), ("impression_id", "ascending")]
        shown = happened.impressions.sort_by(order)
        self._old = late_sample(self._late, shown, self.plant.world.spec.context, day_us)
        return self.score(self.shelf, shown)

    def day_old(self, day: Day, hour: int) -> pa.Table:
        """Of a sample of the hour's rows: what the store held a day earlier; id, f_NAME."""
        return cut(*self._old, hour)

    def _materialise(self, day_us: int) -> None:
        """The day's snapshots of this world: as `pipelines.materialize.materialize_day`, on the shelf."""
        shown, clicks = self._arrived("impressions", day_us), self._arrived("clicks", day_us)
        self._shown = [*self._shown, shown] if self._shown else [*self._before(day_us), shown]
        del self._shown[:-WINDOW_DAYS]
        ads = Ads.of(self.ads)
        events = day_events(shown, clicks, pa.concat_tables(self._shown, promote_options="permissive"), ads)
        self._state = aggregate.update(self._state, events, day_us + DAY_US)
        row = ads.find(self._state["ad"].keys)
        tables = aggregate.views(self._state, day_us + DAY_US, np.where(row >= 0, ads.category[row], -1))
        today, self._newest = recent.update(self._newest, events)
        tables["user_recent"] = recent.rows_table(today)
        for name, rows in tables.items():
            if any(name == there.name for there in self.shelf.views):
                self.shelf.put(view(name), day_us, rows, manifest(view(name), day_us))
        profile = view("ad_profile")
        rows = snapshots.read(self.plant.home, "ad_profile", day_name(day_us))
        self.shelf.put(profile, day_us, pa.concat_tables([rows, self._new_profiles(day_us)]), manifest(profile, day_us))
        self.shelf.day(day_us)

    def _new_profiles(self, day_us: int) -> pa.Table:
        """Profiles of ads that are shown before their time: they land with the wave, at the onset or that midnight."""
        shown = self.happened[day_us].impressions
        ads, at_us = shown["ad_id"].to_numpy(), shown["event_timestamp"].cast(pa.int64()).to_numpy()
        early = np.unique(ads[at_us < self.traffic.world.inventory.created_us[ads - 1]])
        wave = np.setdiff1d(early, np.array(sorted(self._landed), np.int64))
        self._landed |= set(wave.tolist())
        first_us = max(day_us, self.onset_us)
        rows = self.ads.filter(pc.is_in(self.ads["ad_id"], pa.array(wave)))
        for name, stamp_us in (("event_timestamp", first_us - HOUR_US), ("arrived_at", first_us - SECOND_US)):
            place = rows.schema.get_field_index(name)
            rows = rows.set_column(place, rows.schema.field(place), pa.array(np.full(len(rows), stamp_us)).cast(TIME))
        return ad_profiles(rows.append_column("day", pa.repeat(day_name(day_us), len(rows))))

    def _arrived(self, stream: str, day_us: int) -> pa.Table:
        """What ingestion would accept of a stream on a day: of before the onset, and of this world since."""
        old = self.plant.days.accepted(stream, day_us)
        old = old.filter(pa.array(self.of_before(stream, old, day_us)))
        end = pa.scalar(day_us + DAY_US, TIME)
        first = pa.scalar(day_us, TIME)
        new = [getattr(happened, stream) for happened in self.happened.values()]
        at = [rows["arrived_at"] for rows in new]
        new = [rows.filter(pc.and_(pc.greater_equal(a, first), pc.less(a, end))) for rows, a in zip(new, at, strict=True)]
        return pa.concat_tables([old, *new], promote_options="permissive")

    def _before(self, day_us: int) -> list[pa.Table]:
        return [self.plant.days.accepted("impressions", day_us - back * DAY_US) for back in range(WINDOW_DAYS - 1, 0, -1)]

    def of_before(self, stream: str, rows: pa.Table, day_us: int) -> npt.NDArray[np.bool_]:
        """Which rows of the clean world, of a day of arrival, happened before the onset or follow from what did."""
        if stream == "clicks":
            return ~self.plant.days.shown_since(self.onset_us, day_us, rows["impression_id"].to_numpy())
        return np.asarray(rows["event_timestamp"].cast(pa.int64()).to_numpy() < self.onset_us)
