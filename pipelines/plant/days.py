"""A plant's clean days: what was served, joined, counted and recomputed on each, made once and kept on disk.

Everything comes from the functions that production uses, on the branch's own lake and snapshots.  Cells read it and never
write it.
"""

import shutil
import tempfile
import weakref
from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features.batch import FeatureSource
from features.schemas import TIME
from features.sources import AsOfSource
from features.spec import service_views
from infra.clock import DAY_US, HOUR_US, day_name
from infra.home import Home
from infra.lake import Lake
from models.artefact import Artefact
from pipelines import landing
from pipelines.plant import files
from pipelines.plant.door import STREAMS, Door
from pipelines.plant.serving import features_of, predictions
from pipelines.plant.shelf import Shelf
from pipelines.sources.contract import SourceSpec
from pipelines.windows import OLD_SAMPLE, feature_arrays, joined, log_of, offline_of, sample_rows
from serving.assignment import Assignment

I64 = npt.NDArray[np.int64]

LATE_DAYS = 2  # an impression arrives on its day or one of the two after
CLICK_DAYS = 7  # a click comes within as many days of its impression
SHELF_DAYS = 10  # for which one shelf serves

COUNTS = pa.schema([("hour_us", pa.int64()), ("stream", pa.string()), ("stage", pa.string()), ("rows", pa.int64())])


class Day(NamedTuple):
    """One clean day."""

    start_us: int
    predictions: pa.Table  # in order of time, then id
    log: pa.Table  # the same rows as a window's log
    hours: I64  # [25] where each hour's rows begin
    clicks: pa.Table  # joined, in order of arrival
    click_hours: I64  # [25]
    counts: pa.Table  # COUNTS
    old: pa.Table  # id, f_NAME of a sample, as the store stood a day earlier
    old_hours: I64  # [25]


def edges(times_us: I64, day_us: int) -> I64:
    """Where each of a day's hours begins in ascending times: [25]."""
    return np.searchsorted(times_us, day_us + np.arange(25) * HOUR_US)


def cut(rows: pa.Table, at: I64, hour: int) -> pa.Table:
    """An hour's rows of a day's."""
    return rows.slice(at[hour], at[hour + 1] - at[hour])


def counted(day: Day, start_us: int, without: tuple[str, ...] = ()) -> list[tuple[str, str, int]]:
    """The clean counts of the hour that starts at `start_us`, less those of some streams."""
    rows = day.counts.filter(pc.equal(day.counts["hour_us"], start_us)).to_pylist()
    return [(row["stream"], row["stage"], row["rows"]) for row in rows if row["stream"] not in without]


