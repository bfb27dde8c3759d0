"""What a simulated market delivers: tables as the contract has them, and numbers that look like a market's."""

import numpy as np
import pytest
from simulated_market import all_of, column, tiny
from sklearn.metrics import roc_auc_score

from features.schemas import ADS, CATEGORIES, CLICKS, IMPRESSIONS, REQUESTS, USERS
from infra.clock import DAY_US, HOUR_US
from pipelines.sources.contract import Response
from pipelines.sources.history import simulate
from pipelines.sources.registry import source
from pipelines.sources.world.arrivals import PLACEMENTS
from pipelines.sources.world.config import FIRST_DAY_US, WorldConfig
from pipelines.sources.world.legacy import LegacyRanker
from pipelines.sources.world.market import World
from pipelines.sources.world.population import DEVICES


@pytest.fixture(scope="module")
def days() -> tuple[World, list[Response]]:
    """Three days of the default size under the legacy ranker."""
    world = World(WorldConfig.of("small", 1))
    return world, list(simulate(world, LegacyRanker.of(world), FIRST_DAY_US + 3 * DAY_US))


def test_tables_have_the_contract_schemas(days: tuple[World, list[Response]]) -> None:
    world, answers = days
    assert all_of(answers, "requests").schema == REQUESTS
    assert all_of(answers, "clicks").schema == CLICKS
    shown = all_of(answers, "impressions")
    assert list(shown.schema)[: len(IMPRESSIONS)] == list(IMPRESSIONS)
    spec = source("world", "small", 1, None).spec
    assert tuple(shown.column_names[len(IMPRESSIONS) :]) == spec.context == ("device", "placement", "page_topic")
    assert world.users().schema == USERS
    assert world.ads().schema == ADS
    for table in (shown, world.users(), world.ads()):
        for field in table.schema:
            assert field.nullable or table[field.name].null_count == 0


def test_ids_are_unique_and_refer(days: tuple[World, list[Response]]) -> None:
    world, answers = days
    requests, shown, clicks = (all_of(answers, name) for name in ("requests", "impressions", "clicks"))
    for table, key in ((requests, "request_id"), (shown, "impression_id"), (clicks, "click_id")):
        assert len(np.unique(column(table, key))) == table.num_rows
        assert column(table, key).min() >= 0
    assert np.isin(column(shown, "request_id"), column(requests, "request_id")).all()
    assert np.isin(column(clicks, "impression_id"), column(shown, "impression_id")).all()
    assert np.isin(column(shown, "user_id"), column(world.users(), "user_id")).all()
    assert np.isin(column(shown, "ad_id"), column(world.ads(), "ad_id")).all()
    assert (column(all_of(answers, "truth"), "impression_id") == column(shown, "impression_id")).all()


def test_n_shown_counts_the_impressions_and_some_requests_have_none(days: tuple[World, list[Response]]) -> None:
    _, answers = days
    requests, shown = all_of(answers, "requests"), all_of(answers, "impressions")
    per_request = dict(zip(*np.unique(column(shown, "request_id"), return_counts=True), strict=True))
    n_shown = column(requests, "n_shown")
    assert [per_request.get(i, 0) for i in column(requests, "request_id")] == n_shown.tolist()
    assert set(np.unique(n_shown)) == {0, 4}
    assert 0.01 < (n_shown == 0).mean() < 0.03


def test_only_running_ads_of_signed_up_users_are_shown(days: tuple[World, list[Response]]) -> None:
    world, answers = days
    shown = all_of(answers, "impressions")
    at, ad, user = (column(shown, name) for name in ("event_timestamp", "ad_id", "user_id"))
    assert (world.inventory.created_us[ad - 1] <= at).all()
    # Retrieval looks once an hour, so an ad may outlive its campaign by less than that.
    assert (at < world.inventory.end_us[ad - 1] + HOUR_US).all()
    assert (world.population.signup_us[user - 1] < at).all()
    assert set(column(shown, "device")) == set(DEVICES)
    assert set(column(shown, "placement")) == set(PLACEMENTS)
    assert set(column(shown, "page_topic")) == set(range(CATEGORIES))


def test_candidates_are_different_ads_in_time_order() -> None:
    world = tiny()
    policy = LegacyRanker.of(world)
    last_us = FIRST_DAY_US
    for requests in world.requests(FIRST_DAY_US + DAY_US):
        assert requests.candidates.shape == (len(requests), 20)
        assert (np.diff(np.sort(requests.candidates, axis=1), axis=1) > 0).all()
        assert requests.time_us[0] >= last_us
        assert (np.diff(requests.time_us) >= 0).all()
        assert requests.time_us[-1] - requests.time_us[0] <= HOUR_US
        assert (requests.bids > 0).all()
        last_us = requests.time_us[-1]
        world.respond(policy(requests))


