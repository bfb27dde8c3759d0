"""The gate's table: are exports that a bug damaged blocked, and are good ones let through?

Good and bad exports are drawn first and audited in one shuffled row; an audit gets an `Export`, in which nothing says what was
done to it, and the truth is compared afterwards.  Called by `clickproof gauntlet`.
"""

import shutil
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from infra.progress import progress as bar
from monitoring.bugs.entry import Bug, Scene
from monitoring.classes import bug_class
from monitoring.findings import Checks
from monitoring.gate.audit import audit
from monitoring.gate.diagnosis import gate_diagnosis
from pipelines.gauntlet.exports import PARTS, Draw, Export, Site, as_parts, as_table
from pipelines.gauntlet.score import rate
from pipelines.sources.world.config import WorldConfig

FIRST_SEED = 1_000_000  # tuning was done on worlds with seeds below a thousand, and on what runs with seeds 5 and 6 draw
SCORED = ("strong", "mild")  # trace is listed apart
TRACE_SHARE = 0.2  # of the bad ones, on top
FEW = 100  # good exports: fewer make do with two small worlds


@dataclass(frozen=True, slots=True)
class Truth:
    """What was done to an export; nothing where `bug` is None."""

    bug: Bug | None
    intensity: str


@dataclass(frozen=True, slots=True)
class Audited:
    """An export after its audit: the truth beside what was found.  The export itself is gone by then."""

    truth: Truth
    where: dict[str, Any]
    changed: bool
    checks: Checks


def run(
    folder: Path, bugs: Sequence[Bug], seed: int, bad: int = 150, good: int = 600, progress: bool = False
) -> dict[str, Any]:
    """Counts and shares with Wilson's intervals: bad exports (strong and mild) and good ones blocked, by class; the misses.

    Worlds are made in `folder`, which is removed at the end, from seeds drawn with `seed`.
    """
    rng = np.random.default_rng(seed)
    started = time.process_time()
    try:
        sites = [Site.make(folder, config) for config in bar(_worlds(rng, good < FEW), "worlds", "world", shown=progress)]
        made = time.process_time() - started
        plan = _plan([bug for bug in bugs if judged_here(bug)], bad, good, rng)
        seen = []
        spent = 0.0
        for truth in bar(plan, "audits", "export", shown=progress):
            draw, export, site = _made(truth, sites, rng)
            before = time.process_time()
            checks = judged(export)
            spent += time.process_time() - before
            if site is not None:
                site.close()
            seen.append(Audited(truth, _where(draw, export), bool(draw.changes), checks))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {**_score(seen), "worlds": [f"{s.size}" for s in sites], "seed": seed, "cpu_s": {
        "worlds": round(made, 1), "audits": round(spent, 1), "an_audit": round(spent / max(len(plan), 1), 3),
        "all": round(time.process_time() - started, 1),
    }}  # fmt: skip


def judged_here(bug: Bug) -> bool:
    """Bugs of data sets and training: whatever enters the export, and feature bugs whose class is the gate's."""
    return bug.stage == "training" or (bug.stage == "feature" and bug_class(bug.bug_class).judged == "gate")


def judged(export: Export) -> Checks:
    """The audit of an export.  All that it sees."""
    return audit(export.parts, export.reference, export.account, export.scope, export.slow)[0]


def _worlds(rng: np.random.Generator, few: bool) -> list[WorldConfig]:
    """Small worlds of both tunings, in different weeks of the year."""
    sizes = [("market", 13, 4_000, 1_500, 250), ("bazaar", 13, 4_500, 900, 200)]
    if not few:
        sizes += [
            ("tiny", 14, 4_000, 600, 120),
            ("tiny", 14, 4_000, 600, 120),
            ("market", 16, 18_000, 4_000, 600),
            ("bazaar", 16, 15_000, 5_000, 800),
        ]
        sizes += [("market", 18, 6_000, 900, 150), ("bazaar", 18, 6_000, 2_500, 400)]
    found = []
    for name, days, a_day, users, ads in sizes:
        config = WorldConfig.of(name, int(rng.integers(FIRST_SEED, 2**31)))
        later = config.first_day_us + int(rng.integers(0, 40)) * 7 * 86_400_000_000
        found.append(replace(config, days=days, impressions_a_day=a_day, users=users, ads=ads, first_day_us=later))
    return found


def _plan(bugs: Sequence[Bug], bad: int, good: int, rng: np.random.Generator) -> list[Truth]:
    """Every bug at its scored doses in turn, some at trace, and the good ones, shuffled."""
    found = [Truth(None, "")] * good
    if bugs:
        scored = [Truth(bug, intensity) for intensity in SCORED for bug in bugs if intensity in bug.doses]
        trace = [Truth(bug, "trace") for bug in bugs if "trace" in bug.doses]
        found += [scored[i % len(scored)] for i in range(bad)]
        found += [trace[i % len(trace)] for i in range(int(bad * TRACE_SHARE))] if trace else []
    return [found[i] for i in rng.permutation(len(found))]


