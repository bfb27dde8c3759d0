"""One world of the gauntlet: its clean days under the monitor, then every cell from where the monitor stood at its onset.

The monitor lives in a process of its own (`pipelines.watcher`); this one knows what is injected and only hands it windows.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from infra.clock import DAY_US, HOUR_US, day_name
from monitoring.bugs.entry import Bug
from monitoring.window import Window
from pipelines.gauntlet import oracle
from pipelines.gauntlet.cells import Cell, clicks_needed
from pipelines.gauntlet.outcome import Outcome, Step, judge
from pipelines.plant.plant import Plant
from pipelines.watcher import Watcher

F64 = npt.NDArray[np.float64]
ATTRIBUTION_HOURS = 24


@dataclass(slots=True)
class Course:
    """What a world's run brought."""

    world: str
    clean_days: float = 0.0
    pages: list[dict[str, Any]] = field(default_factory=list)  # incidents on clean days: false alarms
    notices: int = 0  # on clean days
    by_day: dict[str, dict[str, int]] = field(default_factory=dict)  # clean day -> pages, notices
    outcomes: list[Outcome] = field(default_factory=list)
    below_floor: list[dict[str, Any]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)


def run(plant: Plant, world: str, bugs: Sequence[Bug], cells: Sequence[Cell], say: Callable[[str], None]) -> Course:
    """The clean days of a plant; where a cell has its onset, the monitor goes through the cell and comes back."""
    course, rates = Course(world), _Rates()
    by_code = {bug.code: bug for bug in bugs}
    waiting = sorted(cells, key=lambda cell: cell.onset_us, reverse=True)
    shifted: list[_Shifted] = []
    with Watcher(plant.columns) as watcher:
        for window in plant.clean(*plant.reference):
            watcher.warm_up(window)
            rates.add(window)
        for window in plant.clean(plant.first_us, plant.end_us):
            if waiting and waiting[-1].onset_us == window.start_us:
                watcher.keep("clean")
            while waiting and waiting[-1].onset_us == window.start_us:
                cell = waiting.pop()
                bug, number = by_code[cell.code], len(cells) - len(waiting)
                started = time.perf_counter()
                if not _below_floor(plant, bug, cell, course):
                    watcher.back_to("clean")
                    outcome, calibration = _cell(plant, watcher, bug, cell, world)
                    if calibration is not None:
                        shifted.append(_Shifted(len(course.outcomes), *calibration))
                    course.outcomes.append(outcome)
                    state = "detected" if outcome.detected else "named otherwise" if outcome.alarmed else "missed"
                    say(f"{world} {number}/{len(cells)}: {cell.code} {cell.intensity}: {state} {outcome.named[:1]}")
                    watcher.back_to("clean")
                course.seconds["cells"] = course.seconds.get("cells", 0.0) + time.perf_counter() - started
            _watch_clean(watcher, window, course)
            rates.add(window)
        course.clean_days = (plant.end_us - plant.first_us) / DAY_US
    for one in shifted:
        course.outcomes[one.at] = replace(course.outcomes[one.at], shift=one.shift, oracle_hours=_oracle(one, rates))
    say(f"{world}: {course.clean_days:.0f} clean days, {len(course.pages)} pages, {course.notices} notices")
    return course


def _below_floor(plant: Plant, bug: Bug, cell: Cell, course: Course) -> bool:
    """Whether the horizon holds too few clicks for the cell's shift; then it is listed with the arithmetic."""
    shift = bug.calibration_shift.get(cell.intensity)
    if not shift or (clicks := plant.clicks_between(cell.onset_us, cell.until_us)) >= clicks_needed(shift):
        return False
    needed = round(clicks_needed(shift))
    course.below_floor.append(
        {"code": cell.code, "intensity": cell.intensity, "shift": shift, "clicks": clicks, "needed": needed}
    )
    return True


def _watch_clean(watcher: Watcher, window: Window, course: Course) -> None:
    """One clean window: every incident that it opens is a false alarm."""
    seen = watcher.observe(window)
    today = course.by_day.setdefault(day_name(window.start_us), {"pages": 0, "notices": 0})
    notices = sum(finding.severity == "notice" for finding in seen.findings)
    today["pages"] += len(seen.opened)
    today["notices"] += notices
    course.pages += seen.opened
    course.notices += notices


