"""A cell: one bug, one dose, one onset on a plant's clean days.  It makes again what lies downstream of the bug's stage.

Each hour is three steps, and a stage is a change in one of them: what was served (`served`), which arm and log rows it became
(`logged`), which clicks came back (`Clicks`).  Everything else is the clean day's.  The clean days are read and never written.

What a bug does to deliveries and clicks does not reach the features within a cell: counters would hold a few percent fewer or
more events from the next tick on, which is second order to the bug itself.
"""

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from infra.clock import DAY_US, HOUR_US
from infra.errors import ExplainedError
from monitoring.bugs.entry import Bug, Scene
from monitoring.window import Window
from pipelines.plant.clicks import Clicks, clicks_of
from pipelines.plant.days import Day, cut
from pipelines.plant.remade import Refetched, Remade
from pipelines.plant.serving import scores
from pipelines.plant.traffic import OtherTraffic
from pipelines.windows import feature_arrays, feature_columns, log_of, positions

if TYPE_CHECKING:
    from pipelines.plant.plant import Plant

KEYS = ("impression_id", "request_id", "event_timestamp")  # of the table `features`, before the features


class Injection:
    """The bug as the stages call it: rows in, rows out, with what surrounds them."""

    def __init__(self, bug: Bug, dose: float, seed: int, onset_us: int, artefacts: Mapping[str, Any]) -> None:
        self.bug, self.dose, self.seed, self.onset_us, self.artefacts = bug, dose, seed, onset_us, artefacts

    def __call__(self, table: str, rows: Any, tables: Mapping[str, pa.Table] | None = None) -> Any:
        """What the bug makes of rows of a table; rows of tables that it does not touch come back as they are."""
        if table not in self.bug.tables and not (self.bug.stage == "model" and table == "model"):
            return rows
        return self.bug.inject(rows, self.dose, Scene(table, self.seed, self.onset_us, tables or {}, self.artefacts))


class Cell:
    """See above.  `onset_us` is taken back to its hour."""

    def __init__(self, plant: "Plant", bug: Bug, dose: float, seed: int, onset_us: int) -> None:
        if onset_us < plant.first_us:
            raise ExplainedError(
                f"bugs of this plant start at {plant.first_us} us or later, after its reference; not {onset_us}"
            )
        self.plant, self.stage = plant, bug.stage
        self.onset_us = onset_us - onset_us % HOUR_US
        self.inject = Injection(bug, dose, seed, self.onset_us, plant.artefacts if bug.stage == "model" else {})
        self.artefact = self.inject("model", plant.artefact) if bug.stage == "model" else plant.artefact
        self.remade: Remade | None = None  # of bugs that change what features are looked up
        self.clicks: Clicks | None = None

    def windows(self, until_us: int) -> Iterator[Window]:
        """Hour by hour from the onset's hour on."""
        until_us = min(until_us, self.plant.end_us)
        with tempfile.TemporaryDirectory(prefix="cell-") as folder:
            traffic = None
            if self.stage in ("feature", "store"):
                self.remade = Refetched(self.plant, self.inject, self.onset_us, until_us, Path(folder))
            elif self.stage == "traffic":
                self.remade = traffic = OtherTraffic(self.plant, self.inject, self.onset_us, until_us, Path(folder))
            self.clicks = clicks_of(self.plant, self.inject, self.onset_us, traffic)
            for at in range(self.onset_us, until_us, HOUR_US):
                day = self.plant.days.day(at - at % DAY_US)
                yield self.window(day, at % DAY_US // HOUR_US)

    def window(self, day: Day, hour: int) -> Window:
        """One hour of the cell; hours must come in order."""
        start_us = day.start_us + hour * HOUR_US
        clean = cut(day.predictions, day.hours, hour)
        served = self.remade.hour(day, hour) if self.remade else self.served(clean)
        logged = self.logged(served)
        log = cut(day.log, day.hours, hour) if logged is clean else log_of(logged)
        if self.clicks is None:
            raise RuntimeError("a cell's hours come from `windows`")
        clicks, books, refused = self.clicks.hour(day, hour, log)
        day_old = self.remade.day_old(day, hour) if self.remade else cut(day.old, day.old_hours, hour)
        recomputed = logged if self.stage in ("feature", "traffic") else clean
        return self.plant.window(start_us, log, logged, recomputed, clicks, books, day_old, refused)

    def served(self, rows: pa.Table) -> pa.Table:
        """The hour's prediction log as the endpoint would have written it."""
        if self.stage == "features":
            return rescore(with_features(rows, changed(self.inject, rows)), self.artefact)
        if self.stage == "input":
            return rescore(rows, self.artefact, feature_columns(with_features(rows, changed(self.inject, rows))))
        if self.stage == "model":
            return rescore(rows, self.artefact)
        return rows

    def logged(self, rows: pa.Table) -> pa.Table:
        """What became of it in the log."""
        if self.stage == "log":
            return self.inject("predictions", rows)
        if self.stage == "assignment":
            return reassigned(self.inject, rows)
        return rows


def changed(inject: Injection, rows: pa.Table) -> pa.Table:
    """The table `features` of prediction log rows after the bug.  Raises ValueError where it has other impressions."""
    names = [name for name in rows.column_names if name.startswith("f_")]
    keys = {name: rows[name] for name in KEYS}
    after = inject("features", pa.table({**keys, **{name[2:]: rows[name] for name in names}}))
    if len(after) != len(rows):
        raise ValueError(
            f"{inject.bug.code} made {len(after)} rows of {len(rows)}: the endpoint asks for each once; change values"
        )
    if not after["impression_id"].equals(rows["impression_id"]):
        at = positions(after["impression_id"].to_numpy(), rows["impression_id"].to_numpy())
        after = after.take(pa.array(at))
    return after


def with_features(rows: pa.Table, after: pa.Table) -> pa.Table:
    """Prediction log rows with other feature values, in the types that the endpoint logs; a null becomes the unknown."""
    for place, field in enumerate(rows.schema):
        if field.name.startswith("f_"):
            column = after[field.name[2:]]
            if column.equals(rows[field.name]):
                continue
            values = feature_columns(pa.table({field.name: column.cast(field.type)}))
            rows = rows.set_column(place, field, next(iter(feature_arrays(values).values())).cast(field.type))
    return rows


def rescore(rows: pa.Table, artefact: Any, columns: Mapping[str, Any] | None = None) -> pa.Table:
    """Prediction log rows with the scores that `artefact` gives on their features, or on other `columns`."""
    found = scores(artefact, feature_columns(rows) if columns is None else columns, rows["slot"].to_numpy())
    for name, values in found.items():
        place = rows.schema.get_field_index(name)
        rows = rows.set_column(place, rows.schema.field(place), values)
    return rows


def reassigned(inject: Injection, rows: pa.Table) -> pa.Table:
    """Prediction log rows with the arms that the bug gives their requests; requests that it drops were never answered."""
    asked = rows.select(["request_id", "user_id", "arm"])
    first = np.sort(np.unique(asked["request_id"].to_numpy(), return_index=True)[1])
    after = inject("assignment", asked.take(pa.array(first)))
    at = positions(after["request_id"].to_numpy(), rows["request_id"].to_numpy())
    rows, at = rows.filter(pa.array(at >= 0)), at[at >= 0]
    place = rows.schema.get_field_index("arm")
    return rows.set_column(place, rows.schema.field(place), pc.cast(after["arm"].take(pa.array(at)), pa.string()))