def test_click_rate_and_the_auc_of_truth_lie_in_their_bands(days: tuple[World, list[Response]]) -> None:
    _, answers = days
    p = column(all_of(answers, "truth"), "p_true")
    label = np.isin(column(all_of(answers, "impressions"), "impression_id"), column(all_of(answers, "clicks"), "impression_id"))
    assert 0.035 < label.mean() < 0.05
    # The truth is calibrated: clicks are p, up to chance.
    assert abs(label.sum() - p.sum()) < 4 * np.sqrt((p * (1 - p)).sum())
    assert 0.78 < roc_auc_score(label, p) < 0.85


@pytest.mark.parametrize("seed", [3, 4])
def test_every_seed_of_the_tiny_size_has_a_sane_click_rate(seed: int) -> None:
    world = tiny(seed)
    answers = list(simulate(world, LegacyRanker.of(world), FIRST_DAY_US + 5 * DAY_US))
    rate = all_of(answers, "clicks").num_rows / all_of(answers, "impressions").num_rows
    assert 0.02 < rate < 0.06
    assert 2_500 < all_of(answers, "impressions").num_rows / 5 < 6_000


def test_two_percent_of_clicks_come_after_a_day(days: tuple[World, list[Response]]) -> None:
    _, answers = days
    shown, clicks = all_of(answers, "impressions"), all_of(answers, "clicks")
    at = dict(zip(column(shown, "impression_id").tolist(), column(shown, "event_timestamp").tolist(), strict=True))
    delay = column(clicks, "event_timestamp") - np.array([at[i] for i in column(clicks, "impression_id").tolist()])
    assert (delay > 0).all()
    assert 0.012 < (delay > DAY_US).mean() < 0.028
    assert np.median(delay) < 60_000_000


def test_arrival_is_seconds_late_and_sometimes_hours(days: tuple[World, list[Response]]) -> None:
    _, answers = days
    shown = all_of(answers, "impressions")
    late = column(shown, "arrived_at") - column(shown, "event_timestamp")
    assert (late > 0).all()
    assert 0.9 < (late < 30_000_000).mean() < 0.97
    assert 0.001 < (late > HOUR_US).mean() < 0.01


def test_bots_click_whatever_they_see(days: tuple[World, list[Response]]) -> None:
    world, answers = days
    bot = world.population.bot[column(all_of(answers, "impressions"), "user_id") - 1]
    p = column(all_of(answers, "truth"), "p_true")
    slot = column(all_of(answers, "impressions"), "slot")
    assert 0.002 < bot.mean() < 0.03
    assert len(np.unique(p[bot & (slot == 0)])) == 1
    assert p[bot].mean() > 3 * p[~bot].mean()


def test_truth_has_interactions_that_no_sum_of_main_effects_explains(days: tuple[World, list[Response]]) -> None:
    """The latent product, price and the triple of device, placement and format: what interaction models are there to find."""
    world, answers = days
    shown = all_of(answers, "impressions")
    user, ad = column(shown, "user_id") - 1, column(shown, "ad_id") - 1
    interest = world._truth.interest(user, ad)
    people, ads = np.bincount(user, interest) / np.maximum(np.bincount(user), 1), np.bincount(ad, interest)
    main = people[user] + (ads / np.maximum(np.bincount(ad), 1))[ad]
    assert interest.std() > 0.4
    assert np.corrcoef(main, interest)[0, 1] ** 2 < 0.7
    table = world._truth._effects.format[:-1, :-1]
    additive = table.mean((1, 2))[:, None, None] + table.mean((0, 2))[:, None] + table.mean((0, 1)) - 2 * table.mean()
    assert (table - additive).std() > 0.2


def test_sizes_of_entities_and_their_arrival() -> None:
    world = tiny()
    users, ads = world.users(), world.ads()
    assert 580 <= users.num_rows <= 620
    assert 90 <= ads.num_rows <= 150
    for table in (users, ads):
        created, arrived = column(table, "event_timestamp"), column(table, "arrived_at")
        old = created < FIRST_DAY_US
        assert 0.5 < old.mean() < 0.95
        assert (arrived[old] == FIRST_DAY_US).all()
        assert (arrived[~old] > created[~old]).all()
        assert (np.diff(arrived) >= 0).all()
    assert users.num_rows < world.users(world.config.end_us + 5 * DAY_US).num_rows
