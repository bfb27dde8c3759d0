"""Clicks missing at the end are late; missing in the middle, or all day, they are lost."""

import numpy as np
import pyarrow as pa
import pytest
from made_up_findings import found

from infra.clock import DAY_US, HOUR_US
from monitoring.outside.maturity import young

LOW = found("calibration-low", "clicks", 5.0)


def log(missing: slice, share: float, rate: float = 0.2, rows: int = 24_000) -> pa.Table:
    """A day's log in which a share of the clicks of some hours is missing."""
    rng = np.random.default_rng(4)
    time = np.arange(rows) * (DAY_US // rows)
    label = (rng.random(rows) < rate).astype(np.int8)
    gone = np.isin(time // HOUR_US, np.arange(24)[missing]) & (rng.random(rows) < share)
    return pa.table({"time": time, "p": np.full(rows, rate), "label": np.where(gone, 0, label).astype(np.int8)})


@pytest.mark.parametrize(
    ("missing", "share", "hours"), [(slice(21, 24), 0.9, 3), (slice(18, 24), 0.6, 6), (slice(23, 24), 1.0, 1)]
)
def test_clicks_missing_at_the_end_are_late_ones(missing: slice, share: float, hours: int) -> None:
    finding = young(LOW, log(missing, share), DAY_US)
    assert (finding.symptom, finding.bug_class, finding.evidence["hours"]) == ("young-clicks-missing", "late-events", hours)
    assert finding.onset_us == DAY_US - hours * HOUR_US
    assert finding.excess == LOW.excess


@pytest.mark.parametrize(
    ("missing", "share"), [(slice(0, 24), 0.4), (slice(8, 12), 1.0), (slice(0, 0), 0.0), (slice(2, 23), 0.8)]
)
def test_others_are_not(missing: slice, share: float) -> None:
    assert young(LOW, log(missing, share), DAY_US) is LOW


def test_only_missing_clicks_of_a_log_with_labels_are_looked_at() -> None:
    high = found("calibration-high", "clicks")
    assert young(high, log(slice(21, 24), 0.9), DAY_US) is high
    assert young(LOW, log(slice(21, 24), 0.9).drop_columns(["label"]), DAY_US) is LOW
