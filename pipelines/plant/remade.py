"""What a cell serves where features are looked up anew: after a bug in the feature jobs or the store, or in the traffic itself.

A day is done in one go, from the onset (or midnight) to the cell's end, because looking up an hour costs as much as a day.
"""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from features.sources import AsOfSource
from infra.clock import DAY_US
from pipelines.plant.days import Day, cut, edges
from pipelines.plant.serving import features_of, predictions
from pipelines.plant.shelf import Rewritten, Shelf

if TYPE_CHECKING:
    from pipelines.plant.cell import Injection
    from pipelines.plant.plant import Plant


class Remade(ABC):
    """The prediction log of a cell, made again day by day."""

    def __init__(self, plant: "Plant", onset_us: int, until_us: int) -> None:
        self.plant, self.onset_us, self.until_us = plant, onset_us, until_us
        self._day: tuple[int, pa.Table] | None = None

    def hour(self, day: Day, hour: int) -> pa.Table:
        """The rows of an hour; days must come in order."""
        if self._day is None or self._day[0] != day.start_us:
            first, end = max(day.start_us, self.onset_us), min(day.start_us + DAY_US, self.until_us)
            self._day = (day.start_us, self.predicted(day.start_us, first, end))
        rows = self._day[1]
        at = edges(rows["event_timestamp"].cast(pa.int64()).to_numpy(), day.start_us)
        return rows.slice(at[hour], at[hour + 1] - at[hour])

    @abstractmethod
    def predicted(self, day_us: int, first_us: int, end_us: int) -> pa.Table:
        """The prediction log's rows of [first_us, end_us), a part of a day."""

    def day_old(self, day: Day, hour: int) -> pa.Table:
        """Of a sample of the hour's rows: what the store, without the bug, held a day earlier; id, f_NAME."""
        return cut(day.old, day.old_hours, hour)

    def score(self, shelf: Shelf, impressions: pa.Table) -> pa.Table:
        """The prediction log's rows of impressions whose features stand on a shelf."""
        spec, artefact = self.plant.world.spec, self.plant.artefact
        source = AsOfSource(shelf.home, spec.entities, spec.context, artefact.service)
        batch = features_of(source, impressions, spec.context)
        return predictions(impressions, batch, artefact, self.plant.days.assignment)


class Refetched(Remade):
    """Stages `feature` and `store`: the same traffic finds other rows in the store."""

    def __init__(self, plant: "Plant", inject: "Injection", onset_us: int, until_us: int, folder: Path) -> None:
        super().__init__(plant, onset_us, until_us)
        self.shelf = Rewritten(plant.home, plant.days.views, folder, onset_us, inject)
        self.shelf.rewrite(inject.bug.tables)

    def predicted(self, day_us: int, first_us: int, end_us: int) -> pa.Table:
        self.shelf.day(day_us)
        shown = self.plant.days.impressions(day_us)
        low, high = shown["event_timestamp"].cast(pa.int64()).to_numpy().searchsorted([first_us, end_us])
        return self.score(self.shelf, shown.slice(low, high - low))
