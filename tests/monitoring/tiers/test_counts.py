"""Counts against a learned benign rate: exact tails, an honest rate of false alarms, small faults found by adding days up."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import betabinom

from infra.clock import DAY_US, HOUR_US
from monitoring.tiers.counts import Moments, Rate, log10_tail, log_pmf

START_US = 20_480 * DAY_US
LIMITS = 1e-7, 1e-5  # of an hour, of the sums a day


@settings(deadline=None)
@given(n=st.integers(1, 400), share=st.floats(0, 1), a=st.floats(0.05, 50), b=st.floats(0.5, 5000))
def test_the_tail_is_the_beta_binomials(n: int, share: float, a: float, b: float) -> None:
    x = round(share * n)
    expected = betabinom.pmf(np.arange(x, n + 1), n, a, b).sum()
    assert 10 ** log10_tail(x, n, a, b) == pytest.approx(min(expected, 1.0), rel=1e-6, abs=1e-250)
    assert np.exp(log_pmf(x, n, a, b)) == pytest.approx(betabinom.pmf(x, n, a, b), rel=1e-6, abs=1e-250)


def test_moments_find_the_correlation_of_bursts() -> None:
    rng = np.random.default_rng(1)
    moments = Moments()
    for _ in range(3000):
        n = int(rng.integers(50, 400))
        moments.add(rng.binomial(n, rng.beta(2, 98)), n)
    assert moments.correlation(0.0) == pytest.approx(1 / 101, rel=0.15)


def run(rates: np.ndarray, n: int, seed: int, warm: int = 14 * 24, rate: Rate | None = None) -> list[tuple[int, float]]:
    """(hour, excess) of alarms after the warm-up; hours in which an alarm rose are not learned."""
    rng = np.random.default_rng(seed)
    rate = rate or Rate()
    alarms = []
    for hour, p in enumerate(rates):
        alarm = rate.see(int(rng.binomial(n, p)), n, START_US + hour * HOUR_US, *LIMITS)
        if alarm:
            rate.restart()
        if alarm and hour >= warm:
            alarms.append((hour - warm, alarm.excess))
        else:
            rate.learn()
    return alarms


@pytest.mark.parametrize("benign", [0.0, 0.0003, 0.03])
def test_clean_hours_raise_no_alarm(benign: float) -> None:
    for seed in range(2):
        assert run(np.full(24 * 24, benign), 200, seed) == []


def test_bursty_benign_hours_raise_no_alarm() -> None:
    for seed in range(2):
        rates = np.random.default_rng(100 + seed).beta(0.5, 50, 24 * 24)
        assert run(rates, 200, seed) == []


@pytest.mark.parametrize(("fault", "within"), [(0.5, 1), (0.05, 2), (0.005, 48)])
def test_a_fault_is_found_sooner_the_larger_it_is(fault: float, within: int) -> None:
    rates = np.zeros(17 * 24)
    rates[14 * 24 + 9 :] = fault
    hour, _ = run(rates, 200, 3)[0]
    assert 9 <= hour < 9 + within


def test_twenty_rows_an_hour_are_enough_for_a_strong_fault() -> None:
    rates = np.zeros(16 * 24)
    rates[14 * 24 :] = 0.5
    assert run(rates, 20, 1)[0][0] == 0


def test_the_onset_is_where_the_rate_changed() -> None:
    rate = Rate()
    alarm = None
    for hour in range(20 * 24):
        onset = 15 * 24 + 7
        alarm = rate.see(2 if hour >= onset else 0, 200, START_US + hour * HOUR_US, *LIMITS)
        if alarm:
            break
        rate.learn()
    assert alarm is not None
    assert alarm.onset_us == START_US + onset * HOUR_US
    assert alarm.rate == pytest.approx(0.01)


def test_a_slow_fault_does_not_teach_its_own_rate() -> None:
    rate = Rate()
    for hour in range(10 * 24):
        rate.note(0, 200, START_US + hour * HOUR_US)
        rate.learn()
    before = rate.mean
    for hour in range(10 * 24, 12 * 24):
        rate.note(3, 200, START_US + hour * HOUR_US)
        rate.learn()
    assert rate.mean <= before
