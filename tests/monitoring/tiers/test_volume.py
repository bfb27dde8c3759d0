"""Forecasts of hourly counts: honest tails, no alarm from days that differ, missing hours and minutes surprising."""

import numpy as np
import pytest
from scipy.stats import nbinom

from infra.clock import HOUR_US
from monitoring.tiers.volume import Expected, Volume, gap_excess, weekend

FIRST = 20_480 * 24  # hours since the epoch


def test_tails_are_the_negative_binomials() -> None:
    expected = Expected(120.0, 400.0)
    shape = 120.0**2 / 280.0
    reference = nbinom(shape, shape / (shape + 120.0))
    for count in (0, 40, 90, 120):
        assert 10 ** expected.log10_below(count) == pytest.approx(reference.cdf(count), rel=1e-6)
    for count in (130, 200, 400):
        assert 10 ** expected.log10_above(count) == pytest.approx(reference.sf(count - 1), rel=0.02)


def test_saturday_and_sunday_are_weekend() -> None:
    monday = 20_458 * 24  # 2026-01-05
    assert [weekend(monday + day * 24) for day in range(7)] == [False] * 5 + [True] * 2


@pytest.mark.parametrize("level", [8, 80, 2000])
def test_days_that_differ_are_not_surprising_and_an_empty_hour_is(level: int) -> None:
    rng, volume = np.random.default_rng(level), Volume()
    worst, empty = 0.0, []
    for hour in range(FIRST, FIRST + 30 * 24):
        day = np.random.default_rng((level, hour // 24)).lognormal(0, 0.07) * (0.8 if weekend(hour) else 1.0)
        mean = level * day * (1 + 0.6 * np.sin(hour * np.pi / 12))
        count = float(rng.poisson(mean * rng.gamma(20) / 20))
        expected = volume.see(hour, count)
        volume.learn()
        if expected is None or hour < FIRST + 8 * 24:
            continue
        worst = min(worst, expected.log10_below(count), expected.log10_above(count))
        empty.append(expected.log10_below(0))
    assert worst > -5.3  # the least of 1,000 tails of either side, at a sound null, is about 1e-3.5
    assert np.median(empty) < (-6.8 if level > 50 else -1)


def test_a_thin_stream_is_judged_by_some_hours_together() -> None:
    rng, volume = np.random.default_rng(1), Volume()
    for hour in range(FIRST, FIRST + 6 * 24):
        volume.see(hour, float(rng.poisson(10)))
        volume.learn()
        assert all(e.log10_below(c) > -6 and e.log10_above(c) > -6 for c, e, _ in volume.together())
    for hour in range(FIRST + 6 * 24, FIRST + 6 * 24 + 4):
        alone = volume.see(hour, 0.0)
    (count, expected, since), _ = volume.together()
    assert (count, since) == (0.0, FIRST + 6 * 24)
    assert alone is not None
    assert expected.log10_below(0) < -7 < alone.log10_below(0)


def test_a_holidays_evening_says_nothing_about_the_weekend_that_it_begins() -> None:
    rng, volume = np.random.default_rng(2), Volume()
    monday = 20_458 * 24

    def count(hour: int) -> float:
        holiday = 0.55 if (hour - monday) // 24 == 18 else 1.0  # a Friday
        return float(rng.poisson(1500 * holiday * (0.8 if weekend(hour) else 1.0)))

    for hour in range(monday, monday + 19 * 24):
        volume.see(hour, count(hour))
        volume.learn()
    midnight = monday + 19 * 24
    expected = volume.see(midnight, 1200.0)
    assert expected is not None
    assert expected.mean == pytest.approx(1200, rel=0.05)
    assert expected.log10_above(1500) > -3 > expected.log10_below(500)


def test_a_gap_is_measured_against_the_arrivals_around_it() -> None:
    times = np.sort(np.random.default_rng(2).integers(0, HOUR_US, 400))
    assert gap_excess(times, 0, HOUR_US, 1.5, -7.0)[0] < 0.5
    excess, begins, seconds = gap_excess(times[(times < HOUR_US // 2) | (times > HOUR_US * 3 // 4)], 0, HOUR_US, 1.5, -7.0)
    assert excess > 1
    assert begins == pytest.approx(HOUR_US // 2, rel=0.05)
    assert seconds == pytest.approx(900, rel=0.05)
