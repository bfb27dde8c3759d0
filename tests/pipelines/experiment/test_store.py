"""The feature store in memory says what the as-of join says over the same days, landed, ingested and materialised."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import small_market

from features.requests import from_impressions
from features.sources import AsOfSource
from infra.clock import DAY_US
from infra.home import Home
from pipelines.experiment.store import Store
from pipelines.sources.world.legacy import LegacyRanker
from pipelines.training import SERVICE
from serving.scorer import fetch

DAYS = 3


def test_features_in_memory_are_those_of_history(tmp_path: Path) -> None:
    home = small_market.fill(Home(tmp_path / "home"))
    source, spec = small_market.SOURCE, small_market.SPEC
    world = source.resume(home)
    policy = LegacyRanker.of(world)
    until_us = world.now_us + DAYS * DAY_US
    store = Store(home, world, spec.entities, spec.context, SERVICE)
    shown, columns = [], []
    for moment in [*store.moments(until_us), until_us]:
        for asked in world.requests(moment):
            response = world.respond(policy(asked))
            if len(response.impressions):
                columns.append(dict(fetch(store, from_impressions(response.impressions, spec.context)).columns))
                shown.append(response.impressions)
            store.happened(response)
        if moment < until_us:
            store.advance(moment)

    source.extend(home, policy, until_us, progress=False)
    small_market.bring_in(home)
    impressions = pa.concat_tables(shown)
    assert len(impressions) > 3000
    then = fetch(AsOfSource(home, spec.entities, spec.context, SERVICE), from_impressions(impressions, spec.context)).columns
    assert set(then) == set(columns[0])
    for name, expected in then.items():
        found = np.concatenate([part[name] for part in columns])
        if expected.dtype.kind == "f":  # a tick at a time rounds to single precision more often than a day at once
            np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-6, err_msg=name)
        else:
            np.testing.assert_array_equal(found, expected, err_msg=name)
    fresh = np.concatenate([part["user_impressions_1h"] for part in columns])
    assert (fresh > 1).mean() > 0.1  # what was shown minutes ago counts
