"""Features as a flow: snapshots of every ingested day, Feast's registry, the online store."""

from prefect import flow

from infra.home import Home
from infra.lake import watermark_us
from infra.settings import Settings
from pipelines import materialize as features
from pipelines.flows.step import step
from pipelines.sources.contract import SourceSpec
from pipelines.sources.registry import source_of


@step("feature snapshots", retries=1)
def snapshots(home: Home, spec: SourceSpec) -> int:
    """Feature snapshots of the days that have none yet."""
    return len(features.materialize_all(home, spec))


@step("feature registry")
def registry(home: Home, spec: SourceSpec) -> None:
    """Feast's registry says what the catalogue says."""
    from features.feast_repo import apply

    apply(home, spec.entities)


@step("online store", retries=2)
def online(home: Home, spec: SourceSpec) -> dict[str, int]:
    """The newest row of every entity into the online store."""
    return features.materialize_online(home, spec, watermark_us(home))


@flow(name="materialize")
def materialize(chosen: Settings) -> dict[str, int]:
    """Snapshots, registry, online store; rows written online, by view."""
    spec, home = source_of(chosen).spec, chosen.base()
    snapshots(home, spec)
    registry(home, spec)
    return online(home, spec)
