"""From a lake day to feature snapshots, and from snapshots to the online store.  Called by the feature flow, drills and tests.

A day's work is a function of the lake's day, the two days of impressions before it and the state of the day before, which is
kept in features/_state.  The state is written last, so a day whose state is there is complete; doing a day again gives the same
files.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features import aggregate, recent, snapshots
from features.asof import asof_index
from features.catalogue import VIEWS, Entity, View, view
from features.day_events import Ads, day_events
from features.online_store import open_store, write
from features.online_values import Mark
from features.requests import context_column
from infra.clock import DAY_US, day_name, to_datetime
from infra.errors import ExplainedError
from infra.home import Home
from infra.lake import Lake
from infra.progress import progress as bar
from pipelines.sources.contract import SourceSpec

Rewrite = Callable[[str, pa.Table], pa.Table]  # (view, rows) -> rows: what a drill does to a day's rows on their way to disk

WINDOW_DAYS = 3  # a click finds its impression when that arrived on the same day or one of the two before
_COLUMNS = ["impression_id", "event_timestamp", "arrived_at", "user_id", "ad_id", "slot", "day"]


class DayCounts(NamedTuple):
    """What one day's materialisation wrote."""

    rows: dict[str, int]  # by view
    orphans: int  # clicks whose impression is older than the window, or unknown: counted nowhere


def views_of(entities: Sequence[Entity]) -> tuple[View, ...]:
    """The views whose entity a source has."""
    return tuple(candidate for candidate in VIEWS if candidate.entity in entities)


def materialize_day(home: Home, spec: SourceSpec, day: str, rewrite: Rewrite | None = None) -> DayCounts:
    """Write every view's snapshot of one arrival day.  Idempotent and atomic by file.

    `rewrite` may replace the rows that are written (never the state, so a fault doesn't feed the next day).
    Raises ExplainedError where the day before isn't done yet.
    """
    lake = Lake.of(home)
    start_us = _start_us(day)
    end_us = start_us + DAY_US
    state, newest = state_before(home, lake, day)
    window_days = [day_name(start_us - back * DAY_US) for back in range(WINDOW_DAYS)]
    columns = [*_COLUMNS, "placement"] if "placement" in spec.context else _COLUMNS
    window = lake.read("impressions", columns, window_days)
    ads_table = _profiles(lake, "ads", spec, end_us)
    ads = Ads.of(ads_table)
    events = day_events(window.filter(pc.equal(window["day"], day)), lake.read("clicks", days=[day]), window, ads)

    state = aggregate.update(state, events, end_us)
    ad_row = ads.find(state["ad"].keys)
    ad_category = np.where(ad_row >= 0, ads.category[ad_row], -1) if len(ads.ad_id) else ad_row
    tables = aggregate.views(state, end_us, ad_category)
    today, newest = recent.update(newest, events)
    tables["user_recent"] = recent.rows_table(today)
    tables["user_profile"] = user_profiles(_profiles(lake, "users", spec, end_us, day))
    tables["ad_profile"] = ad_profiles(_profiles(lake, "ads", spec, end_us, day))

    counts = {}
    for written in views_of(spec.entities):
        rows = tables[written.name] if rewrite is None else rewrite(written.name, tables[written.name])
        snapshots.write(home, written, day, rows, manifest(written, start_us))
        counts[written.name] = rows.num_rows
    _save(home, day, state, newest)
    return DayCounts(counts, events.orphans)


def materialize_all(home: Home, spec: SourceSpec, progress: bool = True) -> list[DayCounts]:
    """Every day of the lake that isn't done yet, in order."""
    days = lake_days(Lake.of(home))
    todo = [day for day in days if not _state_path(home, day).exists()]
    return [materialize_day(home, spec, day) for day in bar(todo, "features", "day", shown=progress)]


def lake_days(lake: Lake) -> list[str]:
    """Every day from the first to the last on which anything arrived."""
    have = {day for table in ("impressions", "clicks", "users", "ads") for day in lake.days(table)}
    if not have:
        raise ExplainedError("the lake is empty: ingest events first (clickproof ingest)")
    return [day_name(at) for at in range(_start_us(min(have)), _start_us(max(have)) + DAY_US, DAY_US)]


def _start_us(day: str) -> int:
    return int(np.datetime64(day, "us").astype(np.int64))


def _profiles(lake: Lake, stream: str, spec: SourceSpec, end_us: int, day: str | None = None) -> pa.Table | None:
    """Profiles that arrived on a day, or on any day up to one's end; None where the source has no such stream."""
    if stream not in spec.streams or not lake.has(stream):
        return None
    last = day_name(end_us - DAY_US)
    return lake.read(stream, days=[d for d in lake.days(stream) if (d == day if day else d <= last)])


def user_profiles(users: pa.Table | None) -> pa.Table:
    """Rows of the view user_profile: one a user who arrived (features.schemas.USERS and `day`)."""
    profile = view("user_profile")
    if users is None:
        return snapshots.schema(profile).empty_table()
    values = {
        "user_age": pc.fill_null(pc.cast(users["user_age"], pa.float32()), np.nan).to_numpy(),
        "user_country": context_column(users["user_country"]),
        "user_signup": snapshots.times_us(users["event_timestamp"]),
    }
    return _profile_table(profile, users, values)


