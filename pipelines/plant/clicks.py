"""Which clicks come back in an hour of a cell, what ingestion counted, and what it refused.

A cell has one `Clicks`: the clean deliveries, or those that a bug changed where users click (`market`), on their way to
ingestion (`events`) or on their way from it into the label join (`labels`).  Rows that a bug delays wait here for their hour.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from infra.clock import DAY_US, HOUR_US
from pipelines.plant import files
from pipelines.plant.days import CLICK_DAYS, Day, counted, cut, edges
from pipelines.plant.door import STREAMS, Door, refused_table
from pipelines.windows import joined, positions

if TYPE_CHECKING:
    from pipelines.plant.cell import Injection
    from pipelines.plant.plant import Plant
    from pipelines.plant.traffic import OtherTraffic

I64 = npt.NDArray[np.int64]
Books = list[tuple[str, str, int]]


class Clicks:
    """Clean clicks, joined with whatever was logged."""

    def __init__(self, plant: "Plant", onset_us: int) -> None:
        self.plant, self.onset_us = plant, onset_us
        self._logs: list[tuple[int, I64, I64, pa.Table]] = []  # hour, ids ascending, their rows, log: newest last

    def hour(self, day: Day, hour: int, log: pa.Table) -> tuple[pa.Table, Books, pa.Table | None]:
        """(clicks as a window holds them, counts, REFUSED or None) of an hour of which `log` was logged."""
        start_us = day.start_us + hour * HOUR_US
        ids = log["id"].to_numpy()
        order = np.argsort(ids, kind="stable")
        self._logs.append((start_us, ids[order], order, log))
        while self._logs[0][0] < start_us - (CLICK_DAYS + 1) * DAY_US:
            del self._logs[0]
        accepted, books, refused = self.accepted(day, hour)
        return self._join(accepted, day), books, refused

    def accepted(self, day: Day, hour: int) -> tuple[pa.Table, Books, pa.Table | None]:
        """(accepted clicks on their way into the label join, counts, REFUSED) of an hour."""
        clicks = self.plant.days.accepted_clicks(day.start_us)
        rows = cut(clicks, edges(clicks["arrived_at"].cast(pa.int64()).to_numpy(), day.start_us), hour)
        return rows, counted(day, day.start_us + hour * HOUR_US), None

    def _join(self, clicks: pa.Table, day: Day) -> pa.Table:
        """Clicks with their predictions: of the cell's own log where they were made after the onset, else of the clean one."""
        wanted = clicks["impression_id"].to_numpy()
        open_rows = np.arange(len(wanted))
        parts = []
        for _, ids, order, log in reversed(self._logs):
            if not len(open_rows):
                break
            if not len(ids):
                continue
            at = np.minimum(np.searchsorted(ids, wanted[open_rows]), len(ids) - 1)
            hit = ids[at] == wanted[open_rows]
            if hit.any():
                parts.append((open_rows[hit], log.take(pa.array(order[at[hit]]))))
                open_rows = open_rows[~hit]
        if len(open_rows):
            before = self._clean_log(wanted[open_rows], day)
            at = positions(before["id"].to_numpy(), wanted[open_rows])
            parts.append((open_rows[at >= 0], before.take(pa.array(at[at >= 0]))))
        if not parts:
            return joined(clicks.slice(0, 0), self._logs[-1][3])
        rows = np.concatenate([part[0] for part in parts])
        table = pa.concat_tables([part[1] for part in parts], promote_options="permissive")
        for new, old in (("clicked_at", "event_timestamp"), ("arrived_at", "arrived_at")):
            table = table.append_column(new, clicks[old].take(pa.array(rows)).cast(pa.int64()))
        return table.sort_by([("arrived_at", "ascending"), ("id", "ascending")])

    def _clean_log(self, wanted: I64, day: Day) -> pa.Table:
        """Clean predictions made before the onset, of some impressions."""
        days = self.plant.days
        rows = day.clicks.filter(
            pc.and_(pc.less(day.clicks["time"], self.onset_us), pc.is_in(day.clicks["id"], pa.array(wanted)))
        ).drop_columns(["clicked_at", "arrived_at"])
        missing = wanted[positions(rows["id"].to_numpy(), wanted) < 0]
        if not len(missing) or day.start_us < self.onset_us - CLICK_DAYS * DAY_US:
            return rows
        return pa.concat_tables([rows, days.logged_before(self.onset_us, missing)])


class Relabelled(Clicks):
    """Stage `labels`: clicks that ingestion accepted, changed before they are joined."""

    def __init__(self, plant: "Plant", onset_us: int, inject: "Injection") -> None:
        super().__init__(plant, onset_us)
        self.inject = inject
        self.waiting = Waiting()

    def accepted(self, day: Day, hour: int) -> tuple[pa.Table, Books, pa.Table | None]:
        rows, books, refused = super().accepted(day, hour)
        return self.waiting.due(self.inject("clicks", rows), day.start_us + (hour + 1) * HOUR_US), books, refused