@dataclass(slots=True)
class _Rates:
    """What clean hours were like, for the oracle: hours, clicks that arrived, and sum of p of the requests, in order."""

    hour_us: list[int] = field(default_factory=list)
    clicks: list[float] = field(default_factory=list)
    asked: list[float] = field(default_factory=list)
    age: F64 = field(default_factory=lambda: np.zeros(ATTRIBUTION_HOURS))  # clicks by hours from prediction to arrival

    def add(self, window: Window) -> None:
        """Take in one window."""
        self.hour_us.append(window.start_us)
        self.asked.append(float(np.sum(window.log["p"].to_numpy())) if window.log.num_rows else 0.0)
        self.clicks.append(float(window.clicks.num_rows) if window.clicks is not None else 0.0)
        if window.clicks is not None and window.clicks.num_rows:
            hours = (window.start_us - window.clicks["time"].to_numpy()) // HOUR_US + 1
            self.age += np.bincount(np.clip(hours, 0, ATTRIBUTION_HOURS - 1), minlength=ATTRIBUTION_HOURS)

    def expected(self, asked: Sequence[float]) -> F64:
        """Clicks expected to arrive in each hour [n] from the sums of p asked in it and the hours before."""
        return np.convolve(np.asarray(asked), self.age / self.age.sum())[: len(asked)]


@dataclass(slots=True)
class _Shifted:
    """A cell that shows in calibration: its outcome's place, and what the oracle will see of it."""

    at: int
    shift: float
    seen: _Rates
    known: int  # hours before the onset, whose clicks are still to come


def _cell(plant: Plant, watcher: Watcher, bug: Bug, cell: Cell, world: str) -> tuple[Outcome, tuple[float, _Rates, int] | None]:
    """Run one cell up to its horizon; a trace cell ends at its detection, unless the oracle wants to see the rest."""
    used = time.process_time() + watcher.cpu_s()
    shift = bug.calibration_shift.get(cell.intensity)
    around = _Rates()
    if shift:
        for window in plant.clean(max(cell.onset_us - ATTRIBUTION_HOURS * HOUR_US, plant.reference[0]), cell.onset_us):
            around.add(window)
    known = len(around.hour_us)
    steps: list[Step] = []
    for window in plant.broken(bug, bug.dose(cell.intensity), cell.seed, cell.onset_us, cell.until_us):
        seen = watcher.observe(window)
        incidents = watcher.open_incidents() if seen.opened or (steps and steps[-1].incidents) else []
        steps.append(Step.of(seen, window.log.num_rows, incidents, cell.onset_us))
        around.add(window)
        if cell.intensity == "trace" and not shift and judge(bug, cell, world, steps, 0.0, plant.artefact.hash).detected:
            break
    outcome = judge(bug, cell, world, steps, time.process_time() + watcher.cpu_s() - used, plant.artefact.hash)
    return outcome, (shift, around, known) if shift else None


def _oracle(cell: _Shifted, rates: _Rates) -> float | None:
    """Hours in which the oracle sees the cell's shift; None where even it does not within the horizon.

    An entry gives the size of a shift; its direction is the one in which the oracle sees it first."""
    clean_clicks, hours = np.asarray(rates.clicks), np.asarray(rates.hour_us, np.int64)
    level, variance = oracle.day_variance(clean_clicks, rates.expected(rates.asked), hours)
    clicks = np.asarray(cell.seen.clicks[cell.known :])
    expected = rates.expected(cell.seen.asked)[cell.known :]
    at = np.asarray(cell.seen.hour_us[cell.known :], np.int64)
    delays = [oracle.delay(clicks, expected, at, shift, level, variance) for shift in (cell.shift, -cell.shift)]
    return min((float(delay) for delay in delays if delay is not None), default=None)


def merge(courses: Sequence[Course]) -> list[Outcome]:
    """Outcomes of all worlds."""
    return list(chain.from_iterable(course.outcomes for course in courses))
