"""Clean days in a row with every monitor on: how often it says something when nothing is wrong."""

import secrets
import shutil
from typing import Any

from infra.settings import Settings
from pipelines.console import say
from pipelines.gauntlet import course, score
from pipelines.gauntlet.cells import FIRST_REPORTING_SEED
from pipelines.plant.making import REFERENCE_DAYS
from pipelines.plant.plant import Plant


def watch(chosen: Settings, days: int, seed: int | None) -> dict[str, Any]:
    """Pages and notices on `days` clean days of a market drawn at run time, after its reference days."""
    seed = FIRST_REPORTING_SEED + secrets.randbelow(2**30) if seed is None else seed
    folder = chosen.home / "gauntlet-clean"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        say(f"a market from nothing, seed {seed}: history, champion, {REFERENCE_DAYS} reference days and {days} clean ones")
        plant = Plant.make(folder, "market", seed, REFERENCE_DAYS + days)
        found = course.run(plant, f"market-{seed}", [], [], say)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {
        "seed": seed,
        "first_day": min(found.by_day),
        "last_day": max(found.by_day),
        **score.false_alarms(found.clean_days, len(found.pages)),
        "notices": found.notices,
        "pages": [{name: page[name] for name in ("class", "subject", "opened_us")} for page in found.pages],
        "by_day": found.by_day,
    }
