"""Ingestion by the hour: the lake's contract, duplicates and waiting clicks on what arrives in one hour of a plant's world.

The same functions as `pipelines.ingest`, which does a day of files at once: `event_contract.check`, ids known so far, and
`click_matching.match`.  Nothing is written.  Called for clean days (once) and for the hours of a bug's cell.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.click_matching import PENDING, match
from features.event_contract import WrongColumns, check
from features.event_rules import event_schema
from features.schemas import CLICKS, KEYS, TIME
from infra.clock import DAY_US, HOUR_US, day_name
from infra.home import Home
from infra.lake import Lake
from monitoring.window import REFUSED
from pipelines.known import Known, among
from pipelines.sources.contract import SourceSpec

STREAMS = ("requests", "impressions", "clicks")  # what comes hour by hour; clicks last: they look for their impressions
REMEMBERED_DAYS = 8  # of ids: a click comes within 7 days of its impression


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of an hour's deliveries."""

    accepted: Mapping[str, pa.Table]  # by stream
    books: list[tuple[str, str, int]]  # stream, stage, rows
    refused: list[tuple[str, str, str, int]]  # stream, field, rule, rows


class Door:
    """The lake's door where it stands after some hour."""

    def __init__(self, context: tuple[str, ...], known: Known, waiting: pa.Table) -> None:
        self.context = context
        self.known = known
        self.waiting = waiting  # PENDING

    @classmethod
    def at(cls, home: Home, spec: SourceSpec, at_us: int, streams: Iterable[str] = STREAMS) -> "Door":
        """The door of a home's lake at an instant; events after it are not known yet.  Only `streams` can be delivered."""
        lake, day_us = Lake.of(home), at_us - at_us % DAY_US
        streams = tuple(dict.fromkeys((*streams, "impressions")))
        known = Known({stream: np.zeros(0, np.int64) for stream in streams})
        days = [day_name(day_us - back * DAY_US) for back in range(REMEMBERED_DAYS, -1, -1)]
        for stream in streams:
            have = set(days) & set(lake.days(stream))
            names = [KEYS[stream], "arrived_at", *(["event_timestamp"] if stream == "impressions" else [])]
            rows = lake.read(stream, names, sorted(have))
            known.add(stream, rows.filter(pc.less(rows["arrived_at"], pa.scalar(at_us, TIME))))
        before = day_name(day_us - DAY_US)
        waiting = lake.read("pending", PENDING.names, [before]) if lake.has("pending") else PENDING.empty_table()
        door = cls(spec.context, known, waiting)
        if at_us > day_us and "clicks" in streams:  # clicks of this morning whose impression is still on its way
            late = lake.read("clicks", CLICKS.names, [day_name(day_us)])
            arrived = pc.less(late["arrived_at"], pa.scalar(at_us, TIME))
            unknown = ~among(late["impression_id"].to_numpy(), known.ids["impressions"])
            fresh = late.filter(pc.and_(arrived, pa.array(unknown)))
            door.waiting = pa.concat_tables([waiting, _waiting(fresh, day_name(day_us))])
            settled = among(door.waiting["impression_id"].to_numpy(), known.ids["impressions"])
            door.waiting = door.waiting.filter(pa.array(~settled))
        return door

    def take(self, hour_us: int, delivered: Mapping[str, pa.Table]) -> Taken:
        """Let in what was delivered in the hour from `hour_us` on: contract, then duplicates, then clicks' impressions."""
        day_us = hour_us - hour_us % DAY_US
        accepted: dict[str, pa.Table] = {}
        books: list[tuple[str, str, int]] = []
        refused: list[tuple[str, str, str, int]] = []
        for stream in (stream for stream in STREAMS if stream in delivered):
            rows, whole = delivered[stream], 0
            try:
                checked = check(stream, rows, hour_us + HOUR_US - 1, self.context, since_us=day_us)
            except WrongColumns:  # the file as a whole is refused, and the waiting clicks are tried again all the same
                whole = len(rows)
                refused.append((stream, "", "must be a whole file of the stream's columns", whole))
                nothing = event_schema(stream, self.context).empty_table()
                checked = check(stream, nothing, hour_us + HOUR_US - 1, self.context, since_us=day_us)
            ids = checked.accepted[KEYS[stream]].to_numpy()
            new = ~among(ids, self.known.ids[stream])
            fresh = checked.accepted.filter(pa.array(new))
            duplicates = checked.duplicates + int((~new).sum())
            quarantined = checked.quarantined
            if stream == "clicks":
                again = among(fresh["click_id"].to_numpy(), np.sort(self.waiting["click_id"].to_numpy()))
                duplicates += int(again.sum())
                waiting = _waiting(fresh.filter(pa.array(~again)), day_name(day_us))
                shown = self.known.impressions()
                matched = match(pa.concat_tables([self.waiting, waiting]), shown, day_name(day_us))
                self.waiting = matched.pending
                quarantined = pa.concat_tables([quarantined, matched.quarantined])
                fresh = _arriving(matched.accepted, shown.ids, shown.arrived_us)
                books.append((stream, "pending", len(self.waiting)))
            self.known.add(stream, fresh)
            accepted[stream] = fresh
            books += [(stream, "landed", len(rows)), (stream, "accepted", len(fresh)), (stream, "duplicates", duplicates)]
            books.append((stream, "quarantined", len(quarantined) + whole))
            refused += _by_rule(quarantined)
        return Taken(accepted, books, refused)


def _waiting(clicks: pa.Table, day: str) -> pa.Table:
    n = len(clicks)
    rows = clicks.select(CLICKS.names)
    for name, values in (("since", pa.repeat(day, n)), ("file", pa.repeat("hour", n)), ("row", pa.array(np.arange(n)))):
        rows = rows.append_column(name, values)
    return rows.cast(PENDING)


def _arriving(clicks: pa.Table, ids: np.ndarray, arrived_us: np.ndarray) -> pa.Table:
    """A click that waited arrives, for everybody downstream, when its impression does: also within a day."""
    if not len(clicks):
        return clicks
    own = clicks["arrived_at"].cast(pa.int64()).to_numpy()
    later = np.maximum(own, arrived_us[np.searchsorted(ids, clicks["impression_id"].to_numpy())])
    return clicks.set_column(CLICKS.get_field_index("arrived_at"), CLICKS.field("arrived_at"), pa.array(later).cast(TIME))


def _by_rule(quarantined: pa.Table) -> list[tuple[str, str, str, int]]:
    if not len(quarantined):
        return []
    counted = quarantined.group_by(["stream", "field", "rule"]).aggregate([([], "count_all")])
    return [(row["stream"], row["field"], row["rule"], row["count_all"]) for row in counted.to_pylist()]


def refused_table(rows: list[tuple[str, str, str, int]]) -> pa.Table:
    """REFUSED from (stream, field, rule, rows)."""
    return pa.Table.from_pylist([dict(zip(REFUSED.names, row, strict=True)) for row in rows], schema=REFUSED)
