"""Ingestion of a running system: each five minutes' delivered events through contract, duplicate check and click matching.

The rules are ingestion's own (`features.event_contract`, `features.click_matching`); what is here besides is what a stream
needs: ids of the last days at hand, and clicks that wait from one batch to the next.  What was delivered is also landed in
files, hour by hour, so that the day can be ingested by `pipelines.ingest` when it is over and comes out the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features.click_matching import PENDING, WAIT_DAYS, match
from features.event_contract import QUARANTINE, Origin, WrongColumns, check, refused_file
from features.event_rules import event_schema
from features.recent import TICK_US
from features.schemas import CLICKS, KEYS, TIME
from infra.clock import DAY_US, HOUR_US, day_name
from infra.home import Home
from infra.lake import Lake
from pipelines.known import Known, among
from pipelines.sources.contract import SourceSpec

STAGES = ("landed", "accepted", "duplicates", "quarantined")
_TIMES = ("event_timestamp", "arrived_at")


@dataclass(slots=True)
class Taken:
    """What became of delivered rows; several batches add up."""

    accepted: dict[str, list[pa.Table]] = field(default_factory=dict)  # by stream, in the stream's schema
    counts: dict[tuple[str, str], int] = field(default_factory=dict)  # (stream, stage) -> rows
    refused: list[pa.Table] = field(default_factory=list)  # QUARANTINE

    def add(self, other: "Taken") -> None:
        """Take in what became of a later batch."""
        for stream, rows in other.accepted.items():
            self.accepted.setdefault(stream, []).extend(rows)
        for key, count in other.counts.items():
            # Clicks that wait are a level, everything else is a flow.
            self.counts[key] = count if key[1] == "pending" else self.counts.get(key, 0) + count
        self.refused += other.refused

    def rows(self, stream: str, schema: pa.Schema) -> pa.Table:
        """Accepted rows of a stream."""
        return pa.concat_tables([schema.empty_table(), *self.accepted.get(stream, [])])


class Intake:
    """The door of the lake, for batches in order of time."""

    def __init__(self, home: Home, spec: SourceSpec, now_us: int) -> None:
        """Knows what the home's lake holds of the last days before `now_us`, a midnight."""
        self._home, self._spec = home, spec
        lake = Lake.of(home)
        days = [day_name(now_us - back * DAY_US) for back in range(WAIT_DAYS + 1, 0, -1)]
        self._known = Known({stream: np.zeros(0, np.int64) for stream in spec.streams})
        for stream in spec.streams:
            columns = [KEYS[stream], *(_TIMES if stream == "impressions" else ())]
            ever = [day for day in lake.days(stream) if day <= days[-1]]
            self._known.add(stream, lake.read(stream, columns, ever if stream in ("users", "ads") else days))
        self._waiting: pa.Table = lake.read("pending", PENDING.names, days[-1:])
        self._parts: dict[tuple[str, int], list[pa.Table]] = {}  # (stream, hour) -> delivered tables

    def take(self, delivered: Mapping[str, pa.Table], at_us: int) -> Taken:
        """Judge one batch that was delivered just before `at_us`."""
        taken = Taken()
        for stream in sorted(delivered, key=lambda name: name == "clicks"):  # clicks last: they look for their impressions
            rows = delivered[stream]
            if rows.num_rows:
                self._parts.setdefault((stream, (at_us - 1) // HOUR_US), []).append(rows)
            self._take(stream, rows, at_us, taken)
        return taken

    def _take(self, stream: str, rows: pa.Table, at_us: int, taken: Taken) -> None:
        day_us = (at_us - 1) // DAY_US * DAY_US
        name = f"{stream}/live"
        fresh = event_schema(stream, self._spec.context).empty_table()
        quarantined = duplicates = 0
        if not rows.num_rows and stream != "clicks":
            taken.accepted[stream] = [fresh]
            return
        origin = Origin([name], np.zeros(rows.num_rows, np.int64), np.arange(rows.num_rows))
        try:
            checked = check(stream, rows, at_us - 1, self._spec.context, since_us=day_us, origin=origin)
        except WrongColumns as error:
            taken.refused.append(refused_file(stream, name, "must be a whole file of the stream's columns", str(error)))
        else:
            new = ~among(checked.accepted[KEYS[stream]].to_numpy(), self._known.ids[stream])
            fresh = checked.accepted.filter(pa.array(new))
            duplicates = checked.duplicates + int((~new).sum())
            quarantined = checked.quarantined.num_rows
            taken.refused.append(checked.quarantined)
        if stream == "clicks":
            fresh, again, refused = self._settle(fresh, at_us)
            duplicates, quarantined = duplicates + again, quarantined + refused.num_rows
            taken.refused.append(refused)
            taken.counts["clicks", "pending"] = self._waiting.num_rows
        self._known.add(stream, fresh)
        taken.accepted[stream] = [fresh]
        for stage, count in zip(STAGES, (rows.num_rows, fresh.num_rows, duplicates, quarantined), strict=True):
            taken.counts[stream, stage] = count

    def _settle(self, fresh: pa.Table, at_us: int) -> tuple[pa.Table, int, pa.Table]:
        """Clicks that found their impression, how many were waiting already, and those refused; the others go on waiting.

        One that waited arrives now: only now can it be used."""
        day = day_name(at_us - 1)
        again = among(fresh["click_id"].to_numpy(), np.sort(self._waiting["click_id"].to_numpy()))
        fresh = fresh.filter(pa.array(~again))
        n = fresh.num_rows
        since = [pa.repeat(day, n), pa.repeat("clicks/live", n), pa.array(np.arange(n))]
        for column, values in zip(("since", "file", "row"), since, strict=True):
            fresh = fresh.append_column(column, values)
        matched = match(pa.concat_tables([self._waiting, fresh.cast(PENDING)]), self._known.impressions(), day)
        self._waiting = matched.pending
        arrived = np.maximum(pc.cast(matched.accepted["arrived_at"], pa.int64()).to_numpy(), at_us - TICK_US)
        column = pa.array(arrived).cast(TIME)
        accepted = matched.accepted.set_column(CLICKS.get_field_index("arrived_at"), CLICKS.field("arrived_at"), column)
        return accepted, int(again.sum()), matched.quarantined

    def land(self, day_us: int) -> None:
        """Write the files of a day that is over: an hour's deliveries of one shape are one file."""
        for (stream, hour), tables in sorted(self._parts.items()):
            folder = self._home.landing / stream / f"day={day_name(day_us)}"
            shapes: dict[str, list[pa.Table]] = {}
            for rows in tables:
                shapes.setdefault(str(rows.schema), []).append(rows)
            for number, alike in enumerate(shapes.values()):
                path = self._home.writing(folder / f"hour-{hour * HOUR_US % DAY_US // HOUR_US:02d}-{number}.parquet")
                pq.write_table(pa.concat_tables(alike), path, compression="zstd")
        self._parts.clear()


def refused_by_rule(refused: list[pa.Table]) -> pa.Table:
    """Quarantined rows counted by stream, field and rule: monitoring.window.REFUSED."""
    rows = pa.concat_tables([QUARANTINE.empty_table(), *refused]).select(["stream", "field", "rule"])
    fields = pc.fill_null(rows["field"], "")
    counted = rows.set_column(1, "field", fields).group_by(["stream", "field", "rule"]).aggregate([([], "count_all")])
    return counted.rename_columns(["stream", "field", "rule", "rows"])
