"""Are the clicks that are missing those of the youngest impressions?  Then they are late, not lost.  Pure.

A log that carries its labels says nothing of when they came.  But labels that were taken too early are missing at the end of
the log and nowhere else, while lost clicks are missing until somebody repairs it.
"""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from infra.clock import HOUR_US
from monitoring.findings import Finding

MOST = 12  # hours: labels that want longer than that are missing all day
LEAST_EXPECTED = 20.0  # clicks, before and after: fewer show no difference


def young(finding: Finding, log: pa.Table, end_us: int) -> Finding:
    """A finding of too few clicks, called by its name where they are missing in the last hours before `end_us` only."""
    if finding.symptom != "calibration-low" or "label" not in log.column_names:
        return finding
    hours, ratio, before = _cut(log, end_us)
    if hours == 0:
        return finding
    evidence = {**finding.evidence, "hours": float(hours), "ratio": ratio, "ratio_before": before}
    since = end_us - hours * HOUR_US
    return replace(finding, symptom="young-clicks-missing", bug_class="late-events", evidence=evidence, onset_us=since)


def _cut(log: pa.Table, end_us: int) -> tuple[int, float, float]:
    """(hours before the end from which on clicks are missing, their ratio to the prediction then, and before), 0 where none."""
    known = pc.and_(pc.is_valid(log["label"]), pc.is_valid(log["p"]))
    rows = log.filter(known)
    age = (end_us - 1 - rows["time"].to_numpy()) // HOUR_US
    age = np.clip(age, 0, 24 * 366)
    clicks = np.bincount(age, rows["label"].to_numpy().astype(np.float64), MOST + 2)
    expected = np.bincount(age, rows["p"].to_numpy(), MOST + 2)
    best, gain = (0, 1.0, 1.0), 0.0
    for hours in range(1, MOST + 1):
        seen, left = float(expected[:hours].sum()), float(expected[hours:].sum())
        if min(seen, left) < LEAST_EXPECTED:
            continue
        after, before = float(clicks[:hours].sum()) / seen, float(clicks[hours:].sum()) / left
        # Log likelihood of two Poisson rates over one.
        both = (clicks.sum()) / (seen + left)
        more = sum(
            count * np.log(max(rate, 1e-9) / both) - (rate - both) * total
            for count, rate, total in ((after * seen, after, seen), (before * left, before, left))
        )
        if more > gain and after < 0.6 * before and 0.8 < before < 1.25:
            best, gain = (hours, after, before), more
    return best if gain > 8.0 else (0, 1.0, 1.0)
