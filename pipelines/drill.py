"""Drills: break a branch on purpose, run the checks that production runs, and see whether they name what was done.

A drill is a function of (home, bug, intensity).  On a branch of the user's own home the world goes on, the monitors learn from
clean days, and at some hour the bug starts at its own stage; bugs of data sets and training are judged at the gate instead.
The monitors sit in a process of their own that is handed windows and nothing else, and only when they are done is the truth
compared.  The base is opened read-only and its fingerprint is taken before and after.  Called by `clickproof inject` and by
tests.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import pyarrow as pa

from infra import branch
from infra.clock import DAY_US, HOUR_US, day_name
from infra.errors import ExplainedError
from infra.home import Home
from infra.lake import Lake, watermark_us
from infra.progress import progress as bar
from infra.settings import Settings
from monitoring.bugs.catalogue import bug as look_up
from monitoring.bugs.entry import Bug, Scene
from monitoring.findings import Checks
from monitoring.gate import accept, accepted, judge
from monitoring.gate.diagnosis import gate_diagnosis
from pipelines.gauntlet.cells import HORIZON_US
from pipelines.gauntlet.exports import as_parts, as_table
from pipelines.gauntlet.gate import judged_here
from pipelines.gauntlet.outcome import right
from pipelines.materialize import lake_days, materialize_day
from pipelines.plant.making import days_of_reference
from pipelines.plant.plant import Plant
from pipelines.sources.registry import source_of
from pipelines.training import SERVICE, assemble, audit
from pipelines.training_set import split_windows
from pipelines.watcher import Watcher

LIVE = ("log", "reports")  # of the base: a server may be answering and a person drawing a report while a drill runs
CLEAN_HOURS = 12  # watched before the onset: what pages there is a false alarm
SETTLE = 2  # windows after the one that opened an incident: its hypotheses get better with evidence
SEED = 1


@dataclass(frozen=True, slots=True)
class DrillResult:
    """What was done, what should have been found, and what was."""

    code: str
    name: str
    intensity: str  # "" in a clean run
    clean: bool
    expected: dict[str, str] | None  # class and subject of the truth; None in a clean run: nothing may page
    found: bool  # an incident whose first hypothesis has the right class or subject
    as_expected: bool  # found, or silent in a clean run
    bug_class: str | None  # of the first hypothesis
    subject: str | None  # of the first hypothesis
    caught_by: list[str]  # checks that paged, where the bug was found
    checks_run: list[str]
    skipped: dict[str, str]
    findings: list[dict[str, Any]]
    base_untouched: bool
    runbook: list[str]
    seconds: float
    hypotheses: list[dict[str, Any]]  # of the incident (or of the gate), likeliest first
    incident: dict[str, Any] | None  # the first that named the bug, else the first; None at the gate
    hours_to_detect: float | None  # from the onset; None at the gate

    def as_json(self) -> dict[str, Any]:
        """A dict of JSON types."""
        return asdict(self)


@dataclass(slots=True)
class Watch:
    """What the checks of one drill ran and found; whoever fills it does not know the bug."""

    checks: Checks = field(default_factory=Checks)
    incidents: list[dict[str, Any]] = field(default_factory=list)  # opened after the onset
    hypotheses: list[dict[str, Any]] = field(default_factory=list)  # at the gate
    early: int = 0  # incidents before the onset
    onset_us: int | None = None


def run(home: Home, bug: str | Bug, chosen: Settings, intensity: str = "strong", clean: bool = False) -> DrillResult:
    """One drill on a branch of `home`, which must hold what `make train` leaves; with `clean`, the same without the bug.

    `bug` is a code or name of the catalogue, or a bug from elsewhere.  Raises ExplainedError for an unknown bug or intensity
    and for a source that the bug cannot enter.
    """
    started = time.perf_counter()
    entry = look_up(bug) if isinstance(bug, str) else bug
    try:
        dose = None if clean else entry.dose(intensity)
    except KeyError as error:
        raise ExplainedError(str(error.args[0])) from error
    base = replace(home, writable=False)
    before = branch.fingerprint(base, LIVE)
    work = branch.create(base, f"drill-{entry.code.lower()}-{'clean' if clean else intensity}")
    try:
        watched = DRILLS["gate" if judged_here(entry) else "live"](work, chosen, entry, dose, intensity)
    finally:
        branch.drop(work)
    untouched = branch.fingerprint(base, LIVE) == before
    return _compare(entry, "" if clean else intensity, clean, watched, untouched, time.perf_counter() - started)


Drill = Callable[[Home, Settings, Bug, float | None, str], Watch]


def _live(work: Home, chosen: Settings, bug: Bug, dose: float | None, intensity: str) -> Watch:
    """The world goes on; monitors learn from its clean days and watch some hours before the onset and those of the horizon."""
    horizon_us = HORIZON_US[intensity]
    after = -(-(CLEAN_HOURS * HOUR_US + horizon_us) // DAY_US)
    plant = Plant.of(work, chosen, days_of_reference(work, chosen) + after)
    watched = Watch(onset_us=plant.first_us + CLEAN_HOURS * HOUR_US)
    onset_us = plant.first_us + CLEAN_HOURS * HOUR_US
    until_us = onset_us + horizon_us
    rest = plant.clean(onset_us, until_us) if dose is None else plant.broken(bug, dose, SEED, onset_us, until_us)
    with Watcher(plant.columns) as watcher:
        first_us, end_us = plant.reference
        hours = range(first_us, end_us, HOUR_US)
        for _, window in bar(zip(hours, plant.clean(first_us, end_us), strict=True), "learn", "hour", total=len(hours)):
            watcher.warm_up(window)
        for window in plant.clean(plant.first_us, onset_us):
            watched.early += len(watcher.observe(window).opened)
        settled: int | None = None
        for window in rest:
            seen = watcher.observe(window)
            watched.checks.ran = list(dict.fromkeys([*watched.checks.ran, *seen.ran]))
            watched.checks.findings += seen.findings
            watched.checks.skipped |= seen.skipped
            settled = SETTLE if seen.opened and settled is None else None if settled is None else settled - 1
            if settled == 0:
                break
        watched.incidents = [found for found in watcher.incidents() if found["opened_us"] > onset_us]
    watched.checks.skipped = {name: why for name, why in watched.checks.skipped.items() if name not in watched.checks.ran}
    return watched


def _gate(work: Home, chosen: Settings, bug: Bug, dose: float | None, intensity: str) -> Watch:
    """Assemble the training set with the bug in its features' rows or in the export itself, and audit it."""
    source = source_of(chosen)
    spec, windows, as_of_us = source.spec, split_windows(source.spec), watermark_us(work)

    def rewrite(table: str, rows: pa.Table) -> pa.Table:
        return rows if dose is None or table not in bug.tables else bug.inject(rows, dose, Scene(table, SEED))

    if accepted(work) is None:  # nothing was promoted yet: the set as it is before the bug is the history to compare with
        accept(work, audit(work, spec, assemble(work, spec, chosen), as_of_us, chosen.attribution_hours)[1])
    if bug.stage == "feature":
        first = min(window.first_us for window in windows.values())
        last = max(window.last_us for window in windows.values())
        for day in lake_days(Lake.of(work)):
            if day_name(first - DAY_US) <= day < day_name(last):
                materialize_day(work, spec, day, rewrite)
    parts = assemble(work, spec, chosen).by_name()
    if bug.stage == "training":
        parts = as_parts(rewrite("training", as_table(parts)))
    window_us = int(chosen.attribution_hours * HOUR_US)
    checks = judge(work, parts, spec.entities, spec.context, SERVICE, as_of_us, window_us)[0]
    return Watch(checks, hypotheses=[found.as_json() for found in gate_diagnosis(checks.findings)])


