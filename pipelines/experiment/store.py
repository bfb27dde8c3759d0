"""The feature store of a simulated system, in memory: what the endpoint could have read at each moment, without files.

Views fill as production fills them and by the same functions: the push view five minutes at a time by what has arrived, the
daily views half an hour after midnight, profiles when they arrive.  A test compares it with the as-of join over events that
were landed and materialised.  Called by `pipelines.experiment.market`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features import aggregate, recent, snapshots
from features.batch import Array, FeatureBatch, RequestBatch
from features.catalogue import Entity, View, view
from features.day_events import Ads, DayEvents, Events, day_events
from features.derive import derive
from features.requests import context_column
from features.sources import with_unknown
from features.spec import service_views
from infra.clock import DAY_US, day_name
from infra.home import Home
from infra.lake import Lake
from pipelines.materialize import WINDOW_DAYS, ad_profiles, newest_rows, state_before, user_profiles
from pipelines.sources.contract import Response
from pipelines.sources.history import late_events
from pipelines.sources.world.market import World
from pipelines.windows import positions

I64 = npt.NDArray[np.int64]

PROFILES = {"user_profile": user_profiles, "ad_profile": ad_profiles}


@dataclass(frozen=True, slots=True)
class Rows:
    """One view: m entities sorted by key, and their values with those of the unknown behind them."""

    keys: Array  # [m]
    values: dict[str, Array]  # [m + 1] or [m + 1, length]
    available_us: I64 | None = None  # [m] from when each can be read; None: they all can

    @classmethod
    def of(cls, target: View, table: pa.Table, timed: bool = False) -> "Rows":
        """A snapshot table with one row an entity."""
        column = table[snapshots.KEYS[target.entity]]
        keys = context_column(column) if pa.types.is_string(column.type) else column.to_numpy()
        order = np.argsort(keys, kind="stable")
        table = table.take(pa.array(order))
        values = {feature.name: with_unknown(feature, table[feature.name]) for feature in target.features}
        return cls(keys[order], values, snapshots.times_us(table["available_at"]) if timed else None)

    def find(self, keys: Array, time_us: I64) -> I64:
        """The row of each key at its time; m where there is none yet."""
        m = len(self.keys)
        if m == 0:
            return np.zeros(len(keys), np.int64)
        at = np.minimum(np.searchsorted(self.keys, keys), m - 1)
        found = self.keys[at] == keys
        if self.available_us is not None:
            found &= self.available_us[at] <= time_us
        return np.where(found, at, m)


class Store:
    """`features.batch.FeatureSource` over a world that goes on; `moments` says when to call `advance`."""

    def __init__(self, home: Home, world: World, entities: Sequence[Entity], context: Sequence[str], service: str) -> None:
        """As the home's features stand where its events end, which is where `world` stands (a midnight)."""
        self.views, self.context = service_views(entities, service), tuple(context)
        self._day_us, self._at_us = world.now_us, world.now_us
        lake, today = Lake.of(home), day_name(self._day_us)
        yesterday = day_name(self._day_us - DAY_US)
        self._state, self._newest = state_before(home, lake, today)
        self._rows = {one.name: Rows.of(one, newest_rows(home, one, self._day_us)) for one in self.views}
        self._tomorrow = {
            one.name: Rows.of(one, snapshots.read(home, one.name, yesterday))
            for one in self.views
            if one.name in snapshots.DAILY
        }
        until_us = world.config.horizon_us
        self._ads = Ads.of(world.ads(until_us))
        for name, profile, table in (
            ("user_profile", user_profiles, world.users(until_us)),
            ("ad_profile", ad_profiles, world.ads(until_us)),
        ):
            if name in self._rows:
                days = pa.array(_days(snapshots.times_us(table["arrived_at"])))
                self._rows[name] = Rows.of(view(name), profile(table.append_column("day", days)), timed=True)
        late = late_events(home)
        before = [day_name(self._day_us - back * DAY_US) for back in range(1, WINDOW_DAYS + 1)]
        shown = lake.read("impressions", late["impressions"].column_names, before)
        self._coming: list[Events] = []
        self._clicks_coming: list[Events] = []
        self._day: list[DayEvents] = []
        self._expect(late["impressions"], late["clicks"], pa.concat_tables([shown, late["impressions"]]))

    def moments(self, until_us: int) -> Iterator[int]:
        """When what can be read changes, in order: each tick's rows, and the day's."""
        for day_us in range(self._day_us, until_us, DAY_US):
            ticks = range(day_us, day_us + DAY_US, recent.TICK_US)
            yield from sorted({*(tick + recent.DELAY_US for tick in ticks), day_us + aggregate.DELAY_US})

    def advance(self, now_us: int) -> None:
        """Let what has become readable by `now_us`, one of `moments`, be read.  Everything asked before must be answered."""
        tick_us = (now_us - recent.DELAY_US) // recent.TICK_US * recent.TICK_US
        if tick_us > self._at_us:
            self._take(tick_us)
        if "user_recent" in self._rows:
            newest = self._newest
            values = {name: _one_more(name, newest[name]) for name in newest if name != "user_id"}
            self._rows["user_recent"] = Rows(newest["user_id"], values)
        if now_us % DAY_US == aggregate.DELAY_US:
            self._rows |= self._tomorrow

    def fetch(self, requests: RequestBatch) -> FeatureBatch:
        """See `FeatureSource`; without the views' states, which nobody here logs."""
        stored: dict[str, Array] = {}
        for one in self.views:
            rows = self._rows[one.name]
            place = rows.find(_keys(one, requests, stored), requests.time_us)
            for name, values in rows.values.items():
                stored[name] = values[place]
        context = {name: requests.context[name] for name in self.context}
        return FeatureBatch(derive(stored, replace(requests, context=context)), {})

    def happened(self, response: Response) -> None:
        """Take in what came of some slates; it counts when it has arrived."""
        self._expect(response.impressions, response.clicks, response.impressions)

    def _expect(self, shown: pa.Table, clicks: pa.Table, window: pa.Table) -> None:
        """Events on their way.  As when a day is materialised, a click is lost to features that comes too late for its
        impression to be looked up, or on a day before it."""
        at = positions(window["impression_id"].to_numpy(), clicks["impression_id"].to_numpy())
        clicks, at = clicks.filter(pa.array(at >= 0)), at[at >= 0]
        days = _day_number(clicks) - _day_number(window)[at]
        events = day_events(shown, clicks.filter(pa.array((days >= 0) & (days < WINDOW_DAYS))), window, self._ads)
        self._coming.append(events.impressions)
        self._clicks_coming.append(events.clicks)

    def _take(self, tick_us: int) -> None:
        """Count what arrived up to the end of a tick, and the day where that is its end."""
        shown, still = _arrived(self._coming, tick_us)
        clicked, clicks_still = _arrived(self._clicks_coming, tick_us)
        self._coming, self._clicks_coming = [still], [clicks_still]
        events = DayEvents(shown, clicked, 0)
        _, self._newest = recent.update(self._newest, events)
        self._day.append(events)
        self._at_us = tick_us
        if tick_us == self._day_us + DAY_US:
            self._end_day()

    def _end_day(self) -> None:
        end_us = self._day_us = self._day_us + DAY_US
        shown, clicked = (_together([getattr(part, name) for part in self._day]) for name in ("impressions", "clicks"))
        events, self._day = DayEvents(shown, clicked, 0), []
        self._state = aggregate.update(self._state, events, end_us)
        row = self._ads.find(self._state["ad"].keys)
        tables = aggregate.views(self._state, end_us, np.where(row >= 0, self._ads.category[row], -1))
        self._tomorrow = {name: Rows.of(view(name), tables[name]) for name in self._tomorrow}


def _keys(target: View, requests: RequestBatch, stored: dict[str, Array]) -> Array:
    """The entity of each request in a view; a campaign is known from the ad's profile, which comes first."""
    if target.entity == "placement":
        return requests.context["placement"]
    if target.entity == "campaign":
        return stored["campaign_id"]
    return requests.user_id if target.entity == "user" else requests.ad_id


def _one_more(name: str, values: Array) -> Array:
    """A column of the push view's state with the unknown behind it."""
    unknown = np.nan if values.dtype.kind == "f" else -1
    return np.concatenate([values, np.full((1, *values.shape[1:]), unknown, values.dtype)])


def _together(parts: list[Events]) -> Events:
    return Events(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Events)))


def _arrived(parts: list[Events], end_us: int) -> tuple[Events, Events]:
    """(events that arrived before an instant, the others)."""
    events = _together(parts)
    here = events.arrived_us < end_us
    return events.take(here), events.take(~here)


def _day_number(events: pa.Table) -> I64:
    return np.asarray(pc.cast(events["arrived_at"], pa.int64()).to_numpy() // DAY_US)


def _days(times_us: I64) -> list[str]:
    return np.datetime_as_string(times_us.astype("datetime64[us]"), unit="D").tolist()
