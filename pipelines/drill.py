"""Drills: break a branch on purpose, run the checks that production runs, and see whether they name what was done.

A drill is a function of (home, bug, intensity).  It injects the bug at its own stage, runs what lies downstream through the
same functions as production, hands the branch alone to the checks, drops it, and only then compares with the truth.  The base
is opened read-only and its fingerprint is taken before and after.  Called by `clickproof inject` and by tests.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa

from features.requests import context_column
from infra import branch
from infra.clock import DAY_US, day_name
from infra.errors import ExplainedError
from infra.home import Home
from infra.lake import Lake, watermark_us
from infra.settings import Settings
from monitoring.bugs.catalogue import bug as look_up
from monitoring.bugs.entry import Bug, Scene, Stage
from monitoring.daily import watch
from monitoring.findings import Checks, Finding
from monitoring.gate import accept, accepted
from pipelines.ingest import ingest_day
from pipelines.materialize import lake_days, materialize_day
from pipelines.sources.contract import Requests, Source
from pipelines.sources.registry import source_of
from pipelines.training import SERVICE, assemble, audit
from pipelines.training_set import split_windows


@dataclass(frozen=True, slots=True)
class DrillResult:
    """What was done, what should have been found, and what was."""

    code: str
    name: str
    intensity: str  # "" in a clean run
    clean: bool
    expected: dict[str, str] | None  # class and subject of the truth; None in a clean run: nothing may page
    found: bool  # a page named class and subject
    as_expected: bool  # found, or silent in a clean run
    bug_class: str | None  # of the worst page
    subject: str | None  # of the worst page
    caught_by: list[str]  # checks whose pages named class and subject
    checks_run: list[str]
    skipped: dict[str, str]
    findings: list[dict[str, Any]]
    base_untouched: bool
    runbook: list[str]
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """A dict of JSON types."""
        return asdict(self)


def run(home: Home, bug: str, chosen: Settings, intensity: str = "strong", clean: bool = False) -> DrillResult:
    """One drill on a branch of `home`, which must hold what `make train` leaves; with `clean`, the same without the bug.

    Raises ExplainedError for an unknown bug or a source that the bug cannot enter.
    """
    started = time.perf_counter()
    entry = look_up(bug)
    try:
        strength = None if clean else entry.dose(intensity)
    except KeyError as error:
        raise ExplainedError(str(error.args[0])) from error
    base = replace(home, writable=False)
    before = branch.fingerprint(base, LIVE)
    work = branch.create(base, f"drill-{entry.code.lower()}-{'clean' if clean else intensity}")
    try:
        checks = STAGES[entry.stage](work, source_of(chosen), chosen, _rewrite(entry, strength))
    finally:
        branch.drop(work)
    untouched = branch.fingerprint(base, LIVE) == before
    return _compare(entry, "" if clean else intensity, clean, checks, untouched, time.perf_counter() - started)


LIVE = ("log", "reports")  # of the base: a server may be answering and a person drawing a report while a drill runs

Rewrite = Callable[[str, pa.Table], pa.Table]  # (view or stream, rows) -> rows
Drill = Callable[[Home, Source, Settings, Rewrite], Checks]


def _rewrite(entry: Bug, strength: float | None) -> Rewrite:
    def rewrite(table: str, rows: pa.Table) -> pa.Table:
        return rows if strength is None or table not in entry.tables else entry.inject(rows, strength, Scene(table, seed=1))

    return rewrite


def _feature_rows(work: Home, source: Source, chosen: Settings, rewrite: Rewrite) -> Checks:
    """Materialise the days of the training split again with rewritten rows, assemble the training set, audit it."""
    spec, windows, as_of_us = source.spec, split_windows(source.spec), watermark_us(work)
    if accepted(work) is None:  # nothing was promoted yet: the set as it is before the bug is the history to compare with
        accept(work, audit(work, spec, assemble(work, spec, chosen), as_of_us, chosen.attribution_hours)[1])
    first = min(window.first_us for window in windows.values())
    last = max(window.last_us for window in windows.values())
    for day in lake_days(Lake.of(work)):
        if day_name(first - DAY_US) <= day < day_name(last):
            materialize_day(work, spec, day, rewrite)
    return audit(work, spec, assemble(work, spec, chosen), as_of_us, chosen.attribution_hours)[0]


def _next_day(work: Home, source: Source, chosen: Settings, rewrite: Rewrite) -> Checks:
    """Let the world go on for a day with rewritten requests, ingest and materialise it, compare it with the days before."""
    from pipelines.sources.world.legacy import LegacyRanker
    from pipelines.sources.world.source import WorldSource

    if not isinstance(source, WorldSource):
        raise ExplainedError(f"this bug needs a world that goes on for another day; {source.spec.name} is a finished log")
    world = source.resume(work)
    day = day_name(world.now_us)
    source.extend(work, LegacyRanker.of(world), world.now_us + DAY_US, lambda asked: _rewritten(asked, rewrite), progress=False)
    ingest_day(work, source.spec, day)
    materialize_day(work, source.spec, day)
    return watch(work, day, source.spec.entities, source.spec.context, SERVICE)


STAGES: Mapping[Stage, Drill] = {"feature": _feature_rows, "traffic": _next_day}


def _rewritten(asked: Requests, rewrite: Rewrite) -> Requests:
    """Requests whose context went through `rewrite` as a table of request_id and context."""
    rows = rewrite("requests", pa.table({"request_id": asked.request_id, **asked.context}))
    return replace(asked, context={name: context_column(rows[name]) for name in asked.context})


def _compare(entry: Bug, intensity: str, clean: bool, checks: Checks, untouched: bool, seconds: float) -> DrillResult:
    """The drill's outcome against the truth, which no check has seen."""
    worst = checks.pages[0] if checks.pages else None
    truth = (entry.bug_class, entry.subject)
    hits = [finding for finding in checks.pages if (finding.bug_class, finding.subject) == truth]
    found = bool(hits) and not clean
    return DrillResult(
        code=entry.code,
        name=entry.name,
        intensity=intensity,
        clean=clean,
        expected=None if clean else {"class": entry.bug_class, "subject": entry.subject},
        found=found,
        as_expected=untouched and (not checks.pages if clean else found and _named_first(checks, hits)),
        bug_class=worst.bug_class if worst else None,
        subject=worst.subject if worst else None,
        caught_by=sorted({finding.check for finding in hits}) if not clean else [],
        checks_run=checks.ran,
        skipped=checks.skipped,
        findings=[finding.as_json() for finding in checks.findings],
        base_untouched=untouched,
        runbook=[entry.story, entry.looks_like],
        seconds=round(seconds, 2),
    )


def _named_first(checks: Checks, hits: list[Finding]) -> bool:
    """Whether, of some check that hit, the guilty subject leads its pages: an alarm that names ten columns names none."""
    leaders: dict[str, str] = {}
    for finding in checks.pages:
        leaders.setdefault(finding.check, finding.subject)
    return any(leaders[finding.check] == finding.subject for finding in hits)
