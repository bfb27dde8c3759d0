"""Monitoring as a flow: the prediction log arrives, replay and distributions are checked, the report is drawn."""

from typing import Any

from prefect import flow

from features.sources import AsOfSource
from infra.home import Home
from infra.lake import Lake
from infra.settings import Settings
from models.artefact import Artefact, load
from monitoring import replay as replaying
from monitoring.daily import watch
from monitoring.findings import Checks
from monitoring.report import write_report
from pipelines.flows.step import step
from pipelines.prediction_ingest import ingest_predictions
from pipelines.promotion import champion_of
from pipelines.sources.contract import SourceSpec
from pipelines.sources.registry import source_of
from pipelines.training import SERVICE


@step("ingest predictions", retries=2)
def bring_in(home: Home) -> int:
    """Rows of the prediction log that are new in the lake."""
    return ingest_predictions(home).rows


@step("replay")
def replay(home: Home, spec: SourceSpec) -> Checks:
    """Logged features against history, logged predictions against the declared model, on a sample of what was served."""
    lake = Lake.of(home)
    if not lake.has("predictions"):
        checks = Checks()
        checks.skip("replay", "nothing was served yet: make serve, then ask it")
        return checks
    source = AsOfSource(home, spec.entities, spec.context, SERVICE)
    served = replaying.sample(lake.read("predictions"))
    return replaying.replay(served, source, spec.context, lambda name: load(home.artefacts, name))


@step("distributions")
def distributions(home: Home, spec: SourceSpec) -> Checks:
    """The latest day against those before it."""
    days = Lake.of(home).days("impressions")
    return watch(home, days[-1], spec.entities, spec.context, SERVICE)


@step("report")
def report(home: Home, spec: SourceSpec, model: Artefact | None) -> str:
    """Evidently's report of the latest day."""
    return str(write_report(home, spec.entities, spec.context, SERVICE, model))


@flow(name="monitor")
def monitor(chosen: Settings) -> dict[str, Any]:
    """Every check on the latest day, and the report to look at."""
    home, spec = chosen.base(), source_of(chosen).spec
    rows = bring_in(home)
    checks = replay(home, spec)
    checks.merge(distributions(home, spec))
    path = report(home, spec, champion_of(home))
    return {"new_predictions": rows, "report": path, **checks.as_json()}
