"""Ingestion as a flow: events land, pass the contract, and enter the lake; the prediction log follows."""

from prefect import flow

from infra.home import Home
from infra.settings import Settings
from pipelines import ingest as ingestion
from pipelines.console import say
from pipelines.event_ingest import LandedClicks, land_clicks
from pipelines.flows.step import step
from pipelines.prediction_ingest import PredictionCounts, ingest_predictions
from pipelines.reconciliation import Totals, as_text, refusals, totals
from pipelines.shadow_ingest import ingest_shadows
from pipelines.sources.contract import Source
from pipelines.sources.registry import source_of


@step("deliver events")
def deliver(source: Source, home: Home) -> dict[str, int]:
    """Make the source's files land; files that are there already stay."""
    return source.deliver(home)


@step("land clicks", retries=2)
def land(home: Home) -> LandedClicks:
    """Clicks that the endpoint took into landed files, exactly once."""
    return land_clicks(home)


@step("ingest events", retries=2)
def bring_in(source: Source, home: Home) -> dict[str, Totals]:
    """Landed files through the contract into the lake."""
    return totals(ingestion.ingest_all(home, source.spec))


@step("ingest predictions", retries=2)
def bring_in_predictions(home: Home) -> PredictionCounts:
    """The prediction log and what shadows scored into the lake, exactly once."""
    counts = ingest_predictions(home)
    ingest_shadows(home)
    return counts


@flow(name="ingest")
def ingest(chosen: Settings) -> dict[str, Totals]:
    """Events and predictions into the lake; rows in and what became of them, by stream."""
    source, home = source_of(chosen), chosen.base()
    deliver(source, home)
    land(home)
    counts = bring_in(source, home)
    bring_in_predictions(home)
    say("\n".join([as_text(counts), *(f"refused: {reason}" for reason in refusals(home))]))
    return counts
