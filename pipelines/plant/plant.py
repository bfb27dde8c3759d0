"""`Plant`: one branch of one trained home whose world goes on; it makes windows, clean ones and those of a bug.

Called by drills, the gauntlet and the control room.  The only way in for them; how windows come about is in the other files.
"""

from collections.abc import Iterator
from functools import cached_property, lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from infra.clock import DAY_US, HOUR_US
from infra.home import Home
from infra.settings import Settings
from models.artefact import Artefact, load
from monitoring.bugs.entry import Bug
from monitoring.window import Window
from pipelines.plant.days import Day, Days, counted, cut
from pipelines.plant.recording import recorded_days
from pipelines.sources.world.source import WorldSource
from pipelines.windows import books_of, columns_of, offline_of, rescored_of, sample_rows
from serving.assignment import Assignment

# An A/A test: both arms are the champion's, so that a bug of the experiment has something to break.
EXPERIMENT = Assignment("plant", ("control", "treatment"), (0.5, 0.5))
# The log begins so much before the reference, on days of training: the clicks of its first hours find their predictions (99% of
# clicks come within a day).
EARLIER_DAYS = 2
PLAN = dict(zip(EXPERIMENT.arms, EXPERIMENT.weights, strict=True))


class Plant:
    """Windows of a home's world, hour by hour."""

    def __init__(
        self, home: Home, source: WorldSource, artefact: Artefact, others: dict[str, str], reference: tuple[int, int]
    ) -> None:
        """`others`: hashes by name of what `scene.artefacts` offers; `reference`: [start, end) of clean days to learn from."""
        self.home, self.world, self.artefact, self.others = home, source, artefact, others
        self.reference = reference
        self.first_us = reference[1]
        self.end_us = recorded_days(home)[-1] + DAY_US
        self.columns = columns_of(source.spec.entities, source.spec.context, artefact.service)
        self.days = Days(home, source.spec, artefact, EXPERIMENT, reference[0] - EARLIER_DAYS * DAY_US)
        self.by_hash = lru_cache(maxsize=8)(self._by_hash)

    @classmethod
    def make(cls, folder: Path, tuning: str, seed: int, days: int) -> "Plant":
        """A world made from nothing in `folder`: a history of size `tuning`, a champion, then `days` clean days.

        A folder that holds that plant already is used as it is.
        """
        from pipelines.plant.making import make

        return make(folder, tuning, seed, days)

    @classmethod
    def open(cls, folder: Path) -> "Plant":
        """The plant that `make` left in a folder TUNING-SEED, as far as it goes.  ExplainedError where there is none."""
        from pipelines.plant.making import reopen

        return reopen(folder)

    @classmethod
    def of(cls, home: Home, chosen: Settings, days: int) -> "Plant":
        """The plant of a branch that holds what `make train` leaves: its world goes on for `days` clean days.

        Raises ExplainedError where the source is no world or where there is no champion.
        """
        from pipelines.plant.making import of

        return of(home, chosen, days)

    def clean(self, start_us: int, end_us: int) -> Iterator[Window]:
        """Clean windows of [start_us, end_us), hour by hour; made once, cheap the second time."""
        for day, hour in hours(self.days, start_us, end_us):
            yield self.clean_window(day, hour)

    def clean_window(self, day: Day, hour: int) -> Window:
        """One clean hour, 0 .. 23, of a day."""
        start_us = day.start_us + hour * HOUR_US
        rows = cut(day.predictions, day.hours, hour)
        return self.window(
            start_us,
            cut(day.log, day.hours, hour),
            rows,
            rows,
            cut(day.clicks, day.click_hours, hour),
            counted(day, start_us),
            cut(day.old, day.old_hours, hour),
            None,
        )

    def window(
        self,
        start_us: int,
        log: pa.Table,
        logged: pa.Table,
        recomputed: pa.Table,
        clicks: pa.Table,
        books: list[tuple[str, str, int]],
        day_old: pa.Table,
        refused: pa.Table | None,
    ) -> Window:
        """A window of an hour: `logged` are the prediction log's rows behind `log`, `recomputed` the same rows (by id) with the
        features that a recomputation from history gives; the samples are drawn here."""
        ids = logged["impression_id"].to_numpy()
        rows = sample_rows(ids)
        sample = logged.take(pa.array(rows))
        if recomputed is logged:
            again = sample
        else:
            again = recomputed.filter(pc.is_in(recomputed["impression_id"], sample["impression_id"].combine_chunks()))
        joined = [("predictions", "accepted", len(log)), ("clicks", "joined", len(clicks))]
        return Window(
            start_us,
            start_us + HOUR_US,
            log,
            clicks,
            offline_of(again),
            rescored_of(sample, self.by_hash),
            day_old,
            books_of([*books, *joined]),
            refused,
            PLAN,
        )

    def broken(self, bug: Bug, dose: float, seed: int, onset_us: int, until_us: int) -> Iterator[Window]:
        """Windows from the hour of the onset on, with the bug at its real stage and everything downstream made again.

        Lazy: an hour costs only when it is asked for.  Nothing is written outside a temporary folder.
        """
        from pipelines.plant.cell import Cell

        return Cell(self, bug, dose, seed, onset_us).windows(until_us)

    def clicks_between(self, start_us: int, end_us: int) -> int:
        """Clicks that arrive in [start_us, end_us) and find their prediction, when nothing is broken."""
        return sum(int(day.click_hours[hour + 1] - day.click_hours[hour]) for day, hour in hours(self.days, start_us, end_us))

    @cached_property
    def artefacts(self) -> dict[str, Artefact]:
        """The models that a rollout could mistake for the champion, by name: the families trained, and `previous`, which is
        trained now where the home has none."""
        from pipelines.plant.making import previous

        kept = self.home.root / "plant" / "previous.txt"
        if not kept.exists():
            name = previous(self.home, self.world).save(self.home.artefacts)
            self.home.writing(kept).write_text(name)
        names = {**self.others, "previous": kept.read_text()}
        return {name: load(self.home.artefacts, found) for name, found in names.items()}

    def _by_hash(self, name: str) -> Artefact | None:
        if name == self.artefact.hash:
            return self.artefact
        return load(self.home.artefacts, name) if (self.home.artefacts / name).is_dir() else None


def hours(days: Days, start_us: int, end_us: int) -> Iterator[tuple[Day, int]]:
    """(day, hour 0 .. 23) of every hour of [start_us, end_us); raises ValueError for instants that are not on the hour."""
    if start_us % HOUR_US or end_us % HOUR_US:
        raise ValueError(f"windows begin and end on the hour; {start_us} to {end_us} us does not")
    for at in range(start_us, end_us, HOUR_US):
        yield days.day(at - at % DAY_US), at % DAY_US // HOUR_US
