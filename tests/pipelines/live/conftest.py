"""The control room's parts on a small market: a home with a champion, and a branch of it whose world goes on."""

from collections.abc import Iterator

import pytest
from small_market import SOURCE, SPEC, fill

from features.spec import feature_spec
from infra import branch
from infra.home import Home
from infra.lake import watermark_us
from infra.settings import Settings
from models.contract import FeatureSpec
from models.registry import Registry
from models.train import train_family
from pipelines.materialize import materialize_online
from pipelines.training_set import Window, build, select, split_windows


@pytest.fixture(scope="package")
def served(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A market with its features online and a logistic champion.  Not to be written: work on a branch."""
    home = fill(Home(tmp_path_factory.mktemp("room")))
    at_us = watermark_us(home)
    materialize_online(home, SPEC, at_us)
    windows = split_windows(SPEC)
    whole = Window(min(w.first_us for w in windows.values()), max(w.last_us for w in windows.values()))
    data = build(home, SPEC, whole, at_us, 24.0, "ctr_full").data
    parts = [select(data, windows[name]) for name in ("train", "valid", "calibrate")]
    names = feature_spec(SPEC.entities, SPEC.context)
    spec = FeatureSpec(names.categorical, names.numeric, names.sequence)
    name = train_family("logistic", *parts, spec, 1, service="ctr_full", entities=SPEC.entities).artefact.save(home.artefacts)
    registry = Registry.of(home)
    registry.record(name, name="first", at_us=at_us, params={}, metrics={}, tags={})
    registry.decide(name, "promote to champion", True, ["test"], at_us=at_us, alias="champion")
    return Home(home.root, writable=False)


@pytest.fixture
def work(served: Home, request: pytest.FixtureRequest) -> Iterator[Home]:
    """A branch to go on in."""
    made = branch.create(served, "live")
    yield made
    branch.drop(made)


@pytest.fixture(scope="package")
def chosen(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings that no drill's home is the base of."""
    return Settings(home=tmp_path_factory.mktemp("chosen"), size="tiny", epsilon=0.2)


@pytest.fixture(scope="session")
def source():
    """The small market."""
    return SOURCE
