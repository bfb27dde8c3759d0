"""`clickproof gauntlet`: worlds side by side, the gate's table, the peers, and the scoreboard."""

import secrets
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np

from infra.settings import Settings, use
from monitoring.bugs.catalogue import BUGS, load
from monitoring.bugs.entry import Bug
from pipelines.console import say
from pipelines.gauntlet import course, gate, overhead, score
from pipelines.gauntlet.cells import WorldSpec, draw_cells, draw_worlds, live
from pipelines.gauntlet.course import Course
from pipelines.gauntlet.peers import compare
from pipelines.gauntlet.workers import workers
from pipelines.plant.making import REFERENCE_DAYS
from pipelines.plant.plant import Plant

WORKERS = 2


def run(chosen: Settings, quick: bool, outside: Path | None, seed: int | None) -> dict[str, Any]:
    """The scoreboard; a quick one without the peers.

    `outside` takes its bugs from a folder instead of the catalogue; `seed` repeats a run.
    """
    started = time.perf_counter()
    seed = secrets.randbelow(2**31) if seed is None else seed
    rng = np.random.default_rng(seed)
    bugs = load(outside) if outside else BUGS
    worlds = draw_worlds(rng, quick)
    folder = chosen.home / "gauntlet"
    shutil.rmtree(folder, ignore_errors=True)
    say(f"seed {seed}: {len(worlds)} worlds, {len(live(bugs))} live bugs of {len(bugs)}; everything is made from nothing")
    try:
        with workers(WORKERS) as pool:

            def worlds_of(numbers: range) -> list[Future[Course]]:
                return [pool.submit(_world, chosen, worlds[n], folder, seed, n, outside, quick) for n in numbers]

            # The gate first: what fails is to fail in the first minutes.
            judged = pool.submit(_gate, chosen, folder / "gate", outside, int(rng.integers(2**31)), quick)
            tasks = worlds_of(range(WORKERS))
            gated = judged.result()
            tasks[0].result()  # these look at the first world, and are not left for the end, where one would run alone
            first = folder / f"{worlds[0].tuning}-{worlds[0].seed}"
            compared = None if quick else pool.submit(_peers, chosen, first, seed, outside)
            measured = pool.submit(_overhead, chosen, first, REFERENCE_DAYS // 2 if quick else REFERENCE_DAYS)
            tasks += worlds_of(range(WORKERS, len(worlds)))
            courses = [task.result() for task in tasks]
            against, costs = compared.result() if compared else {}, measured.result()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {**board(courses, gated, costs), "peers": against, "seed": seed, "worlds": [
        {"tuning": spec.tuning, "seed": spec.seed, "days": spec.days} for spec in worlds
    ], "quick": quick, "seconds": round(time.perf_counter() - started, 1)}  # fmt: skip


def board(courses: Sequence[Course], gated: dict[str, Any], costs: dict[str, Any]) -> dict[str, Any]:
    """The scoreboard of finished courses."""
    outcomes = course.merge(courses)
    pages = [page for c in courses for page in c.pages]
    return {
        "runs": len(outcomes),
        "detection": score.by_intensity(outcomes, "detected"),
        "detection_oracle_sees": score.visible(outcomes),
        "without_replay": score.by_intensity(outcomes, "without_replay", ("strong", "mild")),
        "label_free": score.label_free(outcomes),
        "false_alarms": score.false_alarms(sum(c.clean_days for c in courses), len(pages)),
        "notices_a_day": sum(c.notices for c in courses) / max(sum(c.clean_days for c in courses), 1),
        "diagnosis": score.diagnosis(outcomes),
        "events_to_detect": score.events_to_detect(outcomes),
        "delay_over_oracle": score.over_oracle(outcomes),
        "overhead": costs,
        "gate": gated,
        "matrix": score.matrix(outcomes),
        "below_floor": [cell for c in courses for cell in c.below_floor],
        "misses": [o.as_json() for o in outcomes if not o.detected],
        "misnamed": [o.as_json() for o in outcomes if o.detected and o.class_rank != 1],
        "clean_pages": [{k: page[k] for k in ("class", "subject", "opened_us", "evidence")} for page in pages],
        "outcomes": [o.as_json() for o in outcomes],
        "seconds_by_world": {c.world: {name: round(s, 1) for name, s in c.seconds.items()} for c in courses},
    }


def _bugs(outside: Path | None) -> tuple[Bug, ...]:
    return load(outside) if outside else BUGS


def _world(
    chosen: Settings, spec: WorldSpec, folder: Path, seed: int, number: int, outside: Path | None, quick: bool
) -> Course:  # fmt: skip
    """One world from nothing to its outcomes, in a worker process."""
    use(chosen)
    started = time.perf_counter()
    plant = Plant.make(folder, spec.tuning, spec.seed, spec.days)
    made = time.perf_counter() - started
    name = f"{spec.tuning}-{spec.seed}"
    say(f"{name}: made in {made:.0f} s")
    bugs = live(_bugs(outside))
    rng = np.random.default_rng([seed, number])
    cells = draw_cells(bugs, plant.first_us, plant.end_us, rng, quick, number)
    found = course.run(plant, name, bugs, cells, say)
    found.seconds["make"] = made
    return found


def _gate(chosen: Settings, folder: Path, outside: Path | None, seed: int, quick: bool) -> dict[str, Any]:
    use(chosen)
    bad, good = (12, 40) if quick else (150, 600)
    return gate.run(folder, _bugs(outside), seed, bad, good)


def _overhead(chosen: Settings, folder: Path, days: int) -> dict[str, Any]:
    use(chosen)
    return overhead.measure(Plant.open(folder), days)


def _peers(chosen: Settings, folder: Path, seed: int, outside: Path | None) -> dict[str, Any]:
    use(chosen)
    return compare(Plant.open(folder), live(_bugs(outside)), np.random.default_rng([seed, 99]))
