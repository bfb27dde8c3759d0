"""The monitor: five tiers of evidence over the windows of a log, and the desk that makes incidents of what they find.

Predict, test, then learn; not from a window inside an open incident, unless that is the new normal.  Pure: it holds what it
learned and touches no file.  Called by `clickproof monitor`, by drills, the gauntlet and the control room (through a process of
its own), and by `clickproof monitor log`.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from monitoring.findings import Finding
from monitoring.incidents import Desk, Incident
from monitoring.tiers.tier import Tier
from monitoring.window import LogColumns, Window


@dataclass(frozen=True, slots=True)
class Seen:
    """What one window showed."""

    start_us: int
    end_us: int
    findings: list[Finding]
    opened: list[Incident]  # incidents that this window opened
    ran: list[str]  # checks that judged it
    skipped: dict[str, str]  # check -> why it could not


class Monitor:
    """Watches one log."""

    def __init__(self, columns: LogColumns, tiers: Sequence[Tier] | None = None) -> None:
        """`tiers` are all five unless given."""
        self.columns = columns
        self.tiers = list(tiers) if tiers is not None else all_tiers(columns)
        self.desk = Desk()

    def warm_up(self, window: Window) -> None:
        """Learn from a reference window, whatever it looks like."""
        for tier in self.tiers:
            tier.test(window)
            tier.learn()

    def observe(self, window: Window) -> Seen:
        """Judge a window, then learn from it unless an incident is open.  Windows come in order of time."""
        findings: list[Finding] = []
        skipped: dict[str, str] = {}
        ran: list[str] = []
        for tier in self.tiers:
            findings += tier.test(window)
            skipped |= tier.unable()
            ran += tier.ran()
        opened = self.desk.update(window, findings)
        if self.desk.may_learn:
            for tier in self.tiers:
                tier.learn()
        return Seen(window.start_us, window.end_us, findings, opened, ran, skipped)

    def copy(self) -> Self:
        """A monitor that knows the same and goes its own way."""
        return copy.deepcopy(self)


def all_tiers(columns: LogColumns) -> list[Tier]:
    """The five tiers for a log."""
    from monitoring.tiers.calibration import CalibrationTier
    from monitoring.tiers.distribution import DistributionTier
    from monitoring.tiers.exact import ExactTier
    from monitoring.tiers.experiment import ExperimentTier
    from monitoring.tiers.replay import ReplayTier

    return [
        ExactTier(columns),
        ReplayTier(columns),
        CalibrationTier(columns),
        DistributionTier(columns),
        ExperimentTier(columns),
    ]
