"""How a simulated market runs: same seed, same events; two policies meet the same luck; it stops, comes back, and is fast."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from simulated_market import all_of, at_random, column, tiny

from infra.clock import DAY_US, HOUR_US
from infra.errors import ExplainedError
from pipelines.bench.world import GOAL, peak_mb, speed
from pipelines.sources.contract import Requests, Response, Slates
from pipelines.sources.history import simulate
from pipelines.sources.registry import source
from pipelines.sources.world.config import FIRST_DAY_US, WorldConfig
from pipelines.sources.world.legacy import EPSILON, LegacyRanker
from pipelines.sources.world.market import World
from pipelines.sources.world.truth import POSITION


def test_same_seed_same_events_and_another_seed_others() -> None:
    def first_day(seed: int) -> list[Response]:
        world = tiny(seed)
        return list(simulate(world, LegacyRanker.of(world), FIRST_DAY_US + DAY_US))

    one, same, other = first_day(1), first_day(1), first_day(2)
    for stream in ("requests", "impressions", "clicks", "truth"):
        assert all_of(one, stream).equals(all_of(same, stream))
        assert not all_of(one, stream).equals(all_of(other, stream))


def test_drawing_in_other_steps_gives_the_same_requests_and_truth() -> None:
    hourly, odd = tiny(), tiny()
    policy = LegacyRanker.of(hourly)
    whole = list(simulate(hourly, policy, FIRST_DAY_US + 2 * DAY_US))
    pieces: list[Response] = []
    for until_us in [*range(FIRST_DAY_US, FIRST_DAY_US + 2 * DAY_US, 2_512_345_678), FIRST_DAY_US + 2 * DAY_US]:
        pieces += simulate(odd, policy, until_us)
    assert all_of(whole, "impressions").equals(all_of(pieces, "impressions"))
    assert column(all_of(whole, "truth"), "p_true") == pytest.approx(column(all_of(pieces, "truth"), "p_true"), rel=1e-5)


def test_two_policies_meet_the_same_requests_and_luck() -> None:
    mine, theirs = tiny(), tiny()
    legacy = LegacyRanker.of(mine)
    asked: dict[str, dict[int, tuple[int, ...]]] = {"mine": {}, "theirs": {}}

    def noting(name: str, policy: Callable[[Requests], Slates]) -> Callable[[Requests], Slates]:
        def decide(requests: Requests) -> Slates:
            asked[name] |= dict(zip(requests.request_id.tolist(), map(tuple, requests.candidates.tolist()), strict=True))
            return policy(requests)

        return decide

    until_us = FIRST_DAY_US + 6 * DAY_US
    ours = list(simulate(mine, noting("mine", legacy), until_us))
    others = list(simulate(theirs, noting("theirs", at_random), until_us))
    common = asked["mine"].keys() & asked["theirs"].keys()
    assert 0.8 * len(asked["mine"]) < len(common) < len(asked["mine"]), "policies change who returns, a little"
    assert all(asked["mine"][request] == asked["theirs"][request] for request in common)

    def outcomes(answers: list[Response]) -> dict[tuple[int, int, int], tuple[bool, float]]:
        shown, clicked = all_of(answers, "impressions"), set(column(all_of(answers, "clicks"), "impression_id").tolist())
        keys = zip(*(column(shown, name).tolist() for name in ("request_id", "ad_id", "slot")), strict=True)
        ids, p = column(shown, "impression_id").tolist(), column(all_of(answers, "truth"), "p_true").tolist()
        return {key: (i in clicked, q) for key, i, q in zip(keys, ids, p, strict=True)}

    a, b = outcomes(ours), outcomes(others)
    both = [(a[key], b[key]) for key in a.keys() & b.keys()]
    assert len(both) > 500
    # One luck u for both: whoever clicks at the lower p must click at the higher one.
    for (click, p), (other_click, q) in both:
        assert not (click and not other_click and q >= p)
        assert not (other_click and not click and p >= q)


def test_the_first_day_is_the_same_for_every_policy() -> None:
    one, two = tiny(), tiny()
    a = list(simulate(one, LegacyRanker.of(one), FIRST_DAY_US + DAY_US))
    b = list(simulate(two, at_random, FIRST_DAY_US + DAY_US))
    assert all_of(a, "requests").equals(all_of(b, "requests"))


def test_propensities_are_those_of_the_policy_and_average_to_one_per_slot() -> None:
    world = tiny()
    legacy = LegacyRanker.of(world)
    greedy_rows = random_rows = 0
    for requests in world.requests(FIRST_DAY_US + 3 * DAY_US):
        slates = legacy(requests)
        k = requests.candidates.shape[1]
        greedy = replace(legacy, epsilon=0.0)(requests).shown
        # Each slot's propensities over all k candidates: 0.9 + 0.1/k for the greedy one, 0.1/k for the other k - 1.
        assert (1 - EPSILON) + EPSILON / k + (k - 1) * EPSILON / k == pytest.approx(1.0)
        expected = np.where(slates.shown == greedy, (1 - EPSILON) + EPSILON / k, EPSILON / k)
        assert slates.propensity == pytest.approx(expected, rel=1e-6)
        assert (slates.shown[~slates.randomised] == greedy[~slates.randomised]).all()
        assert (np.diff(np.sort(slates.shown, axis=1), axis=1) > 0).all()
        greedy_rows += int((~slates.randomised).sum())
        random_rows += int(slates.randomised.sum())
        world.respond(slates)
    assert 0.08 < random_rows / (greedy_rows + random_rows) < 0.12


def test_random_order_shows_every_candidate_equally_often() -> None:
    world = tiny()
    legacy = replace(LegacyRanker.of(world), epsilon=1.0)
    counts = np.zeros((4, 20))
    for requests in world.requests(FIRST_DAY_US + 4 * DAY_US):
        slates = legacy(requests)
        for slot in range(4):
            counts[slot] += np.bincount(slates.shown[:, slot], minlength=20)
        world.respond(slates)
    expected = counts.sum(axis=1, keepdims=True) / 20
    chi2 = ((counts - expected) ** 2 / expected).sum(axis=1)
    assert (chi2 < 43.8).all(), "19 degrees of freedom, one in a thousand"


def test_position_moves_the_logit_by_its_bias() -> None:
    """The same ads in reversed order, in the world's first hour, before anybody has seen anything: s doesn't change."""

    def reversed_order(requests: Requests) -> Slates:
        slates = at_random(requests)
        return replace(slates, shown=slates.shown[:, ::-1].copy())

    logits = []
    for policy in (at_random, reversed_order):
        world = tiny()
        answers = list(simulate(world, policy, FIRST_DAY_US + HOUR_US))
        p = column(all_of(answers, "truth"), "p_true").reshape(-1, 4)
        logits.append(np.log(p / (1 - p)) - POSITION[:4])
    assert logits[0] == pytest.approx(logits[1][:, ::-1], abs=1e-9)


def test_split_leaves_the_last_day_out() -> None:
    for size in ("tiny", "small", "large"):
        config = WorldConfig.of(size, 1)
        split = config.split
        assert split.features + split.train + split.valid + split.calibrate + split.test == config.days - 1


def test_unknown_context_values_have_no_effect_and_pass_through() -> None:
    def on_fridges(requests: Requests) -> Requests:
        return replace(requests, context=requests.context | {"device": np.full(len(requests), "fridge")})

    world = tiny()
    answers = list(simulate(world, LegacyRanker.of(world), FIRST_DAY_US + 6 * HOUR_US, on_fridges))
    assert set(column(all_of(answers, "impressions"), "device")) == {"fridge"}
    assert np.isfinite(column(all_of(answers, "truth"), "p_true")).all()


def test_empty_slots_are_not_impressions() -> None:
    def top_two(requests: Requests) -> Slates:
        slates = at_random(requests)
        slates.shown[:, 2:] = -1
        return slates

    answers = list(simulate(tiny(), top_two, FIRST_DAY_US + 6 * HOUR_US))
    assert set(column(all_of(answers, "impressions"), "slot")) == {0, 1}
    assert set(column(all_of(answers, "requests"), "n_shown")) <= {0, 2}


def test_a_chunk_must_be_answered_before_the_next() -> None:
    world = tiny()
    drawn = world.requests(FIRST_DAY_US + DAY_US)
    next(drawn)
    with pytest.raises(RuntimeError, match="call respond"):
        next(drawn)


def test_errors_name_the_way_out() -> None:
    with pytest.raises(ExplainedError, match="tiny, small and large"):
        WorldConfig.of("huge", 1)
    with pytest.raises(ExplainedError, match="world, open-bandit"):
        source("criteo", "tiny", 1, None)
    world = tiny()
    with pytest.raises(ValueError, match="planned for 134 days"):
        next(world.requests(FIRST_DAY_US + 200 * DAY_US))
    requests = next(world.requests(FIRST_DAY_US + DAY_US))
    with pytest.raises(ValueError, match="user_id 99999999 isn't in this world"):
        world.respond(at_random(replace(requests, user_id=np.full(len(requests), 99_999_999))))


def test_state_does_not_grow_with_the_days_and_restores() -> None:
    world = tiny()
    policy = LegacyRanker.of(world)
    list(simulate(world, policy, FIRST_DAY_US + DAY_US))
    early = world.state()
    list(simulate(world, policy, FIRST_DAY_US + 5 * DAY_US + 7 * HOUR_US))
    late = world.state()
    assert {k: v.nbytes for k, v in early.items()} == {k: v.nbytes for k, v in late.items()}
    again = tiny()
    again.restore(late)
    until_us = FIRST_DAY_US + 7 * DAY_US
    straight, taken_up = list(simulate(world, policy, until_us)), list(simulate(again, policy, until_us))
    for stream in ("requests", "impressions", "clicks", "truth"):
        assert all_of(straight, stream).equals(all_of(taken_up, stream))
    with pytest.raises(ValueError, match="can't be restored"):
        World(WorldConfig.of("small", 1)).restore(late)


def test_more_than_the_goal_of_impressions_a_cpu_second() -> None:
    """The goal is 100,000 with the logging policy; half of it here, because a shared machine may be slow for a moment."""
    figures = speed("small", 1, 1)
    assert figures["impressions_per_cpu_second"] > GOAL / 2
    assert 0 < figures["normalised_entropy_of_truth"] < 1


def test_landing_more_days_takes_no_more_memory() -> None:
    assert peak_mb("tiny", 6, 1) < 1.3 * peak_mb("tiny", 2, 1)