class Redelivered(Clicks):
    """Stage `events`: deliveries of some streams changed on their way to ingestion, which then does its work on them."""

    def __init__(self, plant: "Plant", onset_us: int, inject: "Injection", streams: Iterable[str]) -> None:
        super().__init__(plant, onset_us)
        self.inject = inject
        # A click looks for its impression, so a change of impressions is one of clicks.
        self.streams = tuple(dict.fromkeys([*streams, *(["clicks"] if "impressions" in streams else [])]))
        self.waiting = {stream: Waiting() for stream in self.streams}
        self.door = Door.at(plant.home, plant.world.spec, onset_us, self.streams)

    def accepted(self, day: Day, hour: int) -> tuple[pa.Table, Books, pa.Table | None]:
        start_us = day.start_us + hour * HOUR_US
        delivered = {s: self.waiting[s].due(self.delivered(s, day, hour), start_us + HOUR_US) for s in self.streams}
        if "impressions" not in delivered:
            self.door.known.add("impressions", arriving(self.plant.days.delivered("impressions", day.start_us), day, hour))
        taken = self.door.take(start_us, delivered)
        books = [*counted(day, start_us, self.streams), *taken.books]
        clicks = taken.accepted["clicks"] if "clicks" in taken.accepted else super().accepted(day, hour)[0]
        return clicks, books, refused_table(taken.refused) if taken.refused else None

    def delivered(self, stream: str, day: Day, hour: int) -> pa.Table:
        """What is delivered in an hour, with the bug."""
        return self.inject(stream, arriving(self.plant.days.delivered(stream, day.start_us), day, hour))


class Rehappened(Redelivered, ABC):
    """What happens from the onset on is different: it is delivered in the place of the clean world's."""

    def delivered(self, stream: str, day: Day, hour: int) -> pa.Table:
        usual = arriving(self.plant.days.delivered(stream, day.start_us), day, hour)
        if stream == "clicks":
            ours = self.plant.days.shown_since(self.onset_us, day.start_us, usual["impression_id"].to_numpy())
        else:
            ours = usual["event_timestamp"].cast(pa.int64()).to_numpy() >= self.onset_us
        happened = self.happened(stream, day, hour)
        return pa.concat_tables([usual.filter(pa.array(~ours)), happened.select(usual.column_names).cast(usual.schema)])

    @abstractmethod
    def happened(self, stream: str, day: Day, hour: int) -> pa.Table:
        """What happens of a stream in an hour, whenever it arrives."""


class Reclicked(Rehappened):
    """Stage `market`: users click otherwise on what they are shown from the onset on; later everything is as usual."""

    def __init__(self, plant: "Plant", onset_us: int, inject: "Injection") -> None:
        super().__init__(plant, onset_us, inject, ("clicks",))

    def happened(self, stream: str, day: Day, hour: int) -> pa.Table:
        shown = self.plant.days.impressions(day.start_us)
        at = edges(shown["event_timestamp"].cast(pa.int64()).to_numpy(), day.start_us)
        impressions = shown.slice(at[hour], at[hour + 1] - at[hour])
        clicks = files.load(files.path(self.plant.home, "clicks", day.start_us))
        theirs = pc.is_in(clicks["impression_id"], impressions["impression_id"].combine_chunks())
        return self.inject("clicks", clicks.filter(theirs), {"impressions": impressions})


class Retravelled(Rehappened):
    """Stage `traffic`: all that follows from other requests is delivered."""

    def __init__(self, plant: "Plant", onset_us: int, inject: "Injection", traffic: "OtherTraffic") -> None:
        super().__init__(plant, onset_us, inject, STREAMS)
        self.traffic = traffic

    def happened(self, stream: str, day: Day, hour: int) -> pa.Table:
        rows = getattr(self.traffic.happened[day.start_us], stream)
        if stream == "clicks":
            shown = self.traffic.hour(day, hour)["impression_id"].combine_chunks()
            return rows.filter(pc.is_in(rows["impression_id"], shown))
        at = rows["event_timestamp"].cast(pa.int64()).to_numpy()
        start_us = day.start_us + hour * HOUR_US
        return rows.filter(pa.array((at >= start_us) & (at < start_us + HOUR_US)))


class Waiting:
    """Rows whose arrival lies ahead."""

    def __init__(self) -> None:
        self._rows: list[pa.Table] = []

    def due(self, rows: pa.Table, end_us: int) -> pa.Table:
        """The rows, old and new, that arrive before `end_us`; others are kept.  Rows whose arrival cannot be read are due."""
        parts = []
        later = []
        for part in (*self._rows, rows):
            at = _arrival_us(part)
            parts.append(part.filter(pa.array(at < end_us)) if (at >= end_us).any() else part)
            later.append(part.filter(pa.array(at >= end_us)))
        self._rows = [part for part in later if len(part)]
        found = [part for part in parts if len(part)]
        if len(found) < 2 or any(part.schema != found[0].schema for part in found):
            return pa.concat_tables(found, promote_options="permissive") if len(found) > 1 else (found or [rows.slice(0, 0)])[0]
        return pa.concat_tables(found)


def _arrival_us(rows: pa.Table) -> I64:
    if "arrived_at" not in rows.column_names or not pa.types.is_timestamp(rows.schema.field("arrived_at").type):
        return np.zeros(len(rows), np.int64)
    return pc.fill_null(rows["arrived_at"].cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()), 0).to_numpy()


def arriving(rows: pa.Table, day: Day, hour: int) -> pa.Table:
    """The rows, in order of arrival, that arrive in an hour of a day."""
    at = edges(rows["arrived_at"].cast(pa.int64()).to_numpy(), day.start_us)
    return rows.slice(at[hour], at[hour + 1] - at[hour])


def clicks_of(
    plant: "Plant", inject: "Injection", onset_us: int, traffic: "OtherTraffic | None" = None
) -> Clicks:  # fmt: skip
    """The clicks of a cell with that bug."""
    bug = inject.bug
    if traffic is not None:
        return Retravelled(plant, onset_us, inject, traffic)
    if bug.stage == "labels":
        return Relabelled(plant, onset_us, inject)
    if bug.stage == "events":
        return Redelivered(plant, onset_us, inject, bug.tables)
    if bug.stage == "market":
        return Reclicked(plant, onset_us, inject)
    return Clicks(plant, onset_us)
