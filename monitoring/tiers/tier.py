"""What a tier is: one kind of evidence, watching windows in order of time, with a share of the one budget of false alarms."""

from collections.abc import Mapping
from typing import Protocol

from monitoring.findings import Finding
from monitoring.window import Window

# Pages a clean day, all tiers together.  The promise is at most one page in 30 days (upper 95% bound over 180 days, so one
# page in 180); nulls are estimated, so what is spent is less than half of that.
PAGES_A_DAY = 1 / 400
SHARE: Mapping[str, float] = {"exact": 0.10, "replay": 0.25, "calibration": 0.35, "distribution": 0.20, "experiment": 0.10}
NOTICES_A_DAY = 1 / 10  # notices are written down and wake nobody


class Tier(Protocol):
    """Predict, test, then learn.  Hours come in order; a tier adds them up to days and weeks by itself."""

    name: str

    def test(self, window: Window) -> list[Finding]:
        """What in this window differs from what the windows learned before lead one to expect, worst first.  Learns nothing."""
        ...

    def learn(self) -> None:
        """Take the window tested last into the baseline.  Not called where an incident was open."""
        ...

    def unable(self) -> Mapping[str, str]:
        """Checks that could not judge the window tested last, and why (too little history, a column that is not there)."""
        ...

    def ran(self) -> tuple[str, ...]:
        """Checks that did judge it."""
        ...
