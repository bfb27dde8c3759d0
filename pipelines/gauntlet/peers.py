"""What general drift tools say to the same logs: Evidently's and NannyML's defaults beside this monitor, one day a bug.

Each tool gets the same days: a week of reference, then one clean or broken day, of which it sees a sample of rows and every
feature that isn't an id.  NannyML needs an environment of its own (`nannyml_run.py` runs there); without one it is skipped,
and that is said.
"""

import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from features.ids import uniform
from infra.clock import DAY_US
from monitoring.bugs.entry import Bug
from monitoring.window import LogColumns, Window
from pipelines.console import say
from pipelines.gauntlet.outcome import Step, right
from pipelines.plant.plant import Plant
from pipelines.watcher import Watcher

ROWS_A_DAY = 5_000
REFERENCE_DAYS = 7
CLEAN_DAYS = 10
NANNYML = ".venv-nannyml/bin/python"
HOW_TO = "python3.11 -m venv .venv-nannyml && .venv-nannyml/bin/pip install nannyml==0.13.1 statsmodels"


@dataclass(frozen=True, slots=True)
class Case:
    """One day to judge."""

    bug: Bug | None  # None: a clean day
    intensity: str
    frame: pd.DataFrame
    own: bool  # what this monitor did: a new incident
    own_subject: bool  # whose first hypothesis has the right class or subject


def compare(plant: Plant, bugs: Sequence[Bug], rng: np.random.Generator) -> dict[str, Any]:
    """Alarms on clean days, bugs caught, and guilty columns named, by tool."""
    chosen = list({bug.bug_class: bug for bug in reversed(bugs)}.values())
    reference = _reference(plant)
    cases = list(_cases(plant, chosen, rng, CLEAN_DAYS))
    say(f"peers: {len(cases)} days for Evidently and NannyML")
    verdicts = {"evidently": [_evidently(reference, case.frame, plant.columns) for case in cases]}
    results = {
        "clickproof, one day": _tally(cases, lambda at: cases[at].own, lambda at: cases[at].own_subject),
        "Evidently drift preset, whole-data verdict": _tally(cases, lambda at: verdicts["evidently"][at][0], lambda _: False),
        "Evidently drift preset, any column": _tally(
            cases, lambda at: bool(verdicts["evidently"][at][1]), lambda at: _named(cases[at], verdicts["evidently"][at][1])
        ),
    }
    nanny = _nannyml(reference, cases, plant.columns)
    if nanny is None:
        return {"tools": results, "skipped": {"NannyML": f"needs an environment of its own: {HOW_TO}"}}
    results["NannyML univariate drift, daily"] = _tally(
        cases, lambda at: bool(nanny["univariate"][at]), lambda at: _named(cases[at], nanny["univariate"][at])
    )
    results["NannyML CBPE, no labels"] = _tally(cases, lambda at: nanny["cbpe"][at], lambda _: False)
    results["NannyML realised performance"] = _tally(cases, lambda at: nanny["realised"][at], lambda _: False)
    return {"tools": results, "skipped": {}}


