"""One world of the gauntlet: its clean days under the monitor, then every cell from where the monitor stood at its onset.

The monitor lives in a process of its own (`pipelines.watcher`); this one knows what is injected and only hands it windows.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
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
    delays: list[tuple[float | None, float]] = field(default_factory=list)  # hours to detection: ours, the oracle's
    seconds: dict[str, float] = field(default_factory=dict)


def run(plant: Plant, world: str, bugs: Sequence[Bug], cells: Sequence[Cell], say: Callable[[str], None]) -> Course:
    """The clean days of a plant, then its cells (in order of onset)."""
    course = Course(world)
    by_code = {bug.code: bug for bug in bugs}
    with Watcher(plant.columns) as watcher:
        started = time.perf_counter()
        rates = _clean(plant, watcher, {cell.onset_us for cell in cells}, course)
        course.seconds["clean"] = time.perf_counter() - started
        say(f"{world}: {course.clean_days:.0f} clean days, {len(course.pages)} pages, {course.notices} notices")
        started = time.perf_counter()
        for number, cell in enumerate(cells, 1):
            bug = by_code[cell.code]
            shift = bug.calibration_shift.get(cell.intensity)
            if shift and (clicks := plant.clicks_between(cell.onset_us, cell.until_us)) < clicks_needed(shift):
                needed = round(clicks_needed(shift))
                course.below_floor.append(
                    {"code": cell.code, "intensity": cell.intensity, "shift": shift, "clicks": clicks, "needed": needed}
                )
                continue
            outcome = _cell(plant, watcher, bug, cell, world, rates, course, shift)
            course.outcomes.append(outcome)
            state = "detected" if outcome.detected else "named otherwise" if outcome.alarmed else "missed"
            say(f"{world} {number}/{len(cells)}: {cell.code} {cell.intensity}: {state} {outcome.named[:1]}")
        course.seconds["cells"] = time.perf_counter() - started
    return course


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


def _clean(plant: Plant, watcher: Watcher, onsets: set[int], course: Course) -> _Rates:
    """Warm up on the reference, then watch every clean hour; the monitor is kept as it stands at each onset."""
    rates = _Rates()
    for window in plant.clean(*plant.reference):
        watcher.warm_up(window)
        rates.add(window)
    for window in plant.clean(plant.first_us, plant.end_us):
        if window.start_us in onsets:
            watcher.keep(str(window.start_us))
        seen = watcher.observe(window)
        rates.add(window)
        today = course.by_day.setdefault(day_name(window.start_us), {"pages": 0, "notices": 0})
        notices = sum(finding.severity == "notice" for finding in seen.findings)
        today["pages"] += len(seen.opened)
        today["notices"] += notices
        course.pages += seen.opened
        course.notices += notices
    course.clean_days = (plant.end_us - plant.first_us) / DAY_US
    return rates


def _cell(
    plant: Plant, watcher: Watcher, bug: Bug, cell: Cell, world: str, rates: _Rates, course: Course, shift: float | None
) -> Outcome:
    """Run one cell up to its horizon; a trace cell ends at its detection."""
    used = time.process_time() + watcher.cpu_s()
    watcher.back_to(str(cell.onset_us))
    before = _Rates()
    if shift:
        for window in plant.clean(max(cell.onset_us - ATTRIBUTION_HOURS * HOUR_US, plant.reference[0]), cell.onset_us):
            before.add(window)
    known = len(before.hour_us)
    steps: list[Step] = []
    for window in plant.broken(bug, bug.dose(cell.intensity), cell.seed, cell.onset_us, cell.until_us):
        seen = watcher.observe(window)
        incidents = watcher.open_incidents() if seen.opened or (steps and steps[-1].incidents) else []
        steps.append(Step.of(seen, window.log.num_rows, incidents, cell.onset_us))
        before.add(window)
        if cell.intensity == "trace" and not shift and judge(bug, cell, world, steps, 0.0).detected:
            break
    outcome = judge(bug, cell, world, steps, time.process_time() + watcher.cpu_s() - used)
    if shift:
        level, variance = oracle.day_variance(
            np.asarray(rates.clicks), rates.expected(rates.asked), np.asarray(rates.hour_us, np.int64)
        )
        expected = rates.expected(before.asked)[known:]
        best = oracle.delay(
            np.asarray(before.clicks[known:]), expected, np.asarray(before.hour_us[known:], np.int64), shift, level, variance
        )
        if best is not None:
            course.delays.append((outcome.hours, float(best)))
    return outcome


def merge(courses: Sequence[Course]) -> list[Outcome]:
    """Outcomes of all worlds."""
    return list(chain.from_iterable(course.outcomes for course in courses))
