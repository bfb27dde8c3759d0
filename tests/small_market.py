"""A few days of the simulated market, small enough to go through the whole pipeline in seconds.  Used by tests of seams."""

from features.spec import feature_spec
from infra.home import Home
from infra.lake import watermark_us
from models.contract import FeatureSpec
from models.registry import Registry
from models.train import train_family
from pipelines.ingest import ingest_all
from pipelines.materialize import materialize_all, materialize_online
from pipelines.sources.contract import Split
from pipelines.sources.world.config import WorldConfig
from pipelines.sources.world.source import WorldSource
from pipelines.training_set import Window, build, select, split_windows

SOURCE = WorldSource(WorldConfig("tiny", 1, 6, 1500, 300, 60, Split(1, 1, 1, 1, 1)))
SPEC = SOURCE.spec


def fill(home: Home) -> Home:
    """Land, ingest and materialise the market in a home."""
    SOURCE.deliver(home, progress=False)
    return bring_in(home)


def bring_in(home: Home) -> Home:
    """Ingest and materialise what landed in a home."""
    ingest_all(home, SPEC, progress=False)
    materialize_all(home, SPEC, progress=False)
    return home


def with_champion(home: Home, *others: str) -> Home:
    """The market in a home, with its features online and a logistic champion: what a server needs.  Models of other families
    are trained and recorded beside it."""
    fill(home)
    at_us = watermark_us(home)
    materialize_online(home, SPEC, at_us)
    windows = split_windows(SPEC)
    whole = Window(min(w.first_us for w in windows.values()), max(w.last_us for w in windows.values()))
    data = build(home, SPEC, whole, at_us, 24.0, "ctr_full").data
    parts = [select(data, windows[name]) for name in ("train", "valid", "calibrate")]
    names = feature_spec(SPEC.entities, SPEC.context)
    spec = FeatureSpec(names.categorical, names.numeric, names.sequence)
    registry = Registry.of(home)
    for family in (*others, "logistic"):
        artefact = train_family(family, *parts, spec, 1, service="ctr_full", entities=SPEC.entities).artefact
        name = artefact.save(home.artefacts)
        registry.record(name, name=family, at_us=at_us, params={}, metrics={}, tags={"family": family})
    registry.decide(name, "promote to champion", True, ["test"], at_us=at_us, alias="champion")
    return home
