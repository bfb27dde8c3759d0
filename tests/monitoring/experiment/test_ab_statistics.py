"""Rates by arm with the variance of users, intervals to look at daily, power: against brute force, and for real."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from many_tests import users
from scipy import stats

from monitoring.experiment.before import adjusted, known
from monitoring.experiment.power import plan
from monitoring.experiment.ratios import Rate, Sums, difference, lift, rate
from monitoring.experiment.readout import Reading, false_calls, ratio_evidence, read, wrong_ratio
from monitoring.experiment.sequential import ALPHA, FIXED, tightest, width
from monitoring.experiment.user_days import METRICS, UserDays, user_days
from monitoring.sample_ratio import log10_evidence

LOOKS = 20


def reading(days: UserDays, arm: np.ndarray, metric: str = "ctr") -> Reading:
    x, y = METRICS[metric](days)
    return read(Sums.of(x, y, arm[None] == 0), Sums.of(x, y, arm[None] == 1))


# -- what users did


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 3), st.integers(0, 3), st.booleans()), min_size=1, max_size=40))
def test_users_days_are_counts_by_user_and_day(log: list[tuple[int, int, int, bool]]) -> None:
    """(user, day, ads shown, whether the first of them was clicked) of each request."""
    shown = [(user + 100, day, clicked and not n) for user, day, ads, clicked in log for n in range(ads)]
    asked = np.array([(user + 100, day) for user, day, _, _ in log]).T
    shown_user, shown_day, clicked = np.array(shown or np.zeros((0, 3)), np.int64).T
    found = user_days(4, asked[0], asked[1], shown_user, shown_day, clicked)
    assert found.user.tolist() == sorted(set(asked[0].tolist()))
    for row, user in enumerate(found.user.tolist()):
        for day in range(4):
            mine = [(ads, c) for u, d, ads, c in log if (u + 100, d) == (user, day)]
            assert found.requests[row, day] == len(mine)
            assert found.impressions[row, day] == sum(ads for ads, _ in mine)
            assert found.clicks[row, day] == sum(c and ads > 0 for ads, c in mine)


def test_what_is_shown_to_somebody_who_never_asked_is_left_out() -> None:
    found = user_days(2, np.array([5]), np.array([0]), np.array([3, 5, 9]), np.array([0, 0, 1]), np.array([1.0, 0.5, 1.0]))
    assert (found.user.tolist(), found.impressions.tolist(), found.clicks.tolist()) == ([5], [[1, 0]], [[0.5, 0]])


def test_metrics_are_those_of_a_user_at_a_time() -> None:
    days, _ = users(60, 5, seed=1)
    for look in range(5):
        for row in range(60):
            asked = days.requests[row].astype(int).tolist()
            first = next((d for d in range(look + 1) if asked[d]), None)
            there = [d for d in range(look + 1) if asked[d]]
            expected = {
                "ctr": (sum(days.clicks[row, : look + 1]), 4 * sum(asked[: look + 1])),
                "engagement": (sum(asked[: look + 1]), 0 if first is None else look + 1 - first),
                "next-day return": (sum(asked[d + 1] > 0 for d in there), len(there)),
            }
            for name, totals in METRICS.items():
                assert tuple(float(each[row, look]) for each in totals(days)) == expected[name], (name, row, look)


# -- rates, differences, lifts


def test_the_error_of_a_rate_is_that_of_drawing_users_again() -> None:
    days, _ = users(1500, LOOKS, seed=2)
    rng = np.random.default_rng(3)
    for name, totals in METRICS.items():
        x, y = (each[:, -1] for each in totals(days))
        drawn = rng.multinomial(len(x), np.full(len(x), 1 / len(x)), size=2000)
        again = (drawn @ x) / (drawn @ y)
        found = rate(Sums.of(x[:, None], y[:, None], np.ones((1, len(x)))))
        assert found.value[0, 0] == pytest.approx(x.sum() / y.sum())
        assert found.error[0, 0] == pytest.approx(again.std(), rel=0.08), name


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.integers(3, 30))
def test_the_error_of_a_rate_is_nearly_the_jackknifes(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    y = rng.integers(1, 4, n).astype(float)
    x = rng.poisson(0.8 * y).astype(float)
    found = rate(Sums.of(x[:, None], y[:, None], np.ones((1, n))))
    centred = x - x.sum() / y.sum() * y
    assert found.error[0, 0] == pytest.approx(math.sqrt(n / (n - 1) * sum(centred**2)) / y.sum())
    without = np.array([(x.sum() - x[u]) / (y.sum() - y[u]) for u in range(n)])
    jackknife = math.sqrt((n - 1) / n * ((without - without.mean()) ** 2).sum())
    assert found.error[0, 0] == pytest.approx(jackknife, rel=4 * y.max() / y.sum(), abs=1e-9)


def test_impressions_are_not_the_unit() -> None:
    days, arm = users(1500, LOOKS, seed=4)
    found = reading(days, arm)
    p, n = found.a.value[0, -1], found.a.weight[0, -1]
    assert found.a.error[0, -1] > 1.5 * math.sqrt(p * (1 - p) / n)


def test_groups_are_read_as_each_alone_and_the_rest_is_the_difference() -> None:
    days, _ = users(80, 4, seed=5)
    x, y = METRICS["ctr"](days)
    groups = np.random.default_rng(6).random((3, 80)) < 0.4
    together, everybody = Sums.of(x, y, groups), Sums.of(x, y, np.ones((1, 80)))
    rest = everybody.without(together)
    for g in range(3):
        for sums, inside in ((together, groups[g]), (rest, ~groups[g])):
            alone = Sums.of(x[inside], y[inside], np.ones((1, inside.sum())))
            for name in Sums.__slots__:
                assert getattr(sums, name)[g] == pytest.approx(getattr(alone, name)[0])


@settings(max_examples=200)
@given(st.floats(0.001, 2), st.floats(0.001, 2), st.floats(0.001, 1), st.floats(0.001, 1), st.floats(0.5, 4))
def test_a_lift_is_inside_where_the_arms_could_differ_by_it(a: float, b: float, of_a: float, of_b: float, wide: float) -> None:
    arms = [Rate(*(np.array([[v]]) for v in (value, error, 1.0))) for value, error in ((a, of_a), (b, of_b))]
    value, low, high = (float(each[0, 0]) for each in lift(*arms, np.array([[wide]])))
    assert value == pytest.approx(b / a - 1)
    for tried in [*np.linspace(-0.99, 5, 60), 50.0, 1e4]:
        apart = abs(b - (1 + tried) * a) / math.hypot(of_b, (1 + tried) * of_a)
        if abs(apart - wide) > 1e-6:
            assert (low < tried < high) == (apart < wide), tried
    apart = difference(*arms)
    if abs(abs(apart.value[0, 0]) - wide * apart.error[0, 0]) > 1e-6:
        assert (low < 0 < high) == bool(abs(apart.value[0, 0]) < wide * apart.error[0, 0])


# -- looking every day


def test_the_width_is_the_published_one_and_tightest_where_planned() -> None:
    t = np.arange(1.0, 500.0)
    rho2 = tightest(0.05) / 100.0
    published = np.sqrt(2 * (t * rho2 + 1) / (t**2 * rho2) * np.log(np.sqrt(t * rho2 + 1) / 0.05))
    ours = width(t, np.array(100.0), 0.05) / np.sqrt(t)
    assert ours == pytest.approx(published)
    assert t[np.argmin(width(t, np.array(100.0), 0.05))] == 100.0


@pytest.mark.parametrize("once", [False, True])
def test_looking_every_day_costs_the_sequential_interval_nothing_and_the_other_its_promise(once: bool) -> None:
    """A/A tests: users with habits (many days each), and users who come once."""
    tests = 500
    calls: dict[str, list[bool]] = {"sequential": [], "daily": [], "once": []}
    for seed in range(tests):
        found = reading(*users(4000 if once else 800, LOOKS, seed, once=once))
        fixed = found.called(FIXED)[0]
        calls["sequential"].append(found.called(found.width)[0].any())
        calls["daily"].append(fixed.any())
        calls["once"].append(fixed[-1])
    at_most = stats.binom.ppf(0.999, tests, ALPHA) / tests  # 8%
    assert np.mean(calls["sequential"]) < ALPHA
    assert np.mean(calls["once"]) < at_most
    assert np.mean(calls["daily"]) > 2 * ALPHA > at_most  # which is why it may not be looked at every day


def test_a_true_lift_is_inside_on_every_evening() -> None:
    tests, true = 300, 0.3
    missed, fixed_missed, called = 0, 0, 0
    for seed in range(tests):
        found = reading(*users(1500, LOOKS, seed, lift=true))
        _, low, high = found.lift(found.width)
        missed += bool(((low > true) | (high < true))[found.readable].any())
        _, low, high = found.lift(FIXED)
        fixed_missed += bool(((low > true) | (high < true))[found.readable].any())
        called += bool(found.called(found.width).any())
    assert missed / tests < ALPHA
    assert fixed_missed / tests > 1.5 * ALPHA
    assert called / tests > 0.75  # and it is not just wide


def test_nothing_is_read_before_there_is_enough() -> None:
    found = reading(*users(150, LOOKS, seed=7))
    assert not found.readable.any()
    assert not found.called(0.0).any()
    found = reading(*users(500, LOOKS, seed=7))
    assert np.isinf(found.width[~found.readable]).all()
    assert found.readable[0, -1]
    value, low, high = found.lift(found.width)
    assert (low[~found.readable] == -1).all()
    assert np.isinf(high[~found.readable]).all()
    assert np.isfinite(value[found.readable]).all()


def test_many_splits_at_once_are_many_tests() -> None:
    days, _ = users(600, 6, seed=8)
    x, y = METRICS["engagement"](days)
    splits = np.random.default_rng(9).random((4, 10, 600)) < 0.5
    found = false_calls(x, y, iter(splits))
    alone = [reading(days, split.astype(int), "engagement") for split in splits.reshape(40, 600)]
    for name, called in (
        ("sequential", [one.called(one.width)[0] for one in alone]),
        ("fixed", [one.called(FIXED)[0] for one in alone]),
    ):
        by_look = np.array([[each[: look + 1].any() for look in range(6)] for each in called])
        assert getattr(found, name).tolist() == by_look.mean(axis=0).tolist()
    assert found.end == np.mean([one.called(FIXED)[0, -1] for one in alone])


# -- the days before


def test_what_is_known_of_users_is_their_residual_before_and_nothing_of_new_ones() -> None:
    before, _ = users(50, 6, seed=20)
    asked = np.array([3, 49, 77, 10])
    for totals in METRICS.values():
        x, y = (each[:, -1] for each in totals(before))
        rest = x - x.sum() / y.sum() * y
        assert known(before, totals, asked) == pytest.approx([rest[3], rest[49], 0.0, rest[10]])


def test_adjusting_is_a_regression_on_the_days_before() -> None:
    days, _ = users(300, 4, seed=21, before=10)
    z = known(days.part(0, 10), METRICS["ctr"], days.user)
    x, y = METRICS["ctr"](days.part(10, 15))
    found = adjusted(x, y, z)
    assert found.sum(axis=0) == pytest.approx(x.sum(axis=0))
    for look in range(4):
        inside = y[:, look] > 0
        rest = (x - x.sum(axis=0) / y.sum(axis=0) * y)[inside, look]
        fit = stats.linregress(z[inside], rest)
        foretold = fit.slope * (z[inside] - z[inside].mean())
        assert found[inside, look] == pytest.approx(x[inside, look] - foretold)
        assert (found[~inside, look] == 0).all()


def test_adjusted_intervals_are_narrower_and_keep_their_promise() -> None:
    tests, true, missed, widths = 300, 0.3, 0, []
    for seed in range(tests):
        days, arm = users(1500, LOOKS, seed, lift=true, before=10)
        x, y = METRICS["ctr"](days.part(10, 11 + LOOKS))
        ends = []
        for numerators in (x, adjusted(x, y, known(days.part(0, 10), METRICS["ctr"], days.user))):
            found = read(Sums.of(numerators, y, arm[None] == 0), Sums.of(numerators, y, arm[None] == 1))
            _, low, high = found.lift(found.width)
            ends.append((high - low)[0, -1])
        missed += bool(((low > true) | (high < true))[found.readable].any())
        widths.append(ends)
    assert missed / tests < ALPHA
    plain, less = np.mean(widths, axis=0)
    assert less < 0.85 * plain


# -- power


def test_the_smallest_lift_is_seen_as_often_as_planned() -> None:
    tests, n, looks = 200, 8000, 8
    before = [plan(*METRICS["ctr"](users(n, looks, 1000 + seed)[0]), (0.5, 0.5)) for seed in range(5)]
    once, daily = (float(np.mean([getattr(one, name)[-1] for one in before])) for name in ("once", "daily"))
    assert daily > once
    seen = {}
    for name, true in (("once", once), ("daily", daily)):
        readings = [reading(*users(n, looks, seed, lift=true)) for seed in range(tests)]
        seen[name] = np.mean(
            [one.called(FIXED)[0, -1] if name == "once" else one.called(one.width)[0].any() for one in readings]
        )
    assert seen["once"] == pytest.approx(0.8, abs=0.09)
    assert seen["daily"] > 0.74


def test_days_until_a_lift_is_seen() -> None:
    found = plan(*METRICS["ctr"](users(1500, LOOKS, seed=10)[0]), (0.5, 0.5))
    for smallest in (found.once, found.daily):
        assert smallest[-1] < 0.7 * smallest[0]  # users come and act
        for true in (float(smallest[2]), float(smallest[12]), 0.3):
            assert found.days(true, smallest) == next(look + 1 for look in range(LOOKS) if smallest[look] <= true)
        assert found.days(0.5 * float(smallest.min()), smallest) is None
    lopsided = plan(*METRICS["ctr"](users(1500, LOOKS, seed=10)[0]), (0.9, 0.1))
    assert lopsided.once == pytest.approx(found.once * math.sqrt((1 / 0.9 + 1 / 0.1) / 4))


# -- sample ratio


def test_the_evidence_against_the_ratio_is_a_fair_bet() -> None:
    """Over all orders in which users could have come, what a bet of 1 returns is 1."""
    plan_of = np.array([0.3, 0.7])
    returned = 0.0
    for order in itertools.product((0, 1), repeat=8):
        counts = np.bincount(order, minlength=2).astype(float)
        returned += float(np.prod(plan_of**counts) * 10 ** log10_evidence(counts, plan_of))
    assert returned == pytest.approx(1.0)


def test_a_split_as_planned_is_not_called_wrong_and_another_is() -> None:
    rng = np.random.default_rng(12)
    days = np.arange(1, 15) * 800

    def ever_wrong(share: float) -> float:
        arm = rng.random((400, days[-1])) < share
        b = arm.cumsum(axis=1)[:, days - 1]
        return float(wrong_ratio(ratio_evidence(days - b, b.astype(float), (0.5, 0.5))).any(axis=1).mean())

    assert ever_wrong(0.5) <= 0.005
    assert ever_wrong(0.47) > 0.95
