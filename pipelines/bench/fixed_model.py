"""The model that serving is measured with, the same every time: 300 trees of depth 6 on 40 features.  Used by
`pipelines.bench.serve`.

Trained on the home's own rows, on its real features and without early stopping, saved as an artefact like any other and made
champion of the branch that the benchmark works on: the server that is measured loads it by the code that it always runs.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from infra.clock import day_name
from infra.errors import ExplainedError
from infra.home import Home
from infra.lake import watermark_us
from infra.settings import Settings
from models.artefact import Artefact
from models.boosted_trees import LARGEST_VOCABULARY, BoostedTrees
from models.calibrate import fit_calibrator
from models.contract import Array, Dataset, FeatureSpec
from models.encode import Encoder
from models.position import learn_position
from models.registry import Registry
from pipelines.sources.contract import SourceSpec
from pipelines.training import SERVICE, assemble
from serving.rollout_store import crown

TREES, DEPTH, FEATURES = 300, 6, 40
ROWS = 100_000  # the latest training rows: enough for full trees, and trained in seconds
# Nothing stops a tree before its depth but rows that leave nothing to gain.
PARAMETERS: dict[str, Any] = {
    "objective": "binary:logistic",
    "tree_method": "hist",
    "max_depth": DEPTH,
    "eta": 0.05,
    "min_child_weight": 0,
    "lambda": 0.0,
    "max_bin": 128,
    "base_score": 0.5,
    "nthread": 1,
    "seed": 1,
}
# Categories in the order in which they are taken to fill up FEATURES; large vocabularies stay out, as in models.boosted_trees.
CATEGORIES = ("user_country", "ad_category", "device", "placement", "page_topic", "ad_format", "hour")


def promote(home: Home, source: SourceSpec, chosen: Settings) -> Artefact:
    """Train the fixed model on a home's training days, save it there and make it the home's champion.

    Raises ExplainedError where the source hasn't got 40 features."""
    parts = assemble(home, source, chosen)
    train = parts.train.take(np.arange(max(len(parts.train) - ROWS, 0), len(parts.train)))
    artefact = fitted(train, spec_of(parts.spec, train.columns), source.entities)
    at_us = watermark_us(home)
    name = artefact.save(home.artefacts)
    Registry.of(home).record(name, name="the benchmark's fixed model", at_us=at_us, params={}, metrics={}, tags={})
    crown(home, "clickproof bench serve", "serving is measured with the same model every time", name)
    return artefact


def spec_of(there: FeatureSpec, columns: Mapping[str, Array]) -> FeatureSpec:
    """All numbers and so many small categories that there are FEATURES inputs."""
    numeric = there.numeric[:FEATURES]
    small = [name for name in CATEGORIES if name in there.categorical and _values(columns[name]) < LARGEST_VOCABULARY]
    spec = FeatureSpec(tuple(small[: FEATURES - len(numeric)]), numeric)
    if len(spec.names) < FEATURES:
        raise ExplainedError(
            f"serving is measured with a model of {FEATURES} features and this source has {len(spec.names)}: "
            "run it on the simulated market (--source world)"
        )
    return spec


def _values(column: Array) -> int:
    return len(np.unique(column))


def fitted(train: Dataset, spec: FeatureSpec, entities: tuple[str, ...]) -> Artefact:
    """The fixed model of these rows; calibrated on them too, since nobody asks how good it is."""
    import xgboost

    encoder = Encoder.learn(train.columns, spec)
    position = learn_position(train, encoder)
    model = BoostedTrees(encoder)
    rate = float(train.label.mean())
    offset = position.offset(train.slot)
    model.base = float(np.log(rate / (1 - rate)) - offset.mean())
    (table,) = model.inputs(train.columns)
    rows = xgboost.DMatrix(table, train.label, base_margin=offset + np.float32(model.base), nthread=1)
    model.booster = xgboost.train(PARAMETERS, rows, num_boost_round=TREES)
    days = (day_name(int(train.time_us.min())), day_name(int(train.time_us.max())))
    calibrator = fit_calibrator(model.score(train.columns), train.label, offset)
    configuration = {**PARAMETERS, "rounds": TREES}
    return Artefact(model, position, calibrator, SERVICE, tuple(entities), days, 1, configuration)


def shape(artefact: Artefact) -> dict[str, Any]:
    """What the model turned out to be: trees, features, leaves a tree (2^depth where full) and the names of its inputs."""
    assert isinstance(artefact.model, BoostedTrees)
    assert artefact.model.booster is not None
    dump = artefact.model.booster.get_dump()
    return {
        "trees": len(dump),
        "depth": max(_depth(tree) for tree in dump),
        "leaves_a_tree": round(sum(tree.count("leaf=") for tree in dump) / len(dump), 1),
        "inputs": inputs(artefact),
        "hash": artefact.hash,
    }


def inputs(artefact: Artefact) -> list[str]:
    """Names of the columns that the trees read."""
    assert isinstance(artefact.model, BoostedTrees)
    spec = artefact.spec
    return [*spec.numeric, *(spec.categorical[i] for i in artefact.model.small)]


def _depth(tree: str) -> int:
    """Of one tree of XGBoost's text dump, where each level is a tab deeper."""
    return max(len(tabs) for tabs in re.findall(r"^(\t*)\d+:", tree, re.MULTILINE))
