"""Incidents: what somebody is woken for, from the first finding to the all-clear.

One incident gathers what its best hypothesis explains; what is clearly something else opens a second one.  It resolves by
itself after `CLEAN` windows that show nothing of it.  The desk decides; keeping incidents on disk and telling a webhook is the
caller's business (`pipelines.incident_store`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from infra.clock import DAY_US, HOUR_US
from monitoring.diagnosis import Hypothesis, diagnose, explains
from monitoring.diagnosis.observed import condense
from monitoring.findings import Finding, Severity
from monitoring.runbooks import runbook
from monitoring.window import Window

State = Literal["new", "acknowledged", "resolved", "false-alarm"]
CLEAN = 3  # windows in a row
# What nobody healed for a week of weekdays and a weekend is how things are: the monitor learns on.  One that stops learning for
# ever finds every user new and every level off, and its incident never closes.
NORMAL_AFTER_US = 7 * DAY_US
REMEMBER_US = 3 * HOUR_US  # notices this much older than the incident they may have announced still count for it
# A notice on its own is written down.  Two tiers' notices on one subject within this time are a page: with `NOTICES_A_DAY` of
# all tiers together below 1/10, two tiers that err independently agree on one of twenty subjects on fewer than
# 2 * (1/20)^2 / 20 = 1 day in 4000, a tenth of `PAGES_A_DAY`.
CONFIRM_US = DAY_US
CONFIRMED_BY = {"replay", "calibration", "exact", "experiment"}
# An independent second fault must show in one of the tiers that name what is wrong, not only in what moved: consequences of
# the first are everywhere in the others.  Unless the first is of those that leave features alone.
INDEPENDENT = {"exact", "replay", "experiment"}
CONTAINED = {"duplicated-events", "sample-ratio-mismatch", "lost-clicks", "late-events", "prior-shift", "feedback-loop"}
EXPLAINERS = 3  # how many hypotheses of an open incident may claim a finding before it counts as something else


@dataclass(slots=True)
class Incident:
    """One episode."""

    number: int
    state: State
    opened_us: int  # end of the window that opened it
    updated_us: int
    severity: Severity
    findings: list[Finding] = field(default_factory=list)  # one for each thing shown, the strongest
    hypotheses: list[Hypothesis] = field(default_factory=list)
    quiet: int = 0  # clean windows in a row
    quiet_us: int = 0  # how long they were
    pace_us: int = 0  # length of the longest stretch that a page of it judged: an hour, a day, a week
    as_new_normal: bool = False  # it is to be learned from: somebody said so, or nobody healed it for NORMAL_AFTER_US
    looks: set[str] = field(default_factory=set)  # what the checks could look at

    @property
    def open(self) -> bool:
        """Whether it still goes on."""
        return self.state in ("new", "acknowledged")

    @property
    def onset_us(self) -> int:
        """When it seems to have begun: by the best hypothesis, otherwise by the first finding, otherwise when it was opened."""
        best = [h.onset_us for h in self.hypotheses[:1] if h.onset_us is not None]
        found = [f.onset_us for f in self.findings if f.onset_us is not None]
        return (best or [min(found, default=self.opened_us)])[0]

    def explains(self, finding: Finding, most: int = EXPLAINERS) -> bool:
        """Whether one of its `most` best hypotheses would lead one to see this too."""
        return any(explains(hypothesis, finding) for hypothesis in self.hypotheses[:most])

    def take_in(self, findings: Iterable[Finding]) -> None:
        """Add findings and think again."""
        self.findings = condense([*self.findings, *findings])
        self.hypotheses = diagnose(self.findings, self.looks or None)

    def as_json(self) -> dict[str, Any]:
        """A dict of JSON types."""
        top = self.hypotheses[0] if self.hypotheses else None
        return {
            "number": self.number,
            "state": self.state,
            "opened_us": self.opened_us,
            "updated_us": self.updated_us,
            "onset_us": self.onset_us,
            "class": top.bug_class if top else None,
            "subject": top.subject if top else None,
            "severity": self.severity,
            "evidence": [finding.as_json() for finding in self.findings],
            "hypotheses": [hypothesis.as_json() for hypothesis in self.hypotheses],
            "new_normal": self.as_new_normal,
            "runbook": runbook(top.bug_class).as_json() if top else None,
        }


class Desk:
    """All incidents of a monitor, in order."""

    def __init__(self) -> None:
        self.incidents: list[Incident] = []
        self._notices: list[tuple[int, Finding]] = []  # (end of the window, notice) of the last day

    @property
    def open(self) -> list[Incident]:
        """Those that go on."""
        return [incident for incident in self.incidents if incident.open]

    @property
    def may_learn(self) -> bool:
        """Whether windows are normal enough to learn from: no incident is open, or those open are the new normal."""
        return all(incident.as_new_normal for incident in self.open)

    def update(self, window: Window, findings: Sequence[Finding]) -> list[Incident]:
        """Take in what a window showed; the incidents that it opened."""
        self._notices = [(at, f) for at, f in self._notices if at > window.end_us - CONFIRM_US]
        pages = [finding for finding in findings if finding.severity == "page"]
        notices = [finding for finding in findings if finding.severity == "notice"]
        looks = _looks(window)
        left = [*pages, *notices]
        for incident in self._listening():
            mine = [f for f in left if incident.explains(f) or _same_thing(incident, f)]
            if not any(_is_independent(f, incident) for f in left if f.severity == "page" and f not in mine):
                mine = left  # nothing here must be something else: one episode
            left = [f for f in left if f not in mine]
            _go_on(incident, window, mine, looks)
            incident.as_new_normal = incident.as_new_normal or window.end_us - incident.opened_us >= NORMAL_AFTER_US
        opened: list[Incident] = []
        unmuted = [f for f in left if f.severity == "page"] or self._confirmed(notices if not pages else [], window)
        if unmuted:
            opened = self._open(window, unmuted, [f for f in left if f not in unmuted], looks)
        self._notices += [(window.end_us, f) for f in notices]
        return opened

    def acknowledge(self, number: int, as_new_normal: bool = False) -> Incident:
        """Somebody has seen it; `as_new_normal`: this is how things are from now on, so the monitor may learn them."""
        incident = self.incident(number)
        if incident.open:
            incident.state = "acknowledged"
            incident.as_new_normal = incident.as_new_normal or as_new_normal
        return incident

    def false_alarm(self, number: int) -> Incident:
        """It was nothing: the monitor learns again, and what it shows opens nothing until it has been silent for a while."""
        incident = self.incident(number)
        incident.state, incident.quiet, incident.quiet_us = "false-alarm", 0, 0
        return incident

    def incident(self, number: int) -> Incident:
        """The incident of that number; KeyError where there is none."""
        for incident in self.incidents:
            if incident.number == number:
                return incident
        raise KeyError(f"no incident {number}; there are {[i.number for i in self.incidents]}")

    def _listening(self) -> list[Incident]:
        """Incidents that findings may belong to: open ones, and false alarms that have not fallen silent yet."""
        return [i for i in self.incidents if i.open or (i.state == "false-alarm" and not _is_quiet(i))]

    def _open(self, window: Window, pages: Sequence[Finding], notices: Sequence[Finding], looks: set[str]) -> list[Incident]:
        """One incident for what goes together, a second for what is clearly something else, and so on."""
        recent = [f for at, f in self._notices if at > window.end_us - REMEMBER_US]
        left, opened = list(pages), []
        while left:
            number = len(self.incidents) + 1
            incident = Incident(number, "new", window.end_us, window.end_us, "page", looks=set(looks))
            incident.take_in([*left, *notices, *recent])
            others = [f for f in left if _is_independent(f, incident, most=1)]
            if others and len(others) < len(left):
                incident.findings = []
                incident.take_in([f for f in [*left, *notices, *recent] if f not in others])
            incident.pace_us = max((_judged_us(f, window) for f in left if f not in others), default=0)
            self.incidents.append(incident)
            opened.append(incident)
            left = others if len(others) < len(left) else []
        return opened

    def _confirmed(self, notices: Sequence[Finding], window: Window) -> list[Finding]:
        """Notices of the distribution tier that another tier's notice on the same subject bears out, with that notice."""
        lately = [*(f for _, f in self._notices), *notices]
        confirmed: list[Finding] = []
        for notice in notices:
            for other in lately:
                tiers = {notice.tier, other.tier}
                if notice.subject == other.subject and "distribution" in tiers and tiers & CONFIRMED_BY:
                    confirmed += [each for each in (notice, other) if each not in confirmed]
        if any(incident.explains(f) for incident in self._listening() for f in confirmed):
            return []
        return confirmed


