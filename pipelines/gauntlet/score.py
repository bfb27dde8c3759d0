"""From outcomes to the scoreboard: rates with their counts and 95% intervals.  Pure."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from scipy import stats

from monitoring.classes import bug_class
from pipelines.gauntlet.cells import INTENSITIES
from pipelines.gauntlet.outcome import Outcome


def rate(hits: int, of: int) -> dict[str, Any]:
    """A fraction with its counts and Wilson's 95% interval; null where there was nothing to count."""
    if of == 0:
        return {"rate": None, "hits": 0, "of": 0, "low": None, "high": None}
    found = stats.binomtest(hits, of).proportion_ci(method="wilson")
    return {"rate": hits / of, "hits": hits, "of": of, "low": float(found.low), "high": float(found.high)}


def by_intensity(outcomes: Sequence[Outcome], field: str, intensities: Iterable[str] = INTENSITIES) -> dict[str, Any]:
    """The rate at which outcomes have `field`, by intensity."""
    found = {name: [o for o in outcomes if o.intensity == name] for name in intensities}
    return {name: rate(sum(bool(getattr(o, field)) for o in chosen), len(chosen)) for name, chosen in found.items()}


def visible(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Detection by intensity without the calibration shifts that the oracle, too, could not see within the horizon."""
    return by_intensity([o for o in outcomes if o.shift is None or o.oracle_hours is not None or o.detected], "detected")


def label_free(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Of the classes that can be seen without labels, by intensity: without calibration and without the books of clicks."""
    return by_intensity([o for o in outcomes if bug_class(o.bug_class).unlabelled == "yes"], "label_free")


def false_alarms(clean_days: float, alarms: int) -> dict[str, Any]:
    """Pages on clean days: the rate in 30 days and its upper 95% bound (Poisson, one-sided)."""
    upper = float(stats.chi2.ppf(0.95, 2 * (alarms + 1)) / 2)
    return {
        "clean_days": clean_days,
        "alarms": alarms,
        "per_30_days": 30 * alarms / clean_days if clean_days else None,
        "upper95": 30 * upper / clean_days if clean_days else None,
    }


def diagnosis(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """How often what was alarmed about was called by its name: class among the first one and three, subject of the first."""
    told = [o for o in outcomes if o.alarmed]
    first = [o for o in told if o.class_rank is not None and o.class_rank <= 1]
    third = [o for o in told if o.class_rank is not None and o.class_rank <= 3]
    return {
        "top1": rate(len(first), len(told)),
        "top3": rate(len(third), len(told)),
        "column": rate(sum(bool(o.subject_right) for o in told), len(told)),
    }


def events_to_detect(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Median number of impressions from onset to detection, a miss counting as never (null where more than half are missed)."""
    found: dict[str, Any] = {}
    for name in INTENSITIES:
        events = [o.events if o.events is not None else np.inf for o in outcomes if o.intensity == name]
        median = float(np.median(events)) if events else np.inf
        found[name] = median if np.isfinite(median) else None
    return found


def over_oracle(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Our delay over the oracle's on calibration shifts that the oracle saw: the median, a miss being infinite."""
    shifted = [o for o in outcomes if o.shift is not None]
    seen = [(o.hours, o.oracle_hours) for o in shifted if o.oracle_hours is not None]
    ratios = [np.inf if ours is None else ours / oracle for ours, oracle in seen]
    median = float(np.median(ratios)) if ratios else None
    return {
        "median": median if median is None or np.isfinite(median) else None,
        "runs": len(ratios),
        "missed": sum(ours is None for ours, _ in seen),
        "oracle_missed": len(shifted) - len(seen),
        "within_goal": rate(sum(ratio <= 1.5 for ratio in ratios), len(ratios)),
    }


def matrix(outcomes: Sequence[Outcome]) -> dict[str, dict[str, str]]:
    """Bug by intensity: detected of runs, as `2/2`."""
    table: dict[str, dict[str, str]] = {}
    for code in sorted({o.code for o in outcomes}):
        row = {}
        for name in INTENSITIES:
            chosen = [o for o in outcomes if o.code == code and o.intensity == name]
            if chosen:
                row[name] = f"{sum(o.detected for o in chosen)}/{len(chosen)}"
        table[code] = row
    return table
