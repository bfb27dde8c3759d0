"""`clickproof monitor log`: the monitors on a prediction log that this system did not write.

Reads the mapping and the files, judges the window, prints the verdict; no home, no lake, no model is needed.
"""

from collections.abc import Sequence
from pathlib import Path

from infra.errors import ExplainedError
from monitoring.findings import Finding
from monitoring.incidents import Incident
from monitoring.outside import files
from monitoring.outside.judge import Verdict, judge
from monitoring.outside.mapping import read_mapping
from monitoring.outside.reading import read_log, read_offline
from monitoring.runbooks import runbook
from pipelines.console import finish, say
from pipelines.incident_store import plain


def monitor_log(reference: Sequence[str], window: Sequence[str], offline: Sequence[str], mapping: Path) -> Verdict:
    """The verdict on a window of an outside log; ExplainedError where something can't be read."""
    named = read_mapping(mapping)
    theirs = {path.resolve() for path in files.files(window)}
    usual = [path for path in files.files(reference) if path.resolve() not in theirs]
    if not usual:
        raise ExplainedError("the reference holds no file but the window's own; give it normal days from before the window")
    if len(usual) < len(files.files(reference)):
        say("left the window's own files out of the reference")
    log = read_log([str(path) for path in usual], named, "reference", whole=True)
    say(f"reference: {log.rows:,} rows of {len(log.files)} files")
    now = read_log(window, named, "window", whole=False)
    say(f"window: {now.rows:,} rows of {len(now.files)} files")
    again = read_offline(offline, named) if offline else None
    return judge(log, now, again, named)


def monitor_log_command(
    reference: Sequence[str],
    window: Sequence[str],
    offline: Sequence[str],
    mapping: Path,
    as_json: bool,
    fail_on_incident: bool,
) -> int:
    """Print the verdict; 1 where there is an incident and the caller wants to fail on one, otherwise 0."""
    verdict = monitor_log(reference, window, offline, mapping)
    finish(plain(verdict.as_json()), as_json, as_text(verdict))
    return 1 if fail_on_incident and verdict.incidents else 0


def as_text(verdict: Verdict) -> str:
    """The verdict for people."""
    read = verdict.read
    lines = [
        f"{name}: {read[name]['rows']:,} rows, {read[name]['from']} to {read[name]['to']}" for name in ("reference", "window")
    ]
    lines += [f"  read as: {said}" for said in read["understood"]]
    for which in ("reference", "window"):
        lines += [f"  {which}: {rule} in {rows:,} rows" for rule, rows in read[which]["unreadable"].items()]
    for incident in verdict.incidents:
        lines += ["", *_incident(incident)]
    if not verdict.incidents:
        lines += ["", "no incident"]
    if verdict.notices:
        lines += [
            "",
            "written down, but no reason to wake anybody:",
            *(f"  {_short(notice)}" for notice in verdict.notices[:8]),
        ]
    lines += ["", f"{len(verdict.checked)} checks ran: {', '.join(verdict.checked)}"]
    lines += [f"not checked: {check}: {why}" for check, why in verdict.skipped.items()]
    return "\n".join(lines)


def _incident(incident: Incident) -> list[str]:
    best, *others = incident.hypotheses
    lines = [f"INCIDENT {incident.number}: {best.bug_class} in {best.subject} ({incident.severity}, {best.score:.0%} sure)"]
    lines += [f"  {reason}" for reason in best.because]
    if others:
        lines.append("  or: " + "; ".join(f"{h.bug_class} in {h.subject} ({h.score:.0%})" for h in others[:3]))
    steps = runbook(best.bug_class)
    return lines + [f"  look first: {step}" for step in steps.first] + [f"  heal: {step}" for step in steps.heal]


def _short(finding: Finding) -> str:
    return f"{finding.symptom or finding.check} in {finding.subject}"
