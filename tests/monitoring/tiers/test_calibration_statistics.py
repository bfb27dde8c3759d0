"""The calibration tier's statistics against brute force: e-values, thinning, variances, the delay curve, robots."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from monitoring.tiers.calibration.concentration import PARTS, TIMES, Concentration
from monitoring.tiers.calibration.delay_curve import EDGES, DelayCurve, Lags, bucket_counts, transit
from monitoring.tiers.calibration.edetector import ODD_DAY, OLDEST_H, EDetector, Shift, Wander
from monitoring.tiers.calibration.overdispersion import CAUTION, Spread, shrunk

STILL = Wander(level=1e-9, drift=1e-12)


def detector(shares: bool, wander: Wander = STILL, *shifts: Shift) -> EDetector:
    made = EDetector(shifts or (Shift(-0.7, 0.0, 0.5), Shift(0.4, 0.0, 0.5)), wander, shares)
    made.grow(1)
    return made


def value(made: EDetector, seen: float, expected: float, day: float, total: float | None = None) -> float:
    made.expect(1.0, np.array([day]), np.zeros(1))
    made.see(np.array([seen]), np.array([expected]), np.zeros(1), None if total is None else np.array([total]))
    return float(np.exp(made.evidence()[0]))


@given(st.floats(0.05, 80), st.floats(1e-4, 0.3))
@settings(max_examples=15, deadline=None)
def test_the_first_count_has_an_e_value_of_mean_one(expected: float, day: float) -> None:
    size = 1 / ((1 - np.exp(-1 / 6)) * day + 1e-9)
    counts = np.arange(int(expected * 6 + 60))
    chance = stats.nbinom.pmf(counts, size, size / (size + expected))
    made = detector(False)
    made.grow(len(counts))  # one stream a count
    made.expect(1.0, np.full(len(counts), day), np.zeros(len(counts)))
    made.see(counts.astype(float), np.full(len(counts), expected), np.zeros(len(counts)))
    assert float(chance @ np.exp(made.evidence())) == pytest.approx(1.0, abs=0.01)
    other = stats.nbinom.pmf(counts, size, size / (size + expected * np.exp(0.4)))
    lone = [value(detector(False, STILL, Shift(0.4, 0.0, 1.0)), float(k), expected, day) for k in counts[:5]]
    twin = other[:5] / np.maximum(chance[:5], 1e-300)
    np.testing.assert_allclose(lone, twin, rtol=1e-3)


@given(st.integers(1, 60), st.floats(0.02, 0.9), st.floats(1e-3, 0.5))
@settings(max_examples=15, deadline=None)
def test_the_first_share_has_an_e_value_of_mean_one(total: int, share: float, day: float) -> None:
    size = 1 / np.clip(share * (1 - share) * ((1 - np.exp(-1 / 6)) * day + 1e-9), 1e-7, 0.5) - 1
    counts = np.arange(total + 1)
    chance = stats.betabinom.pmf(counts, total, size * share, size * (1 - share))
    values = np.array([value(detector(True), float(k), share, day, float(total)) for k in counts])
    assert float(chance @ values) == pytest.approx(1.0, abs=1e-3)


def test_what_began_more_than_two_weeks_ago_is_no_evidence_any_more() -> None:
    made = detector(False, STILL, Shift(-0.2, 0.0, 1.0))
    for hour in range(int(OLDEST_H) + 96):
        seen = 60.0 if hour < 72 else 80.0  # three days of a fifth fewer clicks
        value(made, seen, 80.0, 1e-6)
        if hour == 71:
            high = made.evidence()[0]
    assert high > 20
    assert made.hour - made.best(0)[1] <= OLDEST_H
    assert made.evidence()[0] < np.log(made.hour)


def test_without_a_shift_the_statistic_grows_by_an_hour_an_hour_on_average() -> None:
    """30 hours of Poisson clicks with nothing wrong: the mean over many streams is 30, thinned starts included."""
    rng = np.random.default_rng(5)
    many = 2000
    made = EDetector((Shift(-0.2, 0.0, 0.5), Shift(0.2, 0.0, 0.5)), STILL, shares=False)
    made.grow(many)
    for _ in range(30):
        made.expect(1.0, np.full(many, 1e-9), np.zeros(many))
        made.see(rng.poisson(5.0, many).astype(float), np.full(many, 5.0), np.zeros(many))
    values = np.exp(made.evidence())
    assert values.mean() == pytest.approx(30, rel=0.15)
    assert (values > 3_000).mean() <= 0.01


def test_starts_become_one_without_losing_anything() -> None:
    made = detector(False)
    for _ in range(40):
        made.expect(1.0, np.zeros(1), np.zeros(1))
    assert float(np.exp(made.evidence()[0])) == pytest.approx(40.0)


def test_no_clicks_where_one_was_expected_is_nothing_and_where_eighty_were_is_overwhelming() -> None:
    assert value(detector(False), 0, 1.0, 0.001) < 2
    made = detector(False)
    assert [value(made, 0, 80.0, 0.001) for _ in range(2)][-1] > 1e12


def test_the_onset_is_the_hour_of_the_change() -> None:
    rng = np.random.default_rng(3)
    made = detector(False)
    for hour in range(48):
        value(made, float(rng.poisson(50 * (1.0 if hour < 36 else 0.5))), 50.0, 0.0005)
    shift, since = made.best(0)
    assert shift.step < 0
    assert abs(since - 36) <= 1


def test_mild_shifts_wait_until_an_odd_day_is_over() -> None:
    patient = detector(False, STILL, Shift(0.1, 0.0, 1.0, odd_h=30.0))
    plain = detector(False, STILL, Shift(0.1, 0.0, 1.0))
    for _ in range(20):
        both = [value(made, 55.0, 50.0, 0.0) for made in (patient, plain)]
    assert np.log(both[1] / both[0]) == pytest.approx(ODD_DAY)


def test_a_level_is_not_learned_from_an_incident() -> None:
    made = detector(False, Wander(0.09, 1e-6))
    for _ in range(30):
        value(made, 100, 100.0, 0.0005)
    made.learn()
    usual = made.level[0]
    for _ in range(30):
        value(made, 50, 100.0, 0.0005)
    assert made.level[0] < usual
    made.forget()
    assert made.level[0] == usual


def test_evidence_is_held_near_the_limit_and_remembered() -> None:
    made = detector(False)
    for _ in range(10):
        value(made, 20, 80.0, 0.0005)
    before = made.evidence()[0]
    made.hold(np.array([5.0]))
    assert made.evidence()[0] == pytest.approx(8.0)
    assert made.overflow[0] == pytest.approx(before - 8.0)
    hours = 0
    while made.evidence()[0] > 5.0:
        value(made, 80, 80.0, 0.0005)
        hours += 1
    assert hours <= 2


@pytest.mark.parametrize("sd", [0.0, 0.05, 0.2])
def test_days_differ_as_much_as_they_do(sd: float) -> None:
    rng = np.random.default_rng(11)
    spread = Spread(1)
    for _ in range(150):
        effect = np.exp(rng.normal(0, sd) - sd * sd / 2)
        for _ in range(24):
            expected = np.array([30.0])
            spread.learn(rng.poisson(expected * effect) - expected, expected, expected, 1 / 24)
    products, weight, *_ = spread.sums()
    day = shrunk(products, weight, spread.days, 0.03**2, 4.0)
    assert float(np.sqrt(day[0])) == pytest.approx(max(sd, 0.01), abs=0.02 + 0.2 * sd)


def test_without_data_the_prior_stands_and_few_clicks_hardly_move_it() -> None:
    nothing = shrunk(np.zeros(1), np.zeros(1), 0.0, 0.01, 4.0)
    assert nothing[0] == pytest.approx(0.01 * (1 + CAUTION))
    few = shrunk(np.array([1.0]), np.array([3.0]), 3.0, 0.01, 4.0)
    assert few[0] == pytest.approx(0.01 * (1 + CAUTION / 3), rel=0.1)


@given(st.integers(-100_000, 3600), st.integers(1, 7200))
@settings(max_examples=50, deadline=None)
def test_an_impression_passes_through_the_ages_that_it_passes_through(made_s: int, length_s: int) -> None:
    part = transit(np.array([made_s * 1_000_000]), 0, length_s * 1_000_000)[0]
    ages = np.arange(max(0, -made_s), max(0, length_s - made_s)) + 0.5  # every second of the window
    twin = np.histogram(ages, EDGES)[0] / np.diff(EDGES)
    np.testing.assert_allclose(part, twin, atol=0.11)  # the first bucket has five seconds


def test_the_curve_is_learned_from_a_log_that_begins_in_the_middle() -> None:
    """Clicks come an exponential hour late; impressions from before the log are unknown."""
    rng = np.random.default_rng(2)
    curve, hour = DelayCurve(), 3_600_000_000
    made = np.sort(rng.integers(0, 40 * hour, 40_000))
    arrived = made + (rng.exponential(3600, len(made)) * 1e6).astype(np.int64)
    for k in range(40):
        start, end = k * hour, (k + 1) * hour
        known = made < end
        exposed = 0.1 * transit(made[known][::10], start, end).sum(axis=0) * 10
        here = (arrived >= start) & (arrived < end) & (rng.random(len(made)) < 0.1)
        curve.learn(bucket_counts((arrived - made)[here] / 1e6), exposed, 1 / 24)
    for age in (600.0, 3600.0, 7200.0):
        assert float(curve.by_age(np.array([age]))[0]) == pytest.approx(1 - np.exp(-age / 3600), abs=0.04)
    assert float(curve.by_age(np.array([86400.0]))[0]) == pytest.approx(1.0)


def test_what_is_long_under_way_is_learned_from_the_first_hours() -> None:
    rng, lags = np.random.default_rng(7), Lags()
    for hour in range(20):
        assert (lags.share, lags.long(np.array([1e6]))) == (0.0, 0.0)  # unknown
        lags.learn(rng.exponential(100, 500), 1 / 24, enough=hour == 19)
    assert lags.long_s == pytest.approx(100 * np.log(50), rel=0.05)
    assert lags.share == pytest.approx(0.02, rel=0.05)
    assert lags.long(np.array([1.0, 380.0, 420.0, 5000.0])) == 2
    for _ in range(28 * 24):  # four weeks in which a tenth is slow: half of what was learned is forgotten
        lags.learn(np.where(rng.random(500) < 0.1, 1e4, 1.0), 1 / 24, enough=True)
    assert lags.share == pytest.approx(0.1, rel=0.1)


def test_users_who_click_as_predicted_have_an_e_value_of_mean_one_at_most() -> None:
    rng = np.random.default_rng(4)
    expected = np.full(300, 0.2)
    values = []
    for _ in range(2000):
        crowd = Concentration()
        clicks = rng.poisson(expected * rng.gamma(1 / 0.3, 0.3, len(expected))).astype(float)
        crowd.see(np.flatnonzero(clicks > 0), clicks[clicks > 0], expected[clicks > 0], float(expected.sum()), 0.0, 1.0)
        values.append(np.exp(crowd.evidence()))
    assert 0.05 < np.mean(values) <= 1.1
    assert len(PARTS) * len(TIMES) == crowd.log.size


def test_a_user_who_does_it_every_hour_is_no_accident() -> None:
    crowd = Concentration()
    for hour in range(6):
        once = crowd.evidence()
        crowd.see(np.arange(31), np.array([1.0] * 30 + [5.0]), np.array([0.2] * 30 + [0.6]), 40.0, float(hour), 1.0)
        assert list(crowd.suspects) == [30]
    assert once > np.log(1e4)


def test_three_robots_are_seen_within_the_hour() -> None:
    crowd = Concentration()
    clicks, expected = np.array([1.0] * 40 + [12.0, 15.0, 9.0]), np.array([0.2] * 40 + [0.5, 0.6, 0.4])
    crowd.see(np.arange(43), clicks, expected, 60.0, 7.0, 1.0)
    assert crowd.evidence() > np.log(1e6)
    assert crowd.onset_hour() == 7.0