def _made(truth: Truth, sites: Sequence[Site], rng: np.random.Generator) -> tuple[Draw, Export, Site | None]:
    """An export with its damage; also the branch that a feature bug left behind."""
    draw = _drawn(truth.bug, sites, rng)
    seed = int(rng.integers(2**31))
    if truth.bug is None:
        return draw, draw.export(), None
    dose = truth.bug.dose(truth.intensity)
    try:
        if truth.bug.stage == "training":
            table = truth.bug.inject(as_table(draw.parts), dose, Scene("training", seed))
            return draw, draw.export(as_parts(table)), None
        work = draw.site.broken(truth.bug, dose, seed, draw.scope.span)
    except Exception as error:
        error.add_note(f"bug {truth.bug.code}, {truth.intensity}, in an export of world {draw.site.size}: {draw.changes}")
        raise
    return draw, draw.export(replace(draw, site=work).parts, work), work  # what was accepted before is not damaged


def _drawn(bug: Bug | None, sites: Sequence[Site], rng: np.random.Generator) -> Draw:
    """An export that has the columns a bug damages: one that was made without them is a good one."""
    while True:
        draw = Draw.of(sites[int(rng.integers(len(sites)))], rng)
        damaged = {bug.subject, *bug.also} & draw.site.rows.columns.keys() if bug else set()
        if damaged <= draw.parts[PARTS[0]].columns.keys():
            return draw


def _score(seen: Sequence[Audited]) -> dict[str, Any]:
    scored = [(a.truth, a.checks) for a in seen if a.truth.bug is not None and a.truth.intensity in SCORED]
    clean = [a for a in seen if a.truth.bug is None]
    trace = [a.checks for a in seen if a.truth.intensity == "trace"]
    named = [_named(t, c) for t, c in scored if c.pages]
    classes = sorted({t.bug.bug_class for t, _ in scored if t.bug}, key=lambda slug: bug_class(slug).number)
    by_class: dict[str, Any] = {}
    for slug in classes:
        mine = [(t, c) for t, c in scored if t.bug and t.bug.bug_class == slug]
        caught = [(t, c) for t, c in mine if c.pages]
        checks = Counter(check for _, c in caught for check in sorted({f.check for f in c.pages}))
        by_class[slug] = {
            "hits": len(caught), "of": len(mine), "named": sum(_named(t, c)[0] for t, c in caught),
            "checks": dict(checks.most_common()),
        }  # fmt: skip
    return {
        "bad_blocked": rate(sum(bool(c.pages) for _, c in scored), len(scored)),
        "good_blocked": rate(sum(bool(a.checks.pages) for a in clean), len(clean)),
        "trace_blocked": rate(sum(bool(c.pages) for c in trace), len(trace)),
        "top1": rate(sum(first for first, _, _ in named), len(named)),
        "top3": rate(sum(third for _, third, _ in named), len(named)),
        "subject": rate(sum(subject for _, _, subject in named), len(named)),
        "by_class": by_class,
        "misses": [_told(a) for a in seen if a.truth.bug and not a.checks.pages],
        "misnamed": [
            _told(a) for a in seen
            if a.truth.bug and a.truth.intensity in SCORED and a.checks.pages and not _named(a.truth, a.checks)[0]
        ],
        "false_alarms": [{**a.where, "pages": [str(page) for page in a.checks.pages[:3]]} for a in clean if a.checks.pages],
        "changed": rate(sum(a.changed for a in clean), len(clean)),
    }  # fmt: skip


def _named(truth: Truth, checks: Checks) -> tuple[bool, bool, bool]:
    """Whether the first hypothesis, and one of the first three, has the right class; and the first the right subject."""
    assert truth.bug is not None
    right = {truth.bug.bug_class, *truth.bug.also_classes}
    ranked = gate_diagnosis(checks.findings)
    subjects = {truth.bug.subject, *truth.bug.also}
    return (
        ranked[0].bug_class in right,
        any(hypothesis.bug_class in right for hypothesis in ranked[:3]),
        ranked[0].subject in subjects,
    )


def _told(audited: Audited) -> dict[str, Any]:
    bug = audited.truth.bug
    assert bug is not None
    ranked = gate_diagnosis(audited.checks.findings)
    first = f"{ranked[0].bug_class}: {ranked[0].subject}" if ranked else None
    return {
        "bug": bug.code, "class": bug.bug_class, "intensity": audited.truth.intensity, **audited.where, "found": first,
        "why": list(ranked[0].because[1:4]) if ranked else [],
    }  # fmt: skip


def _where(draw: Draw, export: Export) -> dict[str, Any]:
    rows = sum(len(part) for part in export.parts.values())
    clicks = sum(int(part.label.sum()) for part in export.parts.values())
    return {"world": draw.site.size, "rows": rows, "clicks": clicks, "changes": list(draw.changes)}
