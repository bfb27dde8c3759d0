"""The feature store as a cell's serving sees it: the clean snapshots of a few days, with a bug's rows in the place of some.

A folder of links in the layout of `features.snapshots`, so that the same `AsOfSource` reads it.  Older days are brought
together in one file of what was newest then: it answers alike and reads quickly.  Belongs to one cell, in a temporary folder.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features import recent, snapshots
from features.aggregate import DELAY_US
from features.asof import asof_index
from features.catalogue import View
from features.requests import context_column
from features.snapshots import DAILY, KEYS, times_us
from infra.clock import DAY_US, day_name
from infra.home import Home
from infra.lake import Lake
from pipelines.materialize import state_before

I64 = npt.NDArray[np.int64]
Inject = Callable[[str, pa.Table], pa.Table]

BACK_DAYS = 3  # of daily snapshots: at half past midnight those of two days ago are served, a day earlier those before them


class Shelf:
    """Feature snapshots of a home from some day on, in a folder of its own.  `day` must be called for each further day."""

    def __init__(self, base: Home, views: Sequence[View], folder: Path, day_us: int) -> None:
        self.base, self.views, self.home = base, views, Home(folder)
        self.first_us = day_us
        newest: pa.Table | None = None
        for view in views:
            old = day_name(day_us - 2 * DAY_US)
            if view.name in DAILY:
                for back in range(BACK_DAYS, 1, -1):
                    self.link(view, day_us - back * DAY_US)
            elif view.name == "user_recent":
                before = state_before(base, Lake.of(base), day_name(day_us - DAY_US))[1]
                newest = recent.rows_table(before)
                self.put(view, day_us - 2 * DAY_US, newest, self._marks(view, old))
            else:
                days = [day for day in snapshots.days(base, view.name) if day <= old]
                rows = [snapshots.read(base, view.name, day) for day in days]
                whole = pa.concat_tables([snapshots.schema(view).empty_table(), *rows])
                self.put(view, day_us - 2 * DAY_US, whole, self._marks(view, old))
            self.link(view, day_us - DAY_US)

    def day(self, day_us: int) -> None:
        """Put a day's rows on the shelf."""
        for view in self.views:
            self.link(view, day_us)

    def link(self, view: View, day_us: int) -> None:
        """The base's own file of a view and day, unless there is one already or the base has none."""
        day = day_name(day_us)
        for path in (snapshots.day_path, snapshots.manifest_path):
            source, target = path(self.base, view.name, day), path(self.home, view.name, day)
            if source.exists() and not target.exists():
                self.home.writing(target)
                os.symlink(source.resolve(), target)

    def put(self, view: View, day_us: int, rows: pa.Table, marks: pa.Table) -> None:
        """A file of the shelf's own in the place of the base's."""
        snapshots.write(self.home, view, day_name(day_us), rows, marks)

    def rows(self, view: View, day_us: int) -> pa.Table:
        """A view's rows of a day on this shelf."""
        return snapshots.read(self.home, view.name, day_name(day_us))

    def _marks(self, view: View, day: str) -> pa.Table:
        marks = snapshots.manifest(self.base, view.name)
        return marks.filter(pc.equal(marks["day"], day)).drop_columns("day")


