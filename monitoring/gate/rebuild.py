"""Are stored feature rows what the raw events say?  An independent recomputation for a hashed sample of entities.

The as-of replay recomputes a training row from stored feature rows, so it cannot see that those rows are wrong.  This check
goes one step back: it feeds raw events through `features.aggregate` and `features.recent` from the beginning, without any
stored state.  What comes out depends on raw events alone: `Rebuilt` is made once a lake, for as many stores as there are.
Called by `monitoring.gate.ledger`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features import aggregate, recent, snapshots
from features.catalogue import VIEWS, Entity, View
from features.day_events import Ads, DayEvents, day_events
from features.derive import NEEDS
from features.ids import uniform
from features.requests import context_column
from features.snapshots import KEYS
from features.sources import with_unknown
from infra.clock import DAY_US
from infra.home import Home
from infra.lake import Lake
from monitoring.comparison import differs
from monitoring.findings import Finding
from monitoring.gate.signs import sign

SAMPLED = 300  # entities of each kind
TRACE = 3  # rows that may differ: a sample holds tens of thousands
WINDOW_DAYS = 3  # a click finds its impression among those that arrived on its day or one of the two before
SALT = 0x52424C44
# Stored features of profiles whose column in the stream has another name.
RENAMED = {"user_signup": "event_timestamp", "ad_created": "event_timestamp"}


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """Rows that the store should hold for the sampled entities: by view and arrival day."""

    rows: Mapping[tuple[str, str], pa.Table]
    sampled: Mapping[str, pa.Array | None]  # entity -> ids; None: all


@dataclass(frozen=True, slots=True)
class Wrong:
    """What stored rows got wrong, and the columns of a training set that are made from it."""

    findings: list[Finding]
    doubted: frozenset[str]


def rebuild(home: Home, days: Sequence[str], placement: bool, entities: Sequence[Entity], most: int = SAMPLED) -> Rebuilt:
    """Rows of every view on `days`, for a hashed sample of at most `most` users and ads, from the lake's events alone.

    `placement` says whether impressions have that column.  Days before `days` are read too: counters remember.
    """
    lake = Lake.of(home)
    every = [day for day in lake.days("impressions") if days and day <= max(days)]
    columns = ["impression_id", "event_timestamp", "arrived_at", "user_id", "ad_id", "slot", "day"]
    shown = _by_day(lake.read("impressions", [*columns, "placement"] if placement else columns, every))
    clicks = _by_day(lake.read("clicks", days=every))
    profiles = {stream: lake.read(stream) for stream in ("users", "ads") if lake.has(stream)}
    sampled = {"user": _sample(shown, days, "user_id", most), "ad": _sample(shown, days, "ad_id", most)}
    state: aggregate.State = aggregate.empty_state()
    newest: recent.Rows = recent.empty_state()
    rows: dict[tuple[str, str], pa.Table] = {}
    for at, day in enumerate(every):
        ads_table = profiles.get("ads")
        ads = Ads.of(None if ads_table is None else ads_table.filter(pc.less_equal(ads_table["day"], day)))
        window = pa.concat_tables([shown[d] for d in every[max(0, at - WINDOW_DAYS + 1) : at + 1]])
        events = day_events(shown[day], clicks.get(day, next(iter(clicks.values())).slice(0, 0)), window, ads)
        end_us = int(np.datetime64(day, "us").astype(np.int64)) + DAY_US
        state = aggregate.update(state, events, end_us)
        today, newest = recent.update(newest, _of_users(events, sampled["user"]))
        if day not in days:
            continue
        ad_row = ads.find(state["ad"].keys)
        category = np.where(ad_row >= 0, ads.category[ad_row], -1) if len(ads.ad_id) else ad_row
        tables = {**aggregate.views(state, end_us, category), "user_recent": recent.rows_table(today)}
        for view in VIEWS:
            if view.entity in entities and view.name in tables:
                rows[view.name, day] = _only(tables[view.name], view, sampled)
            elif view.entity in entities and f"{view.entity}s" in profiles:
                stream = profiles[f"{view.entity}s"]
                rows[view.name, day] = _only(_profile(view, stream.filter(pc.equal(stream["day"], day))), view, sampled)
    return Rebuilt(rows, sampled)


def _by_day(table: pa.Table) -> dict[str, pa.Table]:
    """The rows of each arrival day; rows come in order of day."""
    days = context_column(table["day"])
    starts = np.flatnonzero(np.append(True, days[1:] != days[:-1])) if len(days) else np.zeros(0, np.int64)
    ends = np.append(starts[1:], len(days))
    return {str(days[low]): table.slice(low, high - low) for low, high in zip(starts, ends, strict=True)}


def _sample(shown: Mapping[str, pa.Table], days: Sequence[str], column: str, most: int) -> pa.Array:
    """At most `most` ids that stand in the impressions of `days`, by hash."""
    found = [shown[day][column].drop_null().to_numpy() for day in days if day in shown]
    ids = np.unique(np.concatenate(found)) if found else np.zeros(0, np.int64)
    return pa.array(np.sort(ids[np.argsort(uniform(ids, SALT), kind="stable")[:most]]))


def _of_users(events: DayEvents, users: pa.Array) -> DayEvents:
    wanted = users.to_numpy()
    return DayEvents(events.impressions.take(np.isin(events.impressions.user_id, wanted)),
                     events.clicks.take(np.isin(events.clicks.user_id, wanted)), events.orphans)  # fmt: skip


def _only(rows: pa.Table, view: View, sampled: Mapping[str, pa.Array | None]) -> pa.Table:
    """The sampled entities' rows, in order of entity and time."""
    ids = sampled.get(view.entity)
    key = KEYS[view.entity]
    kept = rows if ids is None else rows.filter(pc.is_in(rows[key], ids))
    return kept.sort_by([(key, "ascending"), ("event_timestamp", "ascending"), ("available_at", "ascending")]).combine_chunks()