def _go_on(incident: Incident, window: Window, mine: Sequence[Finding], looks: set[str]) -> None:
    """One window more of an incident."""
    pages = [f for f in mine if f.severity == "page"]
    if mine:
        incident.looks |= looks
        incident.take_in(mine)
    if pages:
        incident.updated_us = window.end_us
        incident.quiet = incident.quiet_us = 0
        incident.pace_us = max(incident.pace_us, *(_judged_us(f, window) for f in pages))
    elif window.log.num_rows:  # an hour without traffic says nothing
        incident.quiet += 1
        incident.quiet_us += window.end_us - window.start_us
    if incident.open and _is_quiet(incident):
        incident.state = "resolved"


def _is_quiet(incident: Incident) -> bool:
    """Silent for three of the stretches that found it: what takes a day to be seen is not gone after three quiet hours."""
    return incident.quiet >= CLEAN and incident.quiet_us >= CLEAN * incident.pace_us


def _judged_us(finding: Finding, window: Window) -> int:
    """Length of the stretch that a finding judged; of evidence that was gathered, as much silence as it took, a day at most."""
    if finding.tier == "calibration":
        gathered_us = int(min(finding.evidence.get("hours", 0.0) * HOUR_US, DAY_US))
        return max(window.end_us - window.start_us, gathered_us // CLEAN)
    scale = str(finding.evidence.get("scale", ""))
    known = {"hour": HOUR_US, "day": DAY_US, "week": 7 * DAY_US}
    return known.get(scale, window.end_us - window.start_us)


def _same_thing(incident: Incident, finding: Finding) -> bool:
    """Whether the incident has shown just this before."""
    return any((f.tier, f.symptom, f.subject) == (finding.tier, finding.symptom, finding.subject) for f in incident.findings)


def _is_independent(finding: Finding, incident: Incident, most: int = EXPLAINERS) -> bool:
    """Whether a page is clearly another fault than the incident's."""
    contained = bool(incident.hypotheses) and incident.hypotheses[0].bug_class in CONTAINED
    another = finding.tier in INDEPENDENT or (contained and finding.tier == "distribution")
    named = {hypothesis.subject for hypothesis in incident.hypotheses[:most]}
    return finding.severity == "page" and another and finding.subject not in named and not incident.explains(finding, most)


def _looks(window: Window) -> set[str]:
    """What checks could look at in a window."""
    looks = set()
    if window.offline is not None and window.offline.num_rows:
        looks.add("features")
    if window.rescored is not None and window.rescored.num_rows:
        looks.add("model")
    if window.clicks is not None or "label" in window.log.column_names:
        looks.add("labels")
    if window.clicks is not None:
        looks.add("arrivals")
    if window.books is not None and window.books.num_rows:
        looks.add("books")
    return looks
