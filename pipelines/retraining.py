"""`clickproof retrain`: is it time, on which days, did the new model earn its place?  Every answer is recorded with its reason.

The trigger is pure (`models.retrain.should_retrain`); this module collects what it needs and runs the training flow.
"""

from dataclasses import asdict
from datetime import datetime
from typing import Any

import numpy as np

from infra.clock import DAY_US, HOUR_US, day_name, to_us
from infra.errors import ExplainedError
from infra.home import Home
from infra.lake import Lake, watermark_us
from infra.settings import Settings
from models import metrics
from models.artefact import Artefact
from models.registry import Registry
from models.retrain import DayResult, History, RetrainPolicy, should_retrain
from monitoring.daily import watch
from pipelines.console import finish
from pipelines.sources.contract import SourceSpec
from pipelines.sources.registry import source_of
from pipelines.training import SERVICE, probability
from pipelines.training_set import Window, build
from serving.rollout_store import agreed_champion


def run(chosen: Settings, *, as_json: bool, force: bool) -> dict[str, Any]:
    """Decide; where there is a reason, train on the newest matured days, gate, promote.  Prints and returns what happened."""
    home, spec = chosen.base(), source_of(chosen).spec
    history = history_of(home, spec, chosen)
    reason = should_retrain(history, RetrainPolicy()) or ("asked for with --force" if force else None)
    result: dict[str, Any] = {"reason": reason, "history": asdict(history), "champion": None, "decisions": {}}
    registry, name = Registry.of(home), agreed_champion(home)
    if reason is None:
        why = "none of age, performance and drift asks for it"
        if name:
            registry.decide(name, "retrain", False, (why,), at_us=history.now_us)
        finish(result, as_json, f"no retraining: {why}")
        return result
    if name:
        registry.decide(name, "retrain", True, (reason,), at_us=history.now_us)
    from pipelines.flows.retrain import retrain

    trained = retrain(chosen, newest_windows(home, spec, chosen))
    result |= {"champion": trained["champion"], "decisions": trained["decisions"]}
    finish(result, as_json, f"retrained because of {reason}\nchampion: {trained['champion'] or 'stays; no candidate passed'}")
    return result


def history_of(home: Home, spec: SourceSpec, chosen: Settings) -> History:
    """What is known about the champion now: its age, how it did on matured days since, what drifted."""
    from models.artefact import load

    now_us, name = watermark_us(home), agreed_champion(home)
    if name is None:
        return History(now_us, None, None)
    artefact = load(home.artefacts, name)
    trained_until = _start_us(artefact.trained_days[1]) + DAY_US
    found = watch(home, Lake.of(home).days("impressions")[-1], spec.entities, spec.context, SERVICE)
    return History(
        now_us,
        trained_until,
        expected_ne(home, name),
        results_by_day(home, spec, chosen, artefact, last_matured(home, chosen)),
        tuple(finding.subject for finding in found.pages),
    )


def expected_ne(home: Home, name: str) -> float | None:
    """NE on the test days when the artefact was recorded."""
    return Registry.of(home).metric(name, "test.ne")


def results_by_day(
    home: Home, spec: SourceSpec, chosen: Settings, artefact: Artefact, until_us: int, days: int = 3
) -> tuple[DayResult, ...]:
    """NE and calibration of the champion on the last matured days, recomputed on history as it could be seen then."""
    window = Window(until_us - days * DAY_US, until_us)
    data = build(home, spec, window, watermark_us(home), chosen.attribution_hours, SERVICE).data
    p, day = probability(artefact, data), data.time_us // DAY_US
    found = []
    for each in np.unique(day):
        rows = day == each
        ne, ratio = metrics.normalised_entropy(p[rows], data.label[rows]), metrics.calibration(p[rows], data.label[rows])
        found.append(DayResult(day_name(int(each) * DAY_US), ne, ratio, int(data.label[rows].sum())))
    return tuple(found)


def last_matured(home: Home, chosen: Settings) -> int:
    """End of the last whole event day whose labels are all mature."""
    return (watermark_us(home) - int(chosen.attribution_hours * HOUR_US)) // DAY_US * DAY_US


def newest_windows(home: Home, spec: SourceSpec, chosen: Settings) -> dict[str, Window]:
    """The split's windows, moved so that the test days are the last matured ones.

    Raises ExplainedError where the lake has too few days for it."""
    end = last_matured(home, chosen)
    windows: dict[str, Window] = {}
    for name in ("test", "calibrate", "valid", "train"):
        start = end - getattr(spec.split, name) * DAY_US
        windows[name] = Window(start, end)
        end = start
    if end < spec.first_day_us:
        raise ExplainedError(f"the lake begins on {day_name(spec.first_day_us)}: too few matured days to train on")
    return dict(reversed(windows.items()))


def _start_us(day: str) -> int:
    return to_us(datetime.fromisoformat(f"{day}T00:00:00+00:00"))