class Rewritten(Shelf):
    """A shelf on which some views' rows went through a bug on their way, from the onset on.

    The faulty job starts at the onset: of a daily view, the newest snapshot that serving can see is the first that it wrote (so
    that what it drops leaves the day before's); of the other views it writes every entity's newest row again, then what comes.
    A row that is dropped or delayed leaves the one before it to be served.  The mark of a batch (what its age is counted from)
    comes with the batch's first row, and not at all where none comes.
    """

    def __init__(self, base: Home, views: Sequence[View], folder: Path, onset_us: int, inject: Inject) -> None:
        self.onset_us, self.inject = onset_us, inject
        self.touched: set[str] = set()
        super().__init__(base, views, folder, onset_us - onset_us % DAY_US)

    def rewrite(self, names: Sequence[str]) -> None:
        """Let the bug have the rows of these views, from now on; called once, before the first `day`."""
        self.touched = set(names)
        day_us = self.onset_us - self.onset_us % DAY_US
        for view in self.views:
            if view.name in self.touched and view.name in DAILY:
                newest = day_us - DAY_US if self.onset_us >= day_us + DELAY_US else day_us - 2 * DAY_US
                for at in range(newest, day_us, DAY_US):
                    self._daily(view, at)

    def day(self, day_us: int) -> None:
        for view in self.views:
            if view.name not in self.touched:
                self.link(view, day_us)
            elif view.name in DAILY:
                self._daily(view, day_us)
            else:
                self._stream(view, day_us)

    def _daily(self, view: View, day_us: int) -> None:
        """A day's snapshot after the bug, on top of what the store held before it."""
        before = self.rows(view, day_us - DAY_US)
        end_us = day_us + DAY_US + DELAY_US
        own = snapshots.read(self.base, view.name, day_name(day_us))
        after = self._after(view, own)
        marks = _followed(self._marks(view, day_name(day_us)), own, after)
        self._replace(view, day_us, pa.concat_tables([_still_seen(view, before, end_us), after]), marks)

    def _stream(self, view: View, day_us: int) -> None:
        """A day's rows as they came, those from the onset on through the bug."""
        own = snapshots.read(self.base, view.name, day_name(day_us))
        late = times_us(own["available_at"]) >= self.onset_us
        coming = own.filter(pa.array(late))
        after = self._after(view, coming)
        parts = [own.filter(pa.array(~late)), after]
        if day_us == self.first_us:
            seen = [self.rows(view, day_us - 2 * DAY_US), self.rows(view, day_us - DAY_US), parts[0]]
            newest = _newest(view, pa.concat_tables(seen), self.onset_us)
            again = newest.set_column(
                newest.schema.get_field_index("available_at"), "available_at",
                snapshots.to_time(np.full(len(newest), self.onset_us)),
            )  # fmt: skip
            parts.append(self._after(view, again))
        marks = _followed(self._marks(view, day_name(day_us)), coming, after)
        self._replace(view, day_us, pa.concat_tables(parts), marks)

    def _after(self, view: View, rows: pa.Table) -> pa.Table:
        """Rows after the bug, as a store takes them: those stamped as available before they exist are refused."""
        wanted = snapshots.schema(view)
        after = self.inject(view.name, rows).select(wanted.names).cast(wanted)
        return after.filter(pc.greater_equal(after["available_at"], after["event_timestamp"]))

    def _replace(self, view: View, day_us: int, rows: pa.Table, marks: pa.Table) -> None:
        for path in (snapshots.day_path, snapshots.manifest_path):
            path(self.home, view.name, day_name(day_us)).unlink(missing_ok=True)  # a link into the base
        self.put(view, day_us, rows, marks)


def _keys(view: View, rows: pa.Table) -> npt.NDArray[np.generic]:
    column = rows[KEYS[view.entity]]
    return context_column(column) if pa.types.is_string(column.type) else column.to_numpy()


def _newest(view: View, rows: pa.Table, at_us: int) -> pa.Table:
    """The row of each entity that serving sees at a moment."""
    keys = _keys(view, rows)
    entities = np.unique(keys)
    at = asof_index(
        entities, np.full(len(entities), at_us), keys, times_us(rows["available_at"]), times_us(rows["event_timestamp"])
    )
    return rows.take(pa.array(at[at >= 0]))


def _still_seen(view: View, rows: pa.Table, at_us: int) -> pa.Table:
    """The rows that serving sees at a moment or may see later."""
    later = rows.filter(pa.array(times_us(rows["available_at"]) > at_us))
    return pa.concat_tables([_newest(view, rows, at_us), later])


def _followed(marks: pa.Table, before: pa.Table, after: pa.Table) -> pa.Table:
    """Marks of batches whose rows were `before` and became `after`: see `Rewritten`."""
    ids = marks["snapshot"].to_numpy()
    had = np.isin(ids, before["snapshot"].to_numpy())
    kept = ~had | np.isin(ids, after["snapshot"].to_numpy())
    first = np.full(len(ids), np.iinfo(np.int64).max)
    place = {int(name): at for at, name in enumerate(ids)}
    rows = np.array([place.get(int(name), -1) for name in after["snapshot"].to_numpy()], np.int64)
    available = times_us(after["available_at"])
    np.minimum.at(first, rows[rows >= 0], available[rows >= 0])
    own = times_us(marks["available_at"])
    moved = np.where(had & kept, np.maximum(own, first), own)
    marks = marks.set_column(marks.schema.get_field_index("available_at"), "available_at", snapshots.to_time(moved))
    return marks.filter(pa.array(kept))
