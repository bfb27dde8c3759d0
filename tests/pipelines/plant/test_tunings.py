"""Two tunings of the world: the first is what it always was, the second is another market."""

import numpy as np
import pytest

from infra.clock import DAY_US, HOUR_US
from pipelines.sources.history import simulate
from pipelines.sources.world.config import WorldConfig
from pipelines.sources.world.legacy import LegacyRanker
from pipelines.sources.world.market import World
from pipelines.sources.world.tuning import BAZAAR, MARKET


@pytest.mark.parametrize(
    ("size", "seed", "identity"),
    [
        ("tiny", 1, "4da33c6dfcb4d35e"), ("tiny", 7, "781936b9e8c3b69f"), ("small", 1, "d900c4ef8f35db29"),
        ("small", 7, "788226f8ebd88666"), ("large", 1, "f271aa7f7c4d690c"), ("large", 7, "ade1d5de04c3618f"),
    ],
)  # fmt: skip
def test_worlds_of_the_first_tuning_keep_their_identity(size: str, seed: int, identity: str) -> None:
    """A home's history can go on only in the world that wrote it: these were recorded before there was a second tuning."""
    assert WorldConfig.of(size, seed).identity() == identity


def test_another_tuning_is_another_world() -> None:
    market, bazaar = WorldConfig.of("market", 1), WorldConfig.of("bazaar", 1)
    assert market.tuning == MARKET
    assert bazaar.tuning == BAZAAR
    assert len({market.identity(), bazaar.identity(), WorldConfig.of("bazaar", 2).identity()}) == 3


def test_the_bazaar_clicks_less_later_and_from_phones() -> None:
    seen = {}
    for size in ("market", "bazaar"):
        world = World(WorldConfig.of(size, 3))
        answers = list(simulate(world, LegacyRanker.of(world), world.config.first_day_us + DAY_US))
        shown = np.concatenate([answer.truth["p_true"].to_numpy() for answer in answers])
        devices = [device for answer in answers for device in answer.requests["device"].to_pylist()]
        late, clicks = 0, 0
        for answer in answers:
            at = dict(zip(answer.impressions["impression_id"].to_pylist(),
                          answer.impressions["event_timestamp"].cast("int64").to_pylist(), strict=True))  # fmt: skip
            for name, us in zip(answer.clicks["impression_id"].to_pylist(),
                                answer.clicks["event_timestamp"].cast("int64").to_pylist(), strict=True):  # fmt: skip
                clicks, late = clicks + 1, late + (us - at[name] > HOUR_US)
        seen[size] = (float(shown.mean()), devices.count("mobile") / len(devices), late / clicks)
    assert seen["bazaar"][0] < 0.8 * seen["market"][0]
    assert seen["bazaar"][1] > seen["market"][1] + 0.1
    assert seen["bazaar"][2] > seen["market"][2]


def test_days_of_the_bazaar_differ_by_luck_and_those_of_the_market_do_not() -> None:
    from pipelines.sources.world.calendar import visits_on

    week = np.arange(0, 28) * DAY_US + WorldConfig.of("bazaar", 1).first_day_us
    for tuning, varies in ((MARKET, False), (BAZAAR, True)):
        visits = np.array([visits_on(1, tuning, int(at)) for at in week]).reshape(4, 7)
        assert (np.ptp(visits[:, 0]) > 0.01) == varies
