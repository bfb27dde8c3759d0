"""Which bug runs at which intensity, in which world and from when on: drawn at run time, so nothing could be tuned on it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from infra.clock import DAY_US, HOUR_US
from monitoring.bugs.entry import Bug
from monitoring.classes import bug_class
from pipelines.plant.making import REFERENCE_DAYS

INTENSITIES = ("strong", "mild", "trace")
HORIZON_US: Mapping[str, int] = {"strong": 2 * HOUR_US, "mild": DAY_US, "trace": 14 * DAY_US}
FIRST_REPORTING_SEED = 1_000_000  # tuning was done on seeds below a thousand, and on those of false pages (docs/log.md)


@dataclass(frozen=True, slots=True)
class WorldSpec:
    """A world of the gauntlet."""

    tuning: str
    seed: int
    days: int  # clean days after the history


@dataclass(frozen=True, slots=True)
class Cell:
    """One run: a bug at an intensity, from an hour on."""

    code: str
    intensity: str
    onset_us: int
    seed: int

    @property
    def until_us(self) -> int:
        """The end of the horizon: a detection after it is a miss."""
        return self.onset_us + HORIZON_US[self.intensity]


def draw_worlds(rng: np.random.Generator, quick: bool) -> list[WorldSpec]:
    """Worlds of two tunings with seeds that nothing was tuned on; days enough for 180 clean ones after the reference."""
    tunings = ("market", "bazaar") if quick else ("market", "bazaar", "market", "bazaar")
    days = QUICK_DAYS if quick else FULL_DAYS
    return [WorldSpec(tuning, int(rng.integers(FIRST_REPORTING_SEED, 2**31)), days) for tuning in tunings]


FULL_DAYS = REFERENCE_DAYS + 47  # 192 clean days of four worlds, on which two pages are within the goal
QUICK_DAYS = REFERENCE_DAYS + 2


def live(bugs: Sequence[Bug]) -> list[Bug]:
    """Bugs that are judged on the prediction log; the others are the gate's."""
    return [bug for bug in bugs if bug_class(bug.bug_class).judged == "live" and bug.stage != "training"]


def draw_cells(
    bugs: Sequence[Bug], first_us: int, end_us: int, rng: np.random.Generator, quick: bool, world: int
) -> list[Cell]:
    """The cells of one world, by onset: strong and mild in each world, trace in one of four, as it takes two weeks.

    Onsets are whole hours, as likely at night and at weekends as any other, and early enough for the horizon.  Quick runs
    have each bug's strong cell in one of the two worlds, and mild ones of an eighth of the bugs.
    """
    cells = []
    for at, bug in enumerate(bugs):
        for intensity in INTENSITIES:
            if intensity not in bug.doses:
                continue
            if quick and (intensity == "trace" or (at + world) % 2 or (intensity == "mild" and at % 16 > 1)):
                continue
            if not quick and intensity == "trace" and (at + world) % 4:
                continue
            hours = (end_us - HORIZON_US[intensity] - first_us) // HOUR_US
            if hours < 1:
                continue
            onset_us = first_us + int(rng.integers(hours)) * HOUR_US
            cells.append(Cell(bug.code, intensity, onset_us, int(rng.integers(2**31))))
    return sorted(cells, key=lambda cell: cell.onset_us)


FLOOR_SIGMA = 4.0


def clicks_needed(shift: float) -> float:
    """Clicks that a relative calibration shift needs to be seen at four sigma: (4 / d)^2."""
    return (FLOOR_SIGMA / abs(shift)) ** 2
