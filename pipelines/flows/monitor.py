"""Monitoring as a flow: the prediction log arrives, the monitors learn from the days before the latest and judge it, the report
is drawn."""

from dataclasses import dataclass
from typing import Any

from prefect import flow
from pydantic import SecretStr

from infra.home import Home
from infra.settings import Settings
from models.artefact import Artefact
from monitoring.findings import Finding
from monitoring.incidents import Incident
from monitoring.monitor import Monitor
from monitoring.report import write_report
from pipelines.flows.step import step
from pipelines.incident_store import IncidentStore, plain
from pipelines.lake_windows import LakeWindows
from pipelines.prediction_ingest import ingest_predictions
from pipelines.promotion import champion_of
from pipelines.sources.contract import SourceSpec
from pipelines.sources.registry import source_of
from pipelines.training import SERVICE

LEARNT_DAYS = 28  # four of each weekday are plenty


@dataclass(slots=True)
class Judged:
    """What the monitors said of a day."""

    day: str
    learnt: list[str]  # days
    ran: list[str]
    skipped: dict[str, str]
    findings: list[Finding]
    incidents: list[Incident]


@step("ingest predictions", retries=2)
def bring_in(home: Home) -> int:
    """Rows of the prediction log that are new in the lake."""
    return ingest_predictions(home).rows


@step("monitors")
def judge(home: Home, spec: SourceSpec, champion: Artefact | None) -> Judged:
    """The latest day, served if any was, against up to `LEARNT_DAYS` before it."""
    if champion is None:
        return Judged("", [], [], {"monitors": "there is no champion yet: make train"}, [], [])
    windows = LakeWindows(home, spec, champion)
    served, scored = windows.served_days(), windows.scored_days()
    days = sorted([*served, *scored])
    day = served[-1] if served else days[-1] if days else ""
    before = [each for each in days if each < day][-LEARNT_DAYS:]
    if not before:
        return Judged(day, [], [], {"monitors": "there is no day before the latest to learn from: ingest more days"}, [], [])
    monitor = Monitor(windows.columns)
    for earlier in before:
        for window in windows.day(earlier):
            monitor.warm_up(window)
    judged = Judged(day, before, [], {}, [], [])
    for window in windows.day(day):
        seen = monitor.observe(window)
        judged.ran = list(dict.fromkeys([*judged.ran, *seen.ran]))
        judged.findings += seen.findings
        judged.incidents += seen.opened
        judged.skipped |= seen.skipped
    judged.skipped = {check: why for check, why in judged.skipped.items() if check not in judged.ran}
    if not served:
        judged.skipped["replay"] = "nothing was served yet (make serve, then ask it): the champion scored the day in batch"
    return judged


@step("incidents")
def remember(home: Home, webhook_url: SecretStr, incidents: list[Incident]) -> int:
    """Incidents that the home does not know yet, numbered behind those it knows; somebody is told."""
    store = IncidentStore(home, webhook_url.get_secret_value())
    known = store.all()
    seen = {(each["opened_us"], each["class"], each["subject"]) for each in known.values()}
    found = [each.as_json() for each in incidents]
    new = [each for each in found if (each["opened_us"], each["class"], each["subject"]) not in seen]
    for number, each in enumerate(new, start=max(known, default=0) + 1):
        store.record([{**each, "number": number}], each["opened_us"])
    return len(new)


@step("report")
def report(home: Home, spec: SourceSpec, model: Artefact | None) -> str:
    """Evidently's report of the latest day."""
    return str(write_report(home, spec.entities, spec.context, SERVICE, model))


@flow(name="monitor")
def monitor(chosen: Settings) -> dict[str, Any]:
    """Every check on the latest day, and the report to look at."""
    home, spec = chosen.base(), source_of(chosen).spec
    rows, model = bring_in(home), champion_of(home)
    judged = judge(home, spec, model)
    new = remember(home, chosen.webhook_url, judged.incidents)
    path = report(home, spec, model)
    return {
        "new_predictions": rows,
        "day": judged.day,
        "learnt_days": len(judged.learnt),
        "incidents": plain([incident.as_json() for incident in judged.incidents]),
        "new_incidents": new,
        "checks_run": judged.ran,
        "skipped": judged.skipped,
        "findings": plain([finding.as_json() for finding in judged.findings]),
        "report": path,
    }