def ad_profiles(ads: pa.Table | None) -> pa.Table:
    """Rows of the view ad_profile: one an ad that arrived (features.schemas.ADS and `day`)."""
    profile = view("ad_profile")
    if ads is None:
        return snapshots.schema(profile).empty_table()
    values = {
        "ad_created": snapshots.times_us(ads["event_timestamp"]),
        "ad_format": context_column(ads["ad_format"]),
        "ad_price": pc.fill_null(ads["ad_price"], np.nan).to_numpy(),
    }
    values |= {name: context_column(ads[name]) for name in ("campaign_id", "advertiser_id", "ad_category")}
    return _profile_table(profile, ads, values)


def _profile_table(profile: View, rows: pa.Table, values: dict[str, npt.NDArray[Any]]) -> pa.Table:
    event_us, arrived_us = snapshots.times_us(rows["event_timestamp"]), snapshots.times_us(rows["arrived_at"])
    numbers = [int(day.replace("-", "")) for day in rows["day"].to_pylist()]
    keys = rows[snapshots.KEYS[profile.entity]].to_numpy()
    return snapshots.table(profile, keys, event_us, arrived_us, np.array(numbers, np.int64), values)


def manifest(written: View, start_us: int) -> pa.Table:
    """What is complete once a day's rows are written: 288 ticks of the push view, the day as a whole of the others."""
    if written.name == "user_recent":
        end = start_us + np.arange(1, DAY_US // recent.TICK_US + 1) * recent.TICK_US
        snapshot, available = end // recent.TICK_US, end + recent.DELAY_US
    else:
        end = np.array([start_us + DAY_US])
        snapshot = np.array([int(to_datetime(start_us).strftime("%Y%m%d"))])
        available = end + (aggregate.DELAY_US if written.name in snapshots.DAILY else 0)
    return pa.Table.from_arrays(
        [pa.array(snapshot), snapshots.to_time(end), snapshots.to_time(available)], schema=snapshots.MANIFEST
    )


def _state_path(home: Home, day: str) -> Path:
    return home.features / "_state" / f"day={day}.npz"


def state_before(home: Home, lake: Lake, day: str) -> tuple[aggregate.State, recent.Rows]:
    """The state that a day starts from: the day before's, or nothing on the lake's first day."""
    before = day_name(_start_us(day) - DAY_US)
    path = _state_path(home, before)
    if not path.exists():
        if day > lake_days(lake)[0]:
            raise ExplainedError(
                f"features of {day} build on those of {before}, which are not there: run clickproof materialize"
            )
        return aggregate.empty_state(), recent.empty_state()
    groups: dict[str, dict[str, npt.NDArray[Any]]] = {}
    with np.load(path, allow_pickle=False) as arrays:
        for name in arrays.files:
            group, _, column = name.partition(".")
            groups.setdefault(group, {})[column] = arrays[name]
    newest = groups.pop("recent")
    return {group: aggregate.Counters(columns.pop("keys"), columns) for group, columns in groups.items()}, newest


def _save(home: Home, day: str, state: aggregate.State, newest: recent.Rows) -> None:
    arrays = {f"recent.{name}": values for name, values in newest.items()}
    for group, counters in state.items():
        arrays |= {f"{group}.keys": counters.keys, **{f"{group}.{n}": values for n, values in counters.sums.items()}}
    path = home.writing(_state_path(home, day))
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with beside.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    os.replace(beside, path)


def newest_rows(home: Home, written: View, now_us: int) -> pa.Table:
    """The row of each entity that serving should see at a moment: the as-of rule at one time for all entities."""
    first, last = "", day_name(now_us)
    if written.name in snapshots.DAILY:
        marks = snapshots.manifest(home, written.name)
        visible = marks.filter(pc.less_equal(pc.cast(marks["available_at"], pa.int64()), now_us))["day"].to_pylist()
        first = max(visible, default=last)
    days = [day for day in snapshots.days(home, written.name) if first <= day <= last]
    rows = _together((snapshots.read(home, written.name, day) for day in days), written)
    keys = rows[snapshots.KEYS[written.entity]]
    keys = context_column(keys) if pa.types.is_string(keys.type) else keys.to_numpy()
    entities = np.unique(keys)
    available_us, event_us = snapshots.times_us(rows["available_at"]), snapshots.times_us(rows["event_timestamp"])
    at = asof_index(entities, np.full(len(entities), now_us), keys, available_us, event_us)
    return rows.take(pa.array(at[at >= 0]))


def _together(parts: Iterable[pa.Table], written: View) -> pa.Table:
    return pa.concat_tables([snapshots.schema(written).empty_table(), *parts])


def materialize_online(home: Home, spec: SourceSpec, now_us: int, url: str | None = None) -> dict[str, int]:
    """Feed the online store with what is visible at a moment: of every view the newest row of each entity, and the view's mark.

    Entities written, by view; rows that the store has newer ones of are refused.  `url` as in
    `features.online_store.open_store`.
    """
    store = open_store(home, url)
    try:
        return {
            fed.name: write(store, fed.name, newest_rows(home, fed, now_us), mark_at(home, fed, now_us)).written
            for fed in views_of(spec.entities)
        }
    finally:
        store.close()


def mark_at(home: Home, fed: View, now_us: int) -> Mark | None:
    """Up to when a view is complete, as visible at a moment."""
    marks = snapshots.manifest(home, fed.name)
    event_us, available_us = snapshots.times_us(marks["event_timestamp"]), snapshots.times_us(marks["available_at"])
    nobody = np.zeros(1, np.int64)
    at = int(asof_index(nobody, np.array([now_us]), np.zeros(len(event_us), np.int64), available_us, event_us)[0])
    return Mark(int(marks["snapshot"][at].as_py()), int(event_us[at]), int(available_us[at])) if at >= 0 else None
