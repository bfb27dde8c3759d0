"""The feature store in memory says what the as-of join says over the same days, landed, ingested and materialised."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import small_market

from features.requests import from_impressions
from features.schemas import CLICKS, TIME
from features.sources import AsOfSource
from infra.clock import DAY_US, SECOND_US
from infra.home import Home
from pipelines.experiment.store import Rows, Store
from pipelines.sources.contract import Response
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


def test_a_profile_is_known_from_the_moment_it_arrives() -> None:
    rows = Rows(np.array([3, 7]), {"user_age": np.array([30.0, 40.0, np.nan])}, np.array([100, 200]))
    assert rows.find(np.array([3, 3, 7, 7, 5]), np.array([99, 100, 199, 200, 500])).tolist() == [2, 0, 2, 1, 2]


def test_a_click_that_comes_days_after_its_impression_is_lost_to_features(tmp_path: Path) -> None:
    """As when a day is materialised: its impression is looked up in three days of arrivals."""
    home = small_market.fill(Home(tmp_path / "home"))
    world = small_market.SOURCE.resume(home)
    start_us, spec = world.now_us, small_market.SPEC
    shown = next(world.requests(start_us + DAY_US))
    response = world.respond(LegacyRanker.of(world)(shown))
    _, first = np.unique(response.impressions["user_id"].to_numpy(), return_index=True)
    impressions = response.impressions.take(pa.array(first[:2]))
    arrives = pa.array([start_us + DAY_US, start_us + 4 * DAY_US]).cast(TIME)
    clicks = pa.table([[1, 2], impressions["impression_id"], impressions["event_timestamp"], arrives], schema=CLICKS)
    store = Store(home, world, spec.entities, spec.context, SERVICE)
    store.happened(Response(response.requests, impressions, clicks, response.truth))
    last = start_us + 5 * DAY_US
    for moment in store.moments(last):
        store.advance(moment)
    then = impressions.set_column(2, "event_timestamp", pa.array([last, last]).cast(TIME))
    found = fetch(store, from_impressions(then, spec.context)).columns["seconds_since_click"]
    ago = (last - impressions["event_timestamp"].cast(pa.int64()).to_numpy()) / SECOND_US
    assert found[0] == pytest.approx(np.log1p(ago[0]), rel=1e-5)
    assert found[1] != pytest.approx(np.log1p(ago[1]), rel=1e-5)