DRILLS: Mapping[str, Drill] = {"gate": _gate, "live": _live}


def _compare(entry: Bug, intensity: str, clean: bool, watched: Watch, untouched: bool, seconds: float) -> DrillResult:
    """The drill's outcome against the truth, which no check has seen."""
    checks = watched.checks
    incident = next((found for found in watched.incidents if right(entry, found)), next(iter(watched.incidents), None))
    hypotheses = incident["hypotheses"] if incident else watched.hypotheses
    paged = bool(watched.incidents) or (watched.onset_us is None and bool(checks.pages))
    found = not clean and paged and right(entry, {"hypotheses": hypotheses})
    pages = (
        [f["check"] for f in incident["evidence"] if f["severity"] == "page"] if incident else [f.check for f in checks.pages]
    )
    top = hypotheses[0] if hypotheses and paged else None
    hours = (incident["opened_us"] - watched.onset_us) / HOUR_US if incident and watched.onset_us is not None else None
    return DrillResult(
        code=entry.code,
        name=entry.name,
        intensity=intensity,
        clean=clean,
        expected=None if clean else {"class": entry.bug_class, "subject": entry.subject},
        found=found,
        as_expected=untouched and not watched.early and (not paged if clean else found),
        bug_class=top["class"] if top else None,
        subject=top["subject"] if top else None,
        caught_by=sorted(set(pages)) if found else [],
        checks_run=checks.ran,
        skipped=checks.skipped,
        findings=[finding.as_json() for finding in checks.findings],
        base_untouched=untouched,
        runbook=[entry.story, entry.looks_like],
        seconds=round(seconds, 2),
        hypotheses=hypotheses,
        incident=incident,
        hours_to_detect=hours,
    )
