"""The page's figures: click rate, calibration with clicks still to come, entropy."""

import numpy as np
import pyarrow as pa
import pytest

from infra.clock import HOUR_US, MINUTE_US
from monitoring.window import LogColumns, Window
from pipelines.live.measures import Delays, Measures
from pipelines.live.vitals import _quantile
from pipelines.windows import books_of

COLUMNS = LogColumns(("device",), ("price",))
N = 2000


def hours(p: float, rate: float, count: int, seed: int = 1):
    """Windows of a log that says p and is clicked at `rate`; every click comes half an hour after its impression."""
    rng, late = np.random.default_rng(seed), None
    for hour in range(count):
        start = hour * HOUR_US
        time_us = np.sort(rng.integers(start, start + HOUR_US, N))
        log = pa.table(
            {
                "id": np.arange(N) + hour * N,
                "time": time_us,
                "p": np.full(N, p),
                "request": np.arange(N) // 4 + hour * N,
                "arm": pa.array(["a", "b"] * (N // 2)),
                "model": pa.array(["m"] * N),
                "fallback_mask": np.zeros(N, np.int32),
                "randomised": np.zeros(N, bool),
                "age_user_recent": np.full(N, 60.0, np.float32),
                "f_price": rng.exponential(1.0, N),
                "f_device": rng.choice(["x", "y"], N),
            }
        )
        clicked = log.filter(pa.array(rng.uniform(size=N) < rate))
        arrived = clicked["time"].to_numpy() + 30 * MINUTE_US
        clicked = clicked.append_column("arrived_at", pa.array(arrived))
        here = pa.array(arrived < start + HOUR_US)
        rows = clicked.filter(here) if late is None else pa.concat_tables([late, clicked.filter(here)])
        late = clicked.filter(pa.array(arrived >= start + HOUR_US))
        books = books_of([("impressions", "landed", N), ("clicks", "accepted", rows.num_rows), ("clicks", "duplicates", 2)])
        yield Window(start, start + HOUR_US, log, rows, books=books)


def measured(p: float, rate: float, usual: float, count: int = 12) -> Measures:
    measures = Measures(COLUMNS)
    made = list(hours(p, usual, 72))
    for window in made:
        measures.learn(window)
    measures.ready()
    for number, window in enumerate(hours(p, rate, 72 + count)):
        if number >= 72:
            measures.add(window)
    return measures


def test_clicks_that_have_not_come_yet_are_not_missed():
    measures = measured(0.05, 0.05, 0.05)
    assert measures.usual_ratio == pytest.approx(1.0, abs=0.05)
    for hour in measures.hours:
        assert hour["ratio"] == pytest.approx(1.0, abs=0.35)
        assert hour["expected"] == pytest.approx(100, rel=0.1)
    assert np.mean([hour["ratio"] for hour in measures.hours]) == pytest.approx(1.0, abs=0.1)


def test_half_the_clicks_is_half_the_ratio_and_outside_the_band():
    measures = measured(0.05, 0.025, 0.05)
    last = measures.hours[-1]
    assert last["ratio"] == pytest.approx(0.5, abs=0.15)
    assert last["ratio"] < measures.usual_ratio - last["band"]
    assert last["ctr"] == pytest.approx(0.025, abs=0.01)


def test_a_model_that_is_off_from_the_start_has_that_as_its_usual():
    measures = measured(0.10, 0.05, 0.05)
    assert measures.usual_ratio == pytest.approx(0.5, abs=0.05)
    assert measures.hours[-1]["ne"] > 1.01  # worse than knowing the base rate alone


def test_figures_of_an_hour():
    hour = measured(0.05, 0.05, 0.05).hours[-1]
    assert (hour["impressions"], hour["requests"], hour["landed"], hour["duplicates"]) == (N, N // 4, N, 2)
    assert hour["arms"] == {"a": 0.5, "b": 0.5}
    assert hour["models"] == {"m": 1.0}
    assert hour["ages"] == {"user_recent": 60.0}
    assert hour["fallback"] == hour["randomised"] == 0


def test_the_share_of_clicks_that_came_grows_with_age():
    delays = Delays()
    rng = np.random.default_rng(1)
    time_us = np.zeros(5000, np.int64)
    delays.learn(pa.table({"time": time_us, "arrived_at": (rng.exponential(1.0, 5000) * HOUR_US).astype(np.int64)}))
    ages = np.array([-1, 0, HOUR_US // 2, HOUR_US, 20 * HOUR_US])
    expected = np.where(ages < 0, 0, 1 - np.exp(-np.maximum(ages, 0) / HOUR_US))
    np.testing.assert_allclose(delays.arrived(ages), expected, atol=0.03)


def test_latency_is_read_as_prometheus_would():
    counts = {0.001: 50.0, 0.002: 90.0, 0.01: 100.0, float("inf"): 100.0}
    assert _quantile(counts, 0.5) == pytest.approx(1.0)
    assert _quantile(counts, 0.7) == pytest.approx(1.5)
    assert _quantile(counts, 0.99) == pytest.approx(9.2)
    assert _quantile({0.001: 0.0, float("inf"): 0.0}, 0.5) is None
    assert _quantile({0.001: 0.0, float("inf"): 5.0}, 0.5) == pytest.approx(1.0)  # slower than the last edge: at least that