class Days:
    """The clean days of one home, under one artefact."""

    def __init__(self, home: Home, spec: SourceSpec, artefact: Artefact, assignment: Assignment, first_us: int) -> None:
        """`first_us`: predictions were made from here on (a midnight)."""
        self.home, self.spec, self.artefact, self.assignment, self.first_us = home, spec, artefact, assignment, first_us
        self.views = service_views(spec.entities, artefact.service)
        self._shelf: Shelf | None = None
        self.day = lru_cache(maxsize=3)(self._day)
        # A cell asks for these once an hour.
        self.delivered = lru_cache(maxsize=6)(self._delivered)
        self.impressions = lru_cache(maxsize=2)(self._impressions)
        self.shown = lru_cache(maxsize=CLICK_DAYS + 3)(self._shown)
        self.accepted_clicks = lru_cache(maxsize=3)(self._accepted_clicks)

    def _impressions(self, day_us: int) -> pa.Table:
        """What was shown on a day, in order of time, then id."""
        recorded = files.path(self.home, "impressions", day_us)
        if recorded.exists():
            rows = files.load(recorded)
        else:
            lake = Lake.of(self.home)
            arrival = {day_name(day_us + later * DAY_US) for later in range(LATE_DAYS + 1)}
            rows = lake.read("impressions", days=sorted(arrival & set(lake.days("impressions"))))
            at = rows["event_timestamp"]
            first, end = pa.scalar(day_us, TIME), pa.scalar(day_us + DAY_US, TIME)
            rows = rows.filter(pc.and_(pc.greater_equal(at, first), pc.less(at, end)))
        return rows.sort_by([("event_timestamp", "ascending"), ("impression_id", "ascending")])

    def _delivered(self, stream: str, day_us: int) -> pa.Table:
        """What landed of a stream on a day, in order of arrival."""
        found = [landing.read(file) for file in landing.files(self.home, stream, day_name(day_us))]
        return pa.concat_tables(found).sort_by("arrived_at")

    def accepted(self, stream: str, day_us: int) -> pa.Table:
        """What the lake holds of a stream's day of arrival."""
        return Lake.of(self.home).read(stream, days=[day_name(day_us)])

    def shown_since(self, since_us: int, day_us: int, ids: I64) -> npt.NDArray[np.bool_]:
        """Which impressions were shown from an instant on, up to the end of a day (only the last week is looked at)."""
        found = np.zeros(len(ids), bool)
        first = max(since_us - since_us % DAY_US, day_us - (CLICK_DAYS + 1) * DAY_US)
        for at in range(first, day_us + DAY_US, DAY_US):
            shown, shown_us = self.shown(at)
            place = np.minimum(np.searchsorted(shown, ids), len(shown) - 1)
            found |= (shown[place] == ids) & (shown_us[place] >= since_us)
        return found

    def _shown(self, day_us: int) -> tuple[I64, I64]:
        """(ids ascending, times us) of a recorded day's impressions."""
        rows = files.load(files.path(self.home, "impressions", day_us), ("impression_id", "event_timestamp"))
        ids = rows["impression_id"].to_numpy()
        order = np.argsort(ids)
        return ids[order], rows["event_timestamp"].cast(pa.int64()).to_numpy()[order]

    def predictions(self, day_us: int) -> pa.Table:
        """The prediction log of a day."""
        return self._kept("predictions", day_us, self._predicted)

    def _day(self, day_us: int) -> Day:
        rows = self.predictions(day_us)
        log = log_of(rows)
        hours = edges(log["time"].to_numpy(), day_us)
        clicks = self._kept("joined", day_us, self._joined)
        counts = self._kept("books", day_us, self._counted)
        old = self._kept("day-old", day_us, self._looked_up_late)
        return Day(
            day_us,
            rows,
            log,
            hours,
            clicks,
            edges(clicks["arrived_at"].to_numpy(), day_us),
            counts,
            old,
            np.cumsum([0, *np.minimum(np.diff(hours), OLD_SAMPLE)]),
        )

    def _kept(self, what: str, day_us: int, make: Callable[[int], pa.Table]) -> pa.Table:
        file = self._file(what, day_us)
        if not file.exists():
            files.save(self.home, file, make(day_us))
        return files.load(file)

    def _file(self, what: str, day_us: int) -> Path:
        return files.path(self.home, f"{self.artefact.hash}/{what}", day_us)

    def _predicted(self, day_us: int) -> pa.Table:
        impressions = self.impressions(day_us)
        source = AsOfSource(self._shelved(day_us), self.spec.entities, self.spec.context, self.artefact.service)
        batch = features_of(source, impressions, self.spec.context)
        return predictions(impressions, batch, self.artefact, self.assignment)

    def _accepted_clicks(self, day_us: int) -> pa.Table:
        """The clicks that ingestion accepted on a day, in order of arrival; with clean deliveries."""
        return self._kept("accepted", day_us, self._accepted)

    def _accepted(self, day_us: int) -> pa.Table:
        clicks, counts = self._through_the_door(day_us)
        files.save(self.home, self._file("books", day_us), counts)
        return clicks

    def _counted(self, day_us: int) -> pa.Table:
        return self._through_the_door(day_us)[1]

    def _through_the_door(self, day_us: int) -> tuple[pa.Table, pa.Table]:
        """(accepted clicks, COUNTS) of a day."""
        door = Door.at(self.home, self.spec, day_us)
        streams = {stream: self.delivered(stream, day_us) for stream in STREAMS}
        at = {stream: edges(rows["arrived_at"].cast(pa.int64()).to_numpy(), day_us) for stream, rows in streams.items()}
        clicks, counts = [], []
        for hour in range(24):
            hour_us = day_us + hour * HOUR_US
            parts = {s: rows.slice(at[s][hour], at[s][hour + 1] - at[s][hour]) for s, rows in streams.items()}
            taken = door.take(hour_us, parts)
            clicks.append(taken.accepted["clicks"])
            counts += [dict(zip(COUNTS.names, (hour_us, *row), strict=True)) for row in taken.books]
        return pa.concat_tables(clicks).sort_by(
            [("arrived_at", "ascending"), ("impression_id", "ascending")]
        ), pa.Table.from_pylist(counts, COUNTS)

    def _joined(self, day_us: int) -> pa.Table:
        clicks = self.accepted_clicks(day_us)
        before = range(max(self.first_us, day_us - CLICK_DAYS * DAY_US), day_us + DAY_US, DAY_US)
        parts = []
        wanted = clicks["impression_id"].combine_chunks()
        for day in before:
            rows = self.predictions(day)
            parts.append(log_of(rows.filter(pc.is_in(rows["impression_id"], wanted))))
        return joined(clicks, pa.concat_tables(parts))

    def logged_before(self, end_us: int, ids: I64) -> pa.Table:
        """Rows of the clean log, made in the week before `end_us`, of some impressions."""
        first = max(self.first_us, end_us - end_us % DAY_US - CLICK_DAYS * DAY_US)
        wanted, parts = pa.array(ids), []
        for day_us in range(first, end_us, DAY_US):
            rows = self.predictions(day_us)
            rows = rows.filter(pc.is_in(rows["impression_id"], wanted))
            parts.append(rows.filter(pc.less(rows["event_timestamp"], pa.scalar(end_us, TIME))))
        return log_of(pa.concat_tables(parts))

    def _shelved(self, day_us: int) -> Home:
        """The home's snapshots as the day can see them, in fewer files: the same answers for a fraction of the reading."""
        if self._shelf is None or not 0 <= day_us - self._shelf.first_us < SHELF_DAYS * DAY_US:
            folder = tempfile.mkdtemp(prefix="shelf-")
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
            self._shelf = Shelf(self.home, self.views, Path(folder), day_us)
        shelf = self._shelf
        for at in range(shelf.first_us, day_us + DAY_US, DAY_US):
            shelf.day(at)
        return shelf.home

    def _looked_up_late(self, day_us: int) -> pa.Table:
        late = a_day_late(self._shelved(day_us), self.spec, self.artefact.service)
        return late_sample(late, self.impressions(day_us), self.spec.context, day_us)[0]

    def clicked(self, day_us: int, ids: I64) -> npt.NDArray[np.bool_]:
        """Which of a day's impressions were clicked, as far as the clicks have arrived by the end of what was landed."""
        lake = Lake.of(self.home)
        arrival = {day_name(day_us + later * DAY_US) for later in range(CLICK_DAYS + 2)}
        rows = lake.read("clicks", ["impression_id"], sorted(arrival & set(lake.days("clicks"))))
        return np.isin(ids, rows["impression_id"].to_numpy())


def a_day_late(home: Home, spec: SourceSpec, service: str) -> AsOfSource:
    """Features as the store of a home stood a day earlier."""
    return AsOfSource(home, spec.entities, spec.context, service, lambda view, seen, event: (seen + DAY_US, event))


def late_sample(source: FeatureSource, impressions: pa.Table, context: tuple[str, ...], day_us: int) -> tuple[pa.Table, I64]:
    """(id, f_NAME) of a sample of each hour of a day's impressions, which stand in order of time, and where the hours begin."""
    hours = edges(impressions["event_timestamp"].cast(pa.int64()).to_numpy(), day_us)
    ids = impressions["impression_id"].to_numpy()
    rows = [low + sample_rows(ids[low:high], OLD_SAMPLE) for low, high in pairwise(hours)]
    chosen = impressions.take(pa.array(np.concatenate(rows)))
    batch = features_of(source, chosen, context)
    table = pa.table({"impression_id": chosen["impression_id"], **feature_arrays(batch.columns)})
    return offline_of(table), np.cumsum([0, *(len(part) for part in rows)])
