"""Features that stay fresh while the system runs: the push view every five minutes, profiles as they come, the rest at night.

Online store and snapshot files are written with the same stamps, so that what a request read can be recomputed afterwards.
Rows pass the stages `feature` (disk and store alike) and `store` (the store only).  Called by `pipelines.live.system`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features import recent, snapshots
from features.catalogue import View, view
from features.day_events import Ads, DayEvents, day_events
from features.online_sqlite import SqliteStore
from features.online_store import write
from features.online_values import Mark
from infra.clock import DAY_US, day_name
from infra.home import Home
from infra.lake import Lake
from pipelines.ingest import ingest_day
from pipelines.live.injection import Fault
from pipelines.materialize import (
    WINDOW_DAYS,
    ad_profiles,
    manifest,
    mark_at,
    materialize_day,
    newest_rows,
    state_before,
    user_profiles,
    views_of,
)
from pipelines.sources.contract import SourceSpec

PROFILES = {"users": "user_profile", "ads": "ad_profile"}


@dataclass(frozen=True, slots=True)
class Due:
    """Rows for the online store from an instant on."""

    at_us: int
    view: str
    rows: pa.Table
    mark: Mark | None


class Freshness:
    """The features of a branch, from a midnight on."""

    def __init__(self, home: Home, spec: SourceSpec, fault: Fault, now_us: int) -> None:
        self._home, self._spec, self._fault = home, spec, fault
        self._lake = Lake.of(home)
        self.store = SqliteStore(home)
        self._due: list[Due] = []
        self._stuck: set[str] = set()  # views of which nothing comes through in time
        self._clean: dict[str, pa.Table] = {}  # right rows of the views that a bug of the stage `feature` rewrites
        self._begin(now_us)
        for target in views_of(spec.entities):  # what the night's jobs made and nobody could read yet
            last = snapshots.read(home, target.name, day_name(now_us - DAY_US))
            rows = last.filter(pa.array(snapshots.times_us(last["available_at"]) >= now_us))
            mark = _mark(target, now_us)
            self._due.append(Due(mark.available_us, target.name, rows, mark))

    def _begin(self, day_us: int) -> None:
        """Take up the state that the days before left."""
        self._day_us = day_us
        _, self._newest = state_before(self._home, self._lake, day_name(day_us))
        days = [day_name(day_us - back * DAY_US) for back in range(WINDOW_DAYS - 1, 0, -1)]
        self._shown = self._lake.read("impressions", days=days)
        self._ads = self._lake.read("ads")
        self._rows: dict[str, list[pa.Table]] = {name: [] for name in ("user_recent", *PROFILES.values())}

    # -- what arrives ------------------------------------------------------------------------------------------------

    def arrived(self, end_us: int, accepted: Mapping[str, pa.Table]) -> None:
        """Take in what ingestion accepted in the five minutes before `end_us`."""
        shown = _with_day(accepted["impressions"], self._day_us)
        self._shown = pa.concat_tables([self._shown, shown.select(self._shown.column_names)])
        rows = self._recent(shown, accepted["clicks"], end_us)
        tick = end_us // recent.TICK_US
        self._send("user_recent", rows, Mark(tick, end_us, end_us + recent.DELAY_US))

    def profiles(self, stream: str, arrived: pa.Table) -> None:
        """Take in users or ads that nobody knew before."""
        arrived = _with_day(arrived, self._day_us)
        if stream == "ads":
            self._ads = pa.concat_tables([self._ads, arrived])
        rows = (user_profiles if stream == "users" else ad_profiles)(arrived)
        for at in range(rows.num_rows):
            self._send(PROFILES[stream], rows.slice(at, 1), None)

    def _recent(self, shown: pa.Table, clicks: pa.Table, end_us: int) -> pa.Table:
        """Rows of the push view of one tick."""
        wanted = pc.is_in(self._shown["impression_id"], value_set=clicks["impression_id"].combine_chunks())
        events = day_events(shown, clicks, self._shown.filter(wanted), Ads.of(self._ads))
        # What waited before it was let in counts from now on: rows of earlier ticks have gone out already.
        impressions, clicks_in = (
            replace(part, arrived_us=np.maximum(part.arrived_us, end_us - recent.TICK_US))
            for part in (events.impressions, events.clicks)
        )
        rows, self._newest = recent.update(self._newest, DayEvents(impressions, clicks_in, events.orphans))
        return recent.rows_table(rows)

    # -- on their way to disk and store ------------------------------------------------------------------------------

    def _send(self, name: str, rows: pa.Table, mark: Mark | None) -> None:
        """Rows of a view to disk (at the end of the hour) and to the store (when they are available)."""
        rewritten = self._fault.rows("feature", name, rows)
        if rewritten is not rows and name != "user_recent":
            before = self._clean.get(name)
            self._clean[name] = rows if before is None else pa.concat_tables([before, rows])
        if name in self._rows:
            self._rows[name].append(rewritten)
        self._to_store(name, rewritten, mark)

    def _to_store(self, name: str, rows: pa.Table, mark: Mark | None) -> None:
        """Rows to the store from when each is available; the view looks as fresh as what came through in time."""
        out = self._fault.rows("store", name, rows)
        available = snapshots.times_us(out["available_at"])
        for at_us in np.unique(available).tolist():
            self._due.append(Due(at_us, name, out.filter(pa.array(available == at_us)), None))
        if mark is not None:
            if rows.num_rows:
                self._stuck.discard(name)
                if not (available == mark.available_us).any():
                    self._stuck.add(name)
            if name not in self._stuck:
                self._due.append(Due(mark.available_us, name, rows.slice(0, 0), mark))

    def moments(self, start_us: int, end_us: int) -> list[int]:
        """When the store changes in [start_us, end_us), in order."""
        return sorted({max(due.at_us, start_us) for due in self._due if due.at_us < end_us})

    def push(self, at_us: int) -> None:
        """Write what is due by an instant into the online store."""
        ready = [due for due in self._due if due.at_us <= at_us]
        self._due = [due for due in self._due if due.at_us > at_us]
        for due in sorted(ready, key=lambda d: d.at_us):
            write(self.store, due.view, due.rows, due.mark)

    def save(self) -> None:
        """The day's rows so far as snapshot files: what a recomputation reads."""
        day = day_name(self._day_us)
        for name, parts in self._rows.items():
            target = view(name)
            rows = pa.concat_tables([snapshots.schema(target).empty_table(), *parts])
            snapshots.write(self._home, target, day, rows, manifest(target, self._day_us))

    # -- at night ----------------------------------------------------------------------------------------------------

    def midnight(self, day_us: int) -> None:
        """The day before `day_us` has landed: ingest it, compute its features, have the daily ones sent when they are due."""
        over = day_us - DAY_US
        ingest_day(self._home, self._spec, day_name(over))
        written = {candidate.name: pa.table({}) for candidate in views_of(self._spec.entities)}

        def keep(name: str, rows: pa.Table) -> pa.Table:
            rewritten = self._fault.rows("feature", name, rows) if name in snapshots.DAILY else self._as_sent(name, rows)
            if rewritten is not rows and name in snapshots.DAILY:
                self._clean[name] = rows
            written[name] = rewritten
            return rewritten

        materialize_day(self._home, self._spec, day_name(over), keep)
        self._begin(day_us)
        for name in written:
            mark = _mark(view(name), day_us)
            if name in snapshots.DAILY:
                self._to_store(name, written[name], mark)
            elif name in PROFILES.values():
                self._due.append(Due(mark.available_us, name, written[name].slice(0, 0), mark))

    def _as_sent(self, name: str, rows: pa.Table) -> pa.Table:
        """Rows of the day as they went out; the day's own computation where nothing did."""
        parts = self._rows.get(name, [])
        return pa.concat_tables(parts) if parts else rows

    # -- a fault begins or ends --------------------------------------------------------------------------------------

    def refill(self, name: str, now_us: int, files_too: bool) -> None:
        """Run the job behind a view again, now: whatever is injected takes effect on all its rows, or no longer does.

        `files_too`: not only the store was wrong, or will be.  Rows that a fault swallows leave what the store had."""
        mark = mark_at(self._home, view(name), now_us)
        right = _available(self._right(name, now_us), now_us)
        rows = self._fault.rows("feature", name, right)
        if files_too:
            self._correct(name, rows)
        if rows is not right:
            self._clean.setdefault(name, right)
        else:
            self._clean.pop(name, None)
        sent = self._fault.rows("store", name, rows)
        available = snapshots.times_us(sent["available_at"])
        self._due = [due for due in self._due if due.view != name]
        self._stuck.discard(name)
        for at_us in np.unique(available).tolist():
            self._due.append(Due(at_us, name, sent.filter(pa.array(available == at_us)), mark if at_us <= now_us else None))
        self.push(now_us)

    def _right(self, name: str, now_us: int) -> pa.Table:
        """The newest row of each entity as it would be had nothing been injected."""
        if name == "user_recent":
            return recent.rows_table(self._newest)  # the state never goes through a fault
        current = newest_rows(self._home, view(name), now_us)
        if name not in self._clean:
            return current
        key, right = snapshots.KEYS[view(name).entity], self._clean[name]
        others = current.filter(pc.invert(pc.is_in(current[key], value_set=right[key].combine_chunks())))
        return pa.concat_tables([others, right.cast(others.schema)])

    def _correct(self, name: str, rows: pa.Table) -> None:
        """Add rows that replace earlier ones from now on to the newest file of a view."""
        if name in self._rows:
            self._rows[name].append(rows)
            return
        target, day = view(name), snapshots.days(self._home, name)[-1]
        there = snapshots.read(self._home, name, day)
        start_us = int(np.datetime64(day, "us").astype(np.int64))
        snapshots.write(self._home, target, day, pa.concat_tables([there, rows.cast(there.schema)]), manifest(target, start_us))


def _mark(target: View, day_us: int) -> Mark:
    """What is complete at the midnight `day_us`, by the manifest of the day before."""
    made = manifest(target, day_us - DAY_US)
    event_us, available_us = (int(snapshots.times_us(made[name])[-1]) for name in ("event_timestamp", "available_at"))
    return Mark(made["snapshot"][-1].as_py(), event_us, available_us)


def _with_day(rows: pa.Table, day_us: int) -> pa.Table:
    return rows.append_column(pa.field("day", pa.string(), nullable=False), pa.repeat(day_name(day_us), rows.num_rows))


def _available(rows: pa.Table, now_us: int) -> pa.Table:
    """Rows as a job that ran just now would stamp them."""
    at = rows.schema.get_field_index("available_at")
    return rows.set_column(at, rows.schema.field(at), snapshots.to_time(np.full(rows.num_rows, now_us)))
