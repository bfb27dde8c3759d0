"""Incidents: what somebody is woken for, from the first finding to the all-clear.

One incident at a time gathers what belongs together; it resolves by itself after `CLEAN` windows without a finding that pages.
The desk decides; keeping incidents on disk and telling a webhook is the caller's business.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from monitoring.diagnosis import Hypothesis, diagnose
from monitoring.findings import Finding, Severity
from monitoring.window import Window

State = Literal["new", "acknowledged", "resolved", "false-alarm"]
CLEAN = 3  # windows in a row


@dataclass(slots=True)
class Incident:
    """One episode."""

    number: int
    state: State
    opened_us: int  # end of the window that opened it
    updated_us: int
    severity: Severity
    findings: list[Finding] = field(default_factory=list)
    hypotheses: list[Hypothesis] = field(default_factory=list)
    quiet: int = 0  # clean windows in a row

    @property
    def open(self) -> bool:
        """Whether it still goes on."""
        return self.state in ("new", "acknowledged")

    def as_json(self) -> dict[str, Any]:
        """A dict of JSON types."""
        top = self.hypotheses[0] if self.hypotheses else None
        return {
            "number": self.number,
            "state": self.state,
            "opened_us": self.opened_us,
            "updated_us": self.updated_us,
            "class": top.bug_class if top else None,
            "subject": top.subject if top else None,
            "severity": self.severity,
            "evidence": [finding.as_json() for finding in self.findings],
            "hypotheses": [hypothesis.as_json() for hypothesis in self.hypotheses],
        }


class Desk:
    """All incidents of a monitor, in order."""

    def __init__(self) -> None:
        self.incidents: list[Incident] = []

    @property
    def open(self) -> list[Incident]:
        """Those that go on."""
        return [incident for incident in self.incidents if incident.open]

    def update(self, window: Window, findings: Sequence[Finding]) -> list[Incident]:
        """Take in what a window showed; the incidents that it opened."""
        pages = [finding for finding in findings if finding.severity == "page"]
        opened: list[Incident] = []
        if pages and not self.open:
            opened.append(Incident(len(self.incidents) + 1, "new", window.end_us, window.end_us, "page"))
            self.incidents += opened
        for incident in self.open:
            incident.quiet = 0 if pages else incident.quiet + 1
            if pages:
                incident.updated_us = window.end_us
                incident.findings += findings
                incident.hypotheses = diagnose(incident.findings)
            if incident.quiet >= CLEAN:
                incident.state = "resolved"
        return opened
