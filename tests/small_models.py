"""A few days of the simulated market with models trained on them, the first of them champion.  For tests of rollouts."""

import small_market
from small_market import SOURCE, SPEC

from infra.home import Home
from infra.lake import watermark_us
from infra.settings import Settings
from models.registry import Registry
from pipelines import training
from pipelines.materialize import materialize_online
from serving.rollout_store import crown

FAMILIES = ("logistic", "xgboost", "dcnv2")

__all__ = ["FAMILIES", "SOURCE", "SPEC", "fill"]


def fill(home: Home) -> dict[str, str]:
    """Land, ingest and materialise the market, train and record every family; hashes by family.  Logistic is champion."""
    small_market.fill(home)
    now_us = watermark_us(home)
    materialize_online(home, SPEC, now_us)
    parts = training.assemble(home, SPEC, Settings())
    hashes: dict[str, str] = {}
    first = None
    for family in FAMILIES:
        trained = training.fit(family, parts, SPEC, 1, first).artefact
        first = first or trained
        hashes[family] = trained.save(home.artefacts)
        Registry.of(home).record(hashes[family], name=family, at_us=now_us, params={}, metrics={}, tags={})
    crown(home, "test", "the first one", hashes["logistic"])
    return hashes