def _tally(cases: Sequence[Case], alarmed: Callable[[int], bool], named: Callable[[int], bool]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for intensity in ("clean", "mild", "strong"):
        mine = [at for at, case in enumerate(cases) if case.intensity == intensity]
        found[intensity] = {"days": len(mine), "alarms": sum(alarmed(at) for at in mine)}
        if intensity != "clean":
            found[intensity]["named"] = sum(alarmed(at) and named(at) for at in mine)
    return found


def _named(case: Case, columns: Sequence[str]) -> bool:
    return case.bug is not None and bool({case.bug.subject, *case.bug.also} & set(columns))


def _cases(plant: Plant, bugs: Sequence[Bug], rng: np.random.Generator, clean_days: int) -> Iterator[Case]:
    with Watcher(plant.columns) as watcher:
        for window in plant.clean(*plant.reference):
            watcher.warm_up(window)
        watcher.keep("start")
        start_us = plant.first_us
        for at in range(clean_days):
            quiet = list(plant.clean(start_us + at * DAY_US, start_us + (at + 1) * DAY_US))
            opened = [incident for window in quiet for incident in watcher.observe(window).opened]
            yield Case(None, "clean", _frame(quiet, plant.columns), bool(opened), False)
        for bug in bugs:
            for intensity in ("mild", "strong"):
                watcher.back_to("start")
                broken = plant.broken(bug, bug.dose(intensity), int(rng.integers(2**31)), start_us, start_us + DAY_US)
                windows: list[Window] = []
                incidents: list[dict[str, Any]] = []
                for window in broken:
                    seen = watcher.observe(window)
                    windows.append(window)
                    incidents = Step.of(seen, 0, watcher.open_incidents(), start_us).incidents or incidents
                hit = any(right(bug, incident) for incident in incidents)
                yield Case(bug, intensity, _frame(windows, plant.columns), bool(incidents), hit)


def _reference(plant: Plant) -> pd.DataFrame:
    last = plant.reference[1]
    first = max(plant.reference[0], last - REFERENCE_DAYS * DAY_US)
    days = range(first, last, DAY_US)
    return pd.concat([_frame(list(plant.clean(at, at + DAY_US)), plant.columns) for at in days], ignore_index=True)


def _frame(windows: Sequence[Window], columns: LogColumns) -> pd.DataFrame:
    """A day's sample of rows: time, p, label (clicked by the end of the day), and the features that aren't ids."""
    log = pa.concat_tables([window.log for window in windows], promote_options="default")
    clicked = [window.clicks["id"] for window in windows if window.clicks is not None]
    ids = pa.chunked_array([chunk for column in clicked for chunk in column.chunks], log.schema.field("id").type)
    rows = log.filter(pa.array(uniform(np.arange(log.num_rows), 0x5045) < ROWS_A_DAY / max(log.num_rows, 1)))
    frame = pd.DataFrame({"time": pd.to_datetime(rows["time"].to_numpy(), unit="us"), "p": rows["p"].to_numpy()})
    frame["label"] = pa.compute.is_in(rows["id"], ids.combine_chunks()).to_numpy().astype(int)
    for name in columns.names:
        if name in columns.ids or f"f_{name}" not in rows.column_names:
            continue
        values = rows[f"f_{name}"].to_pandas()
        frame[name] = values.astype(str).astype(object) if name in columns.categorical else values.astype(np.float64)
    return frame


def _evidently(reference: pd.DataFrame, day: pd.DataFrame, columns: LogColumns) -> tuple[bool, list[str]]:
    """(the preset's verdict on the whole data, columns that it calls drifted), with the preset's defaults."""
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    names = [name for name in reference.columns if name not in ("time", "label")]
    definition = DataDefinition(
        numerical_columns=[name for name in names if name not in columns.categorical],
        categorical_columns=[name for name in names if name in columns.categorical],
    )
    now, then = (Dataset.from_pandas(frame[names], data_definition=definition) for frame in (day, reference))
    found = json.loads(Report([DataDriftPreset()], include_tests=True).run(now, then).json())
    failed = [test["metric_config"]["params"] for test in found["tests"] if test["status"] == "FAIL"]
    drifted = [params["column"] for params in failed if params["type"].endswith(":ValueDrift")]
    return any(params["type"].endswith(":DriftedColumnsCount") for params in failed), drifted


def _nannyml(reference: pd.DataFrame, cases: Sequence[Case], columns: LogColumns) -> dict[str, list[Any]] | None:
    """Verdicts by case from NannyML in its own environment; None where there is none."""
    python = Path(NANNYML)
    if not python.exists():
        return None
    with tempfile.TemporaryDirectory() as folder:
        reference.to_parquet(f"{folder}/reference.parquet")
        for at, case in enumerate(cases):
            case.frame.to_parquet(f"{folder}/case-{at:04d}.parquet")
        script = Path(__file__).with_name("nannyml_run.py")
        categorical = [name for name in reference.columns if name in columns.categorical]
        command = [str(python.absolute()), str(script), folder, json.dumps(categorical)]
        environment = {"PATH": os.defpath, "HOME": folder, "NML_DISABLE_USAGE_LOGGING": "1", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=1800)
        if done.returncode:
            raise RuntimeError(f"NannyML failed in {NANNYML}: {done.stderr[-2000:]}")
        found: dict[str, list[Any]] = json.loads(done.stdout.splitlines()[-1])
        return found
