"""`clickproof incidents`: the list, one of them, and a person's word on it."""

from typing import Any

from infra.clock import SystemClock, to_datetime
from infra.errors import ExplainedError
from infra.settings import Settings
from pipelines.console import finish
from pipelines.incident_store import OPEN, WORDS, IncidentStore, plain


def incidents_command(chosen: Settings, what: str, number: int | None, as_json: bool) -> None:
    """`what`: list, show, or one of the words that a person may say."""
    store = IncidentStore(chosen.base(), chosen.webhook_url.get_secret_value())
    if what == "list":
        known = store.all()
        text = "\n".join(_line(each) for each in known.values()) or f"no incidents in {store.path}"
        finish(plain({"incidents": list(known.values())}), as_json, text)
        return
    if what not in ("show", *WORDS):
        raise ExplainedError(f"clickproof incidents {what}: there are list, show N, {', '.join(f'{word} N' for word in WORDS)}")
    if number is None:
        raise ExplainedError(f"clickproof incidents {what} needs the incident's number: clickproof incidents {what} 1")
    found = store.one(number) if what == "show" else store.say(number, what, SystemClock().now_us())
    finish(plain(found), as_json, _whole(found))


def _line(incident: dict[str, Any]) -> str:
    mark = "*" if incident["state"] in OPEN else " "
    return (
        f"{mark} {incident['number']:>3}  {incident['state']:<13}{_time(incident['opened_us'])}  "
        f"{incident['class']} in {incident['subject']}"
    )


def _whole(incident: dict[str, Any]) -> str:
    lines = [_line(incident), f"began about {_time(incident['onset_us'])}"]
    if incident.get("new_normal") and incident["state"] in OPEN:
        lines.append("the monitor learns from it as the new normal: somebody said so, or it was open for a week")
    for hypothesis in incident["hypotheses"][:3]:
        lines.append(f"{hypothesis['score']:.0%}  {hypothesis['class']} in {hypothesis['subject']}")
        lines += [f"      {reason}" for reason in hypothesis["because"]]
    steps = incident.get("runbook") or {"first": [], "heal": []}
    lines += [f"look first: {step}" for step in steps["first"]] + [f"heal: {step}" for step in steps["heal"]]
    lines.append(f"report: {incident['report']}" if incident.get("report") else "report: clickproof report draws one")
    return "\n".join(lines)


def _time(at_us: int) -> str:
    return f"{to_datetime(at_us):%Y-%m-%d %H:%M}"
