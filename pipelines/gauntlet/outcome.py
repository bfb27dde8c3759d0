"""What became of one cell: whether, when and under which name it was detected.  Pure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa

from infra.clock import HOUR_US
from monitoring.bugs.entry import Bug
from monitoring.findings import Finding
from monitoring.incidents import Desk
from monitoring.window import Window
from pipelines.gauntlet.cells import Cell
from pipelines.watcher import Watched


@dataclass(frozen=True, slots=True)
class Step:
    """One window of a cell: its end, the impressions in it, what was found, and the incidents that began after the onset."""

    end_us: int
    rows: int
    findings: list[Finding]
    incidents: list[dict[str, Any]]  # Incident.as_json

    @classmethod
    def of(cls, watched: Watched, rows: int, incidents: Sequence[dict[str, Any]], onset_us: int) -> "Step":
        """The step of what was watched; incidents opened before the onset are not of this cell."""
        return cls(watched.end_us, rows, watched.findings, [i for i in incidents if i["opened_us"] > onset_us])


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one cell."""

    code: str
    bug_class: str
    subject: str
    intensity: str
    world: str
    detected: bool  # a new incident inside the horizon whose first hypothesis has the right class or subject
    alarmed: bool  # a new incident inside the horizon, whatever it was called
    hours: float | None  # from onset to detection
    events: int | None  # impressions from onset to detection
    class_rank: int | None  # of the right class among the hypotheses at detection (or at the alarm), from 1
    subject_right: bool | None
    named: list[list[str]]  # (class, subject) of the hypotheses then
    checks: list[str]  # that paged until then
    without_replay: bool
    label_free: bool
    cpu_s: float
    shift: float | None = None  # of calibration, where that is all that the bug shows
    oracle_hours: float | None = None  # in which an oracle sees such a shift; None: not within the horizon

    def as_json(self) -> dict[str, Any]:
        """A dict of JSON types."""
        return asdict(self)


def judge(bug: Bug, cell: Cell, world: str, steps: Sequence[Step], cpu_s: float, model: str = "") -> Outcome:
    """The outcome of a cell from its steps, in order.  `model`: hash of the champion, another name of what a bad model is."""
    if model and bug.stage in ("model", "input"):
        bug = replace(bug, also=(*bug.also, model))
    hit = next((at for at, step in enumerate(steps) if any(right(bug, i) for i in step.incidents)), None)
    alarm = next((at for at, step in enumerate(steps) if step.incidents), None)
    seen = hit if hit is not None else alarm
    named: list[list[str]] = []
    if seen is not None:
        incidents = sorted(steps[seen].incidents, key=lambda i: not right(bug, i))
        named = [[h["class"], h["subject"]] for h in incidents[0]["hypotheses"]]
    classes = [pair[0] for pair in named]
    wanted = [classes.index(name) + 1 for name in (bug.bug_class, *bug.also_classes) if name in classes]
    until = steps if seen is None else steps[: seen + 1]
    return Outcome(
        code=bug.code,
        bug_class=bug.bug_class,
        subject=bug.subject,
        intensity=cell.intensity,
        world=world,
        detected=hit is not None,
        alarmed=alarm is not None,
        hours=(steps[hit].end_us - cell.onset_us) / HOUR_US if hit is not None else None,
        events=sum(step.rows for step in steps[: hit + 1]) if hit is not None else None,
        class_rank=min(wanted) if wanted else None,
        subject_right=named[0][1] in (bug.subject, *bug.also) if named else None,
        named=named[:5],
        checks=sorted({finding.check for step in until for finding in step.findings if finding.severity == "page"}),
        without_replay=caught_by(bug, steps, lambda finding: finding.tier != "replay"),
        label_free=caught_by(bug, steps, label_free),
        cpu_s=round(cpu_s, 2),
    )


def right(bug: Bug, incident: Mapping[str, Any]) -> bool:
    """Whether the first hypothesis has the right class or subject."""
    if not incident["hypotheses"]:
        return False
    top = incident["hypotheses"][0]
    return top["class"] in (bug.bug_class, *bug.also_classes) or top["subject"] in (bug.subject, *bug.also)


NEED_LABELS = ("lost-clicks", "late-events", "bots", "prior-shift", "concept-drift", "feedback-loop")


def label_free(finding: Finding) -> bool:
    """Whether a finding stands without clicks: neither calibration nor the books of clicks."""
    return finding.tier != "calibration" and not (finding.tier == "exact" and finding.bug_class in NEED_LABELS)


def caught_by(bug: Bug, steps: Sequence[Step], kept: Callable[[Finding], bool]) -> bool:
    """Whether the incidents that a part of the findings would have made name the bug: the same desk, fewer findings."""
    desk = Desk()
    for step in steps:
        window = Window(step.end_us - HOUR_US, step.end_us, pa.table({"id": pa.array([], pa.int64())}))
        desk.update(window, [finding for finding in step.findings if kept(finding)])
        if any(right(bug, incident.as_json()) for incident in desk.open):
            return True
    return False
