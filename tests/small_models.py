"""A few days of the simulated market with models trained on them, the first of them champion.  For tests of rollouts."""

from collections.abc import Mapping
from typing import NamedTuple

import small_market
from small_market import SOURCE, SPEC

from infra.home import Home
from infra.lake import watermark_us
from infra.settings import Settings
from models.artefact import load
from models.registry import Registry
from pipelines import training
from pipelines.materialize import materialize_online
from serving.rollout_store import crown


class EveryFamily(NamedTuple):
    """A home with a model of every family."""

    home: Home
    hashes: Mapping[str, str]  # by family


FAMILIES = ("logistic", "xgboost", "dcnv2")
CONTEXT = {"device": "mobile", "placement": "feed_top", "page_topic": 3}  # of a request

__all__ = ["CONTEXT", "FAMILIES", "SOURCE", "SPEC", "EveryFamily", "fill", "hashes"]


def hashes(home: Home) -> dict[str, str]:
    """The models of a home by family."""
    found = [load(home.artefacts, version.hash) for version in Registry.of(home).versions()]
    return {artefact.family: artefact.hash for artefact in found}


def fill(home: Home) -> dict[str, str]:
    """Land, ingest and materialise the market, train and record every family; hashes by family.  Logistic is champion."""
    small_market.fill(home)
    now_us = watermark_us(home)
    materialize_online(home, SPEC, now_us)
    parts = training.assemble(home, SPEC, Settings())
    found: dict[str, str] = {}
    first = None
    for family in FAMILIES:
        trained = training.fit(family, parts, SPEC, 1, first).artefact
        first = first or trained
        found[family] = trained.save(home.artefacts)
        Registry.of(home).record(found[family], name=family, at_us=now_us, params={}, metrics={}, tags={})
    crown(home, "test", "the first one", found["logistic"])
    return found
