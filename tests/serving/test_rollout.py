"""The rollout document: what it may say, how it may change, and who gets whom."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from msgspec.structs import replace

from serving.assignment import Assignment
from serving.rollout import (
    A_A,
    CANARY,
    Arm,
    Canary,
    Experiment,
    Rollout,
    RolloutError,
    Router,
    add_shadow,
    changes,
    decode,
    drop_shadow,
    encode,
    end_canary,
    end_experiment,
    plan,
    promote,
    rollback,
    start_canary,
    start_experiment,
)

ONE, TWO, THREE, FOUR, FIVE = (f"{number:016x}" for number in range(1, 6))
BEGIN = f'{{"number": 1, "champion": "{ONE}",'
CALM = Rollout(7, ONE)
A_B = Experiment("bolder", (Arm("control", None, 3.0), Arm("treatment", THREE, 1.0)))


def route(router: Router, user: int, request: int) -> tuple[str, str]:
    """The arm of a request, and who answers it."""
    arm = router.arm(user, request)
    return arm, router.artefacts[arm]


SHARES = st.floats(0.001, 0.5)
WEIGHTS = st.floats(0.01, 100)


@st.composite
def rollouts(draw: st.DrawFn) -> Rollout:
    champion, *rest = draw(st.permutations([ONE, TWO, THREE, FOUR, FIVE]))
    canary = Canary(rest[0], draw(SHARES), draw(st.integers(0, 2**60))) if draw(st.booleans()) else None
    names = draw(st.lists(st.from_regex(r"[a-z0-9][a-z0-9_.-]{0,8}", fullmatch=True), min_size=2, max_size=4, unique=True))
    assume(CANARY not in names)
    arms = tuple(Arm(name, draw(st.sampled_from([None, rest[1], rest[2]])), draw(WEIGHTS)) for name in names)
    experiment = draw(st.sampled_from([A_A, Experiment(draw(st.text(min_size=1)), arms)]))
    return Rollout(draw(st.integers(0, 2**40)), champion, tuple(rest[3:]) if draw(st.booleans()) else (), canary, experiment)


@given(rollouts())
def test_a_document_is_read_as_it_was_written(rollout: Rollout) -> None:
    assert decode(encode(rollout)) == rollout


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ('{"number": 1}', "champion"),
        ('{"number": 1, "champion": "latest"}', "champion is 'latest'"),
        ('{"number": 1, "champion": "../../etc/passwd"}', "sixteen hex digits"),
        (f'{{"number": "1", "champion": "{ONE}"}}', "number"),
        (f'{{"number": -1, "champion": "{ONE}"}}', "number is -1"),
        (f'{BEGIN} "shadow": []}}', "shadow"),
        (f'{BEGIN} "shadows": ["{ONE}"]}}', "one stage at a time"),
        (
            f'{{"number": 1, "champion": "{ONE}", "canary": {{"artefact": "{TWO}", "share": 0.9, "since_us": 1}}}}',
            "canary.share",
        ),
        (
            f'{{"number": 1, "champion": "{ONE}", "canary": {{"artefact": "{TWO}", "share": "x", "since_us": 1}}}}',
            "canary.share",
        ),
        (f'{BEGIN} "canary": {{"artefact": "{TWO}", "share": 0.1}}}}', "since_us"),
        (f'{BEGIN} "experiment": {{"salt": "s", "arms": [{{"name": "a"}}]}}}}', "experiment.arms"),
        (f'{BEGIN} "experiment": {{"salt": "s", "arms": [{{"name": "canary"}}]}}}}', "canary"),
        ("[1]", "object"),
        ("{", "truncated"),
        ("", "truncated"),
    ],
)
def test_a_document_that_makes_no_sense_is_refused_by_field(text: str, field: str) -> None:
    with pytest.raises(RolloutError, match=field.replace(".", r"\.")):
        decode(text.encode())


@pytest.mark.parametrize("share", [0.0, -0.1, 0.51, 1.0, float("nan"), float("inf")])
def test_a_canary_gets_a_share_between_nothing_and_half(share: float) -> None:
    with pytest.raises(RolloutError, match=r"canary\.share"):
        start_canary(CALM, TWO, share, 0)


@pytest.mark.parametrize(
    "arms",
    [
        (), (Arm("a"),), (Arm("a"), Arm("a", TWO)),
    ],
)  # fmt: skip
def test_an_experiment_has_two_arms_with_names_of_their_own(arms: tuple[Arm, ...]) -> None:
    with pytest.raises(RolloutError, match=r"experiment\.arms"):
        Experiment("s", arms)


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_an_arm_has_a_weight(weight: float) -> None:
    with pytest.raises(RolloutError, match="weight"):
        Arm("a", None, weight)


# Transitions


def test_a_model_moves_from_shadow_over_canary_and_test_to_champion() -> None:
    now = add_shadow(CALM, THREE)
    assert now.shadows == (THREE,)
    now = start_canary(now, THREE, 0.05, 99)
    assert (now.shadows, now.canary) == ((), Canary(THREE, 0.05, 99))
    now = start_canary(now, THREE, 0.2, 100)
    assert now.canary == Canary(THREE, 0.2, 99)  # since it began
    now = start_experiment(now, A_B)
    assert (now.canary, now.experiment) == (None, A_B)
    now = promote(now, THREE)
    assert now == replace(CALM, champion=THREE)
    assert rollback(now, ONE) == CALM


def test_a_promotion_ends_what_compared_with_the_old_champion() -> None:
    busy = start_canary(start_experiment(add_shadow(CALM, FOUR), A_B), TWO, 0.1, 0)
    for after in (promote(busy), promote(busy, TWO), rollback(busy, FIVE)):
        assert (after.canary, after.experiment, after.shadows) == (None, A_A, (FOUR,))
    assert promote(busy).champion == TWO
    assert promote(busy, FOUR).shadows == ()


def test_an_a_a_test_of_ones_own_goes_on() -> None:
    quiet = start_experiment(CALM, Experiment("wider", (Arm("a"), Arm("b"), Arm("c"))))
    assert promote(quiet, TWO).experiment == quiet.experiment
    assert end_experiment(quiet) == CALM


REFUSED = {
    "nobody to promote": lambda: promote(CALM),
    "the champion promoted": lambda: promote(CALM, ONE),
    "the champion rolled back to": lambda: rollback(CALM, ONE),
    "the champion as canary": lambda: start_canary(CALM, ONE, 0.1, 0),
    "a second canary": lambda: start_canary(start_canary(CALM, TWO, 0.1, 0), THREE, 0.1, 0),
    "the same share": lambda: start_canary(start_canary(CALM, TWO, 0.1, 0), TWO, 0.1, 0),
    "an arm as canary": lambda: start_canary(start_experiment(CALM, A_B), THREE, 0.1, 0),
    "no canary to end": lambda: end_canary(CALM),
    "the champion as shadow": lambda: add_shadow(CALM, ONE),
    "a shadow twice": lambda: add_shadow(add_shadow(CALM, TWO), TWO),
    "the canary as shadow": lambda: add_shadow(start_canary(CALM, TWO, 0.1, 0), TWO),
    "no such shadow": lambda: drop_shadow(add_shadow(CALM, TWO), THREE),
    "a second test": lambda: start_experiment(start_experiment(CALM, A_B), Experiment("b", (Arm("a"), Arm("b", TWO)))),
    "the salt again": lambda: start_experiment(CALM, Experiment(A_A.salt, (Arm("a"), Arm("b", TWO)))),
    "the champion as arm": lambda: start_experiment(CALM, Experiment("new", (Arm("a"), Arm("b", ONE)))),
    "no test to end": lambda: end_experiment(CALM),
    "no hash": lambda: add_shadow(CALM, "newest"),
}


@pytest.mark.parametrize("story", REFUSED)
def test_nonsense_is_refused_in_words(story: str) -> None:
    with pytest.raises(RolloutError) as refused:
        REFUSED[story]()
    assert len(str(refused.value)) > 40


def test_what_changed_is_said_in_words() -> None:
    said = changes(CALM, promote(start_canary(add_shadow(CALM, FOUR), TWO, 0.1, 0)))
    assert said == (f"champion {ONE} -> {TWO}", f"shadow {FOUR} added")
    assert changes(None, CALM) == (f"champion {ONE}",)
    began = start_canary(CALM, TWO, 0.1, 0)
    assert changes(CALM, began) == (f"canary {TWO} began with a share of 0.1",)
    assert changes(began, start_canary(began, TWO, 0.2, 0)) == (f"canary {TWO} share 0.1 -> 0.2",)
    assert changes(began, end_canary(began)) == (f"canary {TWO} ended",)


# Routing


@given(rollouts(), st.integers(0, 2**62), st.integers(0, 2**62), st.integers(0, 2**62))
def test_a_user_keeps_arm_and_model_whatever_the_request(rollout: Rollout, user: int, one: int, two: int) -> None:
    router = Router(rollout)
    arm, artefact = route(router, user, one)
    assert (arm, artefact) == route(router, user, two)
    if arm == CANARY:
        assert rollout.canary is not None
        assert artefact == rollout.canary.artefact
    else:
        assert artefact in {each.artefact or rollout.champion for each in rollout.experiment.arms if each.name == arm}
        weights = tuple(each.weight for each in rollout.experiment.arms)
        assert arm == Assignment(rollout.experiment.salt, tuple(e.name for e in rollout.experiment.arms), weights).arm(
            user, one
        )


@given(rollouts())
def test_the_plan_is_what_users_get(rollout: Rollout) -> None:
    planned, router = plan(rollout), Router(rollout)
    assert sum(planned.values()) == pytest.approx(1)
    n = 2000
    met = Counter(route(router, user, 0)[0] for user in range(n))
    assert set(met) <= set(planned)
    for arm, share in planned.items():
        assert abs(met[arm] / n - share) < 5 * np.sqrt(0.25 / n)


def test_raising_the_share_keeps_those_who_are_in() -> None:
    users = range(20_000)
    inside: list[set[int]] = []
    for share in (0.01, 0.05, 0.2, 0.5):
        router = Router(start_canary(CALM, TWO, share, 0))
        inside.append({user for user in users if route(router, user, 0) == (CANARY, TWO)})
        assert len(inside[-1]) == pytest.approx(share * len(users), rel=0.15)
    assert all(fewer < more for fewer, more in pairwise(inside))


def test_a_canary_takes_from_every_arm_alike_and_the_next_takes_others() -> None:
    before, users = Router(CALM), range(20_000)
    first, second = (Router(start_canary(CALM, artefact, 0.2, 0)) for artefact in (TWO, THREE))
    tried = {user for user in users if route(first, user, 0)[0] == CANARY}
    arms = Counter(route(before, user, 0)[0] for user in tried)
    assert arms["a"] / len(tried) == pytest.approx(0.5, abs=0.04)
    again = sum(route(second, user, 0)[0] == CANARY for user in tried) / len(tried)
    assert again == pytest.approx(0.2, abs=0.04)
    assert all(route(first, user, 0) == route(before, user, 0) for user in users if user not in tried)


def test_someone_unknown_is_routed_by_request() -> None:
    router = Router(start_canary(CALM, TWO, 0.5, 0))
    assert {route(router, -1, request)[0] for request in range(60)} == {"a", "b", CANARY}
    assert route(router, -1, 8) == route(router, -1, 8)


def test_the_test_between_experiments_is_an_a_a_test() -> None:
    assert plan(CALM) == {"a": 0.5, "b": 0.5}
    assert {route(Router(CALM), user, 0) for user in range(100)} == {("a", ONE), ("b", ONE)}
    assert CALM.artefacts == (ONE,)
    busy = add_shadow(start_canary(start_experiment(CALM, A_B), TWO, 0.1, 0), FOUR)
    assert busy.artefacts == (ONE, TWO, THREE, FOUR)
