"""The experiment tier: silent on an even split of any size, and naming the arm that is short, or the users that wander."""

import copy
import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
import pyarrow as pa
import pytest

from features.ids import uniform
from infra.clock import DAY_US, HOUR_US
from monitoring.findings import Finding
from monitoring.tiers.experiment import ExperimentTier
from monitoring.tiers.known_users import KnownUsers
from monitoring.window import LogColumns, Window

START_US = 20_480 * DAY_US
PLAN = {"a": 0.5, "b": 0.5}
WARM = 7 * 24
Arms = Callable[[np.ndarray, np.ndarray], np.ndarray]


def planned(user: np.ndarray, _: np.ndarray) -> np.ndarray:
    return np.where(uniform(user, 7) < 0.5, "a", "b")


def hour(
    number: int, arms: Arms = planned, seed: int = 0, users: int = 3000, plan: Mapping[str, float] | None = PLAN
) -> Window:
    """80 requests of users of very different activity; a few new users every hour."""
    rng = np.random.default_rng((seed, number))
    user = (users * rng.beta(0.6, 2, 80)).astype(np.int64) + seed * 1_000_000
    user[:4] = 10**9 + seed * 10**8 + number * 4 + np.arange(4)
    rows = np.repeat(user, 3)
    start = START_US + number * HOUR_US
    log = pa.table({
        "id": [f"{number}.{i}" for i in range(len(rows))], "time": start + np.arange(len(rows)), "p": np.full(len(rows), 0.04),
        "user": rows, "arm": arms(rows, np.repeat(rng.random(80), 3)),
    })  # fmt: skip
    return Window(start, start + HOUR_US, log, plan=plan)


def warmed(plan: Mapping[str, float] | None = PLAN, seed: int = 0) -> ExperimentTier:
    tier = ExperimentTier(LogColumns((), ()))
    for number in range(WARM):
        assert tier.test(hour(number, seed=seed, plan=plan)) == []
        tier.learn()
    return tier


@pytest.fixture(scope="module")
def warm() -> ExperimentTier:
    return warmed()


def first(warm: ExperimentTier, arms: Arms, hours: int, plan: Mapping[str, float] | None = PLAN) -> tuple[int, Finding]:
    tier = copy.deepcopy(warm)
    for number in range(hours):
        found = tier.test(hour(WARM + number, arms, plan=plan))
        if found:
            return number, found[0]
        tier.learn()
    raise AssertionError("nothing was found")


@pytest.mark.parametrize("plan", [PLAN, None])
def test_a_split_as_planned_is_silent(plan: Mapping[str, float] | None) -> None:
    for seed in range(1, 3):
        tier = warmed(plan, seed)
        for number in range(WARM, WARM + 7 * 24):
            assert tier.test(hour(number, seed=seed, plan=plan)) == []
            tier.learn()
        assert {"sample ratio", "active users", "stickiness"} <= set(tier.ran())


def test_users_who_wander_between_arms_are_seen_at_once(warm: ExperimentTier) -> None:
    number, found = first(warm, lambda user, luck: np.where(luck < 0.1, "b", planned(user, luck)), 3)
    assert (found.symptom, found.subject, found.bug_class, found.tier) == (
        "not-sticky",
        "b",
        "sample-ratio-mismatch",
        "experiment",
    )
    assert number <= 1


def test_new_users_who_go_to_one_arm_are_a_wrong_ratio(warm: ExperimentTier) -> None:
    def arms(user: np.ndarray, luck: np.ndarray) -> np.ndarray:
        return np.where(user >= 10**9, "a", planned(user, luck))

    number, found = first(warm, arms, 24)
    assert (found.check, found.symptom, found.subject) == ("sample ratio", "ratio", "b")
    assert found.evidence["users"]["a"] > 2 * found.evidence["users"]["b"]
    assert number < 24


def test_an_arm_whose_requests_are_lost_is_short_of_active_users(warm: ExperimentTier) -> None:
    tier = copy.deepcopy(warm)
    found: list[Finding] = []
    for number in range(WARM, WARM + 24):
        window = hour(number)
        lost = (np.array(window.log["arm"].to_pylist()) == "b") & (np.arange(window.log.num_rows) // 3 % 4 > 0)
        found += tier.test(dataclasses.replace(window, log=window.log.filter(pa.array(~lost))))
    assert {(f.check, f.subject) for f in found} >= {("active users", "b")}


def test_an_arm_that_nobody_planned_is_named(warm: ExperimentTier) -> None:
    _, found = first(warm, lambda user, luck: np.where(user >= 10**9, "c", planned(user, luck)), 4)
    assert found.subject == "c"


def test_a_change_of_plan_is_no_fault_and_hides_none(warm: ExperimentTier) -> None:
    """A canary takes a tenth of the users: those move, as planned.  Later it takes more than it should."""
    plan = {"a": 0.45, "b": 0.45, "canary": 0.1}

    def with_canary(share: float) -> Arms:
        return lambda user, luck: np.where(uniform(user, 8) < share, "canary", planned(user, luck))

    tier = copy.deepcopy(warm)
    for number in range(WARM, WARM + 3 * 24):
        assert tier.test(hour(number, with_canary(0.1), plan=plan)) == []
        assert ("experiment" in tier.unable()) == (number == WARM)
        tier.learn()
    assert {"arms", "sample ratio", "stickiness"} <= set(tier.ran())
    found = tier.test(hour(WARM + 72, with_canary(0.2), plan=plan))
    assert found[0].symptom == "not-sticky"
    assert found[0].subject == "canary"


def test_without_a_plan_the_shares_are_learned() -> None:
    def uneven(user: np.ndarray, _: np.ndarray) -> np.ndarray:
        return np.where(uniform(user, 7) < 0.9, "a", "b")

    tier = ExperimentTier(LogColumns((), ()))
    for number in range(WARM):
        assert tier.test(hour(number, uneven, plan=None)) == []
        tier.learn()
    _, found = first(tier, lambda user, luck: np.where(user >= 10**9, "b", uneven(user, luck)), 24, plan=None)
    assert (found.symptom, found.bug_class) == ("ratio", "sample-ratio-mismatch")


def test_without_arms_or_users_it_says_what_it_cannot_judge() -> None:
    tier = ExperimentTier(LogColumns((), ()))
    window = hour(0)
    tier.test(dataclasses.replace(window, log=window.log.drop_columns(["arm"])))
    assert "experiment" in tier.unable()
    tier.test(dataclasses.replace(window, log=window.log.drop_columns(["user"])))
    assert "sample ratio" in tier.unable()


def test_known_users_keep_their_first_arm() -> None:
    known = KnownUsers()
    known.add(np.array([9, 3, 7], np.uint64), np.array([0, 1, 0]))
    known.add(np.array([5], np.uint64), np.array([1]))
    assert known.arms_of(np.array([3, 4, 5, 7, 9], np.uint64)).tolist() == [1, -1, 1, 0, 0]