def _profile(view: View, stream: pa.Table) -> pa.Table:
    """Rows of a profile view: what arrived that day, under the view's names."""
    names = [KEYS[view.entity], "event_timestamp", *(f.name for f in view.features)]
    schema = snapshots.schema(view)
    taken = [stream[RENAMED.get(name, name)].cast(schema.field(name).type) for name in names]
    return pa.table([*taken, stream["arrived_at"]], [*names, "available_at"])


def compare(home: Home, rebuilt: Rebuilt, days: Sequence[str]) -> Wrong:
    """Stored features whose rows on `days` differ from those rebuilt, most rows first, and the columns made from them."""
    found = []
    bad: set[str] = set()
    for view in VIEWS:
        mine = [day for day in days if (view.name, day) in rebuilt.rows]
        wrong, first = dict.fromkeys((f.name for f in view.features), 0), dict.fromkeys((f.name for f in view.features), "")
        rows = 0
        for day in mine:
            should = rebuilt.rows[view.name, day]
            stored = _only(snapshots.read(home, view.name, day), view, rebuilt.sampled)
            rows += max(should.num_rows, stored.num_rows)
            index = [KEYS[view.entity], "event_timestamp"]
            same = _equal(should, stored, index)
            for feature in view.features:
                if not same:
                    count = max(should.num_rows, stored.num_rows)
                else:
                    count = int(differs(with_unknown(feature, stored[feature.name]),
                                        with_unknown(feature, should[feature.name])).sum())  # fmt: skip
                wrong[feature.name] += count
                first[feature.name] = first[feature.name] or (day if count else "")
        for name, count in wrong.items():
            if count > TRACE:
                bad.add(name)
                found.append(sign("row-rebuild", "rebuild-mismatch", name, count / TRACE, {
                    "view": view.name, "rows": rows, "mismatches": count, "rate": count / rows,
                }, first[name]))  # fmt: skip
    made = {column for column, needs in NEEDS.items() if bad.intersection(needs)}
    return Wrong(sorted(found, key=lambda f: -f.excess), frozenset(bad | made))


def _equal(one: pa.Table, other: pa.Table, columns: Sequence[str]) -> bool:
    if one.num_rows != other.num_rows:
        return False
    return all(pc.all(pc.equal(_plain(one[c]), _plain(other[c]))).as_py() is not False for c in columns)


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column if pa.types.is_string(column.type) else column.cast(pa.int64())
