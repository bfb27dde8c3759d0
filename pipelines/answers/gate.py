"""How often does the gate block what it should, and what it should not?  Exports of other worlds, damaged and good, audited
blind.  The page is docs/leakage.md.
"""

from typing import Any

from infra.settings import Settings
from monitoring.bugs.catalogue import BUGS
from monitoring.classes import bug_class
from pipelines.console import say
from pipelines.gauntlet import gate
from pipelines.markdown import table

QUESTION = "How often does the gate before training block what it should, and what it should not?"
NUMBER = 27
SEED_OFFSET = 20_261_122  # worlds that nothing was tuned on
FULL, QUICK = (150, 600), (8, 10)  # bad and good exports


def run(chosen: Settings) -> dict[str, Any]:
    """The gauntlet's table for the gate alone."""
    bad, good = QUICK if chosen.size == "tiny" else FULL
    say(f"making worlds, then auditing {bad} bad exports, some with traces, and {good} good ones")
    folder = chosen.base().branches / ".gate"
    folder.parent.mkdir(parents=True, exist_ok=True)
    found = gate.run(folder, BUGS, SEED_OFFSET + chosen.seed, bad, good, progress=chosen.size != "tiny")
    return {**found, "on": "worlds of its own"}


def markdown(result: dict[str, Any]) -> str:
    """By class, and the totals."""
    rows = [
        [found["number"], bug_class(slug).title, _share(found["hits"], found["of"]), _share(found["named"], found["hits"]),
         ", ".join(f"{check} {count}" for check, count in list(found["checks"].items())[:4])]
        for slug, found in ((slug, {**found, "number": bug_class(slug).number}) for slug, found in result["by_class"].items())
    ]  # fmt: skip
    totals = [
        ["bad exports blocked, strong and mild", _rate(result["bad_blocked"]), ">= 98%"],
        ["good exports blocked", _rate(result["good_blocked"]), "<= 0.5%"],
        ["bad exports blocked, trace", _rate(result["trace_blocked"]), ""],
        ["of those blocked: class of the first hypothesis right", _rate(result["top1"]), ""],
        ["of those blocked: subject right", _rate(result["subject"]), ""],
        ["CPU seconds an audit", f"{result['cpu_s']['an_audit']:.2f}", "<= 0.5"],
    ]
    missed = [
        f"- {m['bug']} ({m['class']}), {m['intensity']}: {m['clicks']} clicks, {m['rows']:,} rows" for m in result["misses"]
    ]
    false = [f"- {a['world']}, {a['rows']:,} rows, changed by {a['changes']}: {a['pages'][0]}" for a in result["false_alarms"]]
    return "\n".join([
        table(["figure", "reached (95% interval)", "goal"], totals), "",
        table(["#", "class", "blocked", "named first", "checks that paged, exports"], rows), "",
        "Missed:" if missed else "Nothing was missed.", "", *missed, "",
        "Good ones blocked:" if false else "No good one was blocked.", "", *false,
    ])  # fmt: skip


def _share(hits: int, of: int) -> str:
    return f"{hits} of {of}"


def _rate(found: dict[str, Any]) -> str:
    if found["rate"] is None:
        return "nothing to count"
    return f"{found['rate']:.1%} ({found['hits']} of {found['of']}; {found['low']:.1%} to {found['high']:.1%})"
