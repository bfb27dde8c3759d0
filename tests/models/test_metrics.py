"""Metrics against scikit-learn and brute force; intervals against what they promise."""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss as sklearn_log_loss
from sklearn.metrics import roc_auc_score
from synthetic import clicks

from infra.clock import DAY_US
from models import evaluate, metrics

ROWS = st.lists(
    st.tuples(st.sampled_from([0.01, 0.1, 0.2, 0.5, 0.9]), st.integers(0, 1), st.integers(-1, 3)), min_size=2, max_size=60
)


def columns(rows: list[tuple[float, int, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.array([r[0] for r in rows]), np.array([r[1] for r in rows]), np.array([r[2] for r in rows])


@settings(max_examples=100, deadline=None)
@given(rows=ROWS)
def test_auc_and_log_loss_equal_scikit_learns(rows: list[tuple[float, int, int]]) -> None:
    p, label, _ = columns(rows)
    assert metrics.log_loss(p, label) == pytest.approx(sklearn_log_loss(label, p, labels=[0, 1]))
    assert metrics.logit_log_loss(np.log(p / (1 - p)), label) == pytest.approx(metrics.log_loss(p, label))
    if 0 < label.sum() < len(label):
        assert metrics.auc(p, label) == pytest.approx(roc_auc_score(label, p))
    else:
        assert np.isnan(metrics.auc(p, label))


@settings(max_examples=100, deadline=None)
@given(rows=ROWS)
def test_user_auc_is_the_impression_weighted_mean_over_users_with_both_classes(rows: list[tuple[float, int, int]]) -> None:
    p, label, group = columns(rows)
    total, weight = 0.0, 0
    for user in set(group.tolist()) - {-1}:
        mine = group == user
        if 0 < label[mine].sum() < mine.sum():
            total += roc_auc_score(label[mine], p[mine]) * mine.sum()
            weight += int(mine.sum())
    found = metrics.user_auc(p, label, group)
    assert found == pytest.approx(total / weight) if weight else np.isnan(found)


@settings(max_examples=60, deadline=None)
@given(rows=ROWS, bins=st.integers(1, 20))
def test_ece_equals_a_loop_over_groups_of_equally_many_rows(rows: list[tuple[float, int, int]], bins: int) -> None:
    p, label, _ = columns(rows)
    order, n = np.argsort(p, kind="stable"), len(p)
    edges = [int(edge) for edge in np.linspace(0, n, min(bins, n) + 1)]
    parts = [order[low:high] for low, high in pairwise(edges)]
    expected = sum(len(part) / n * abs(label[part].mean() - p[part].mean()) for part in parts)
    assert metrics.ece(p, label, bins) == pytest.approx(expected)


def test_the_base_rate_has_normalised_entropy_one_and_captures_nothing() -> None:
    data, truth = clicks(8000)
    base = np.full(len(data), data.label.mean())
    assert metrics.normalised_entropy(base, data.label) == pytest.approx(1.0)
    assert metrics.signal_captured(np.full(len(data), truth.mean()), truth) == pytest.approx(0.0, abs=1e-9)
    assert metrics.signal_captured(truth, truth) == pytest.approx(1.0)
    assert 0 < metrics.signal_captured(0.5 * truth + 0.5 * truth.mean(), truth) < 1


def test_a_report_holds_every_metric_with_an_interval_around_it_and_is_json() -> None:
    data, truth = clicks(40_000, days=4)
    report = evaluate.report(truth, data, p_true=truth, slices=evaluate.slices_of(data))
    json.dumps(report, allow_nan=False)
    for name in evaluate.METRICS:
        assert report[name]["low"] <= report[name]["value"] <= report[name]["high"]
    assert (report["n"], report["days"]) == (len(data), 4)
    assert report["ne"]["value"] == pytest.approx(metrics.normalised_entropy(truth, data.label))
    assert report["auc"]["value"] == pytest.approx(metrics.auc(truth, data.label))
    assert report["user_auc"]["value"] == pytest.approx(metrics.user_auc(truth, data.label, data.group))
    assert set(report["slices"]) == {"device", "category", "slot"}
    assert sum(part["n"] for part in report["slices"]["device"].values()) == len(data)


def test_one_day_falls_back_to_users_and_says_so() -> None:
    data, truth = clicks(8000, days=1)
    report = evaluate.report(truth, data)
    assert "day-to-day variance is not included" in report["method"]
    assert report["ne"]["low"] < report["ne"]["high"]
    assert report["signal_captured"] == {"value": None, "low": None, "high": None}


def test_the_result_does_not_depend_on_the_order_of_rows() -> None:
    data, truth = clicks(8000, days=3)
    order = np.random.default_rng(0).permutation(len(data))
    one, two = evaluate.report(truth, data), evaluate.report(truth[order], data.take(order))
    for name in evaluate.METRICS:
        if one[name]["value"] is not None:
            assert two[name]["value"] == pytest.approx(one[name]["value"])
            assert two[name]["high"] == pytest.approx(one[name]["high"])


def test_intervals_cover_when_whole_days_are_lucky_together() -> None:
    """Clicks drift by 15% from day to day: an interval that took rows as independent would cover about a third of the time."""
    covered = narrow = 0
    for seed in range(60):
        data, truth = clicks(8000, seed, days=5)
        rng = np.random.default_rng(seed)
        luck = np.exp(rng.normal(0, 0.15, 5) - 0.15**2 / 2)
        day = (data.time_us - data.time_us.min() // DAY_US * DAY_US) // DAY_US
        label = (rng.random(len(data)) < truth * luck[day]).astype(np.uint8)
        found = evaluate.report(truth, replace(data, label=label))["calibration"]
        covered += found["low"] <= 1.0 <= found["high"]
        narrow += abs(found["value"] - 1) <= 1.96 / np.sqrt(label.sum())
    assert covered >= 53  # 57 expected
    assert narrow <= 40


def test_the_paired_difference_is_sure_of_what_single_intervals_are_not() -> None:
    data, truth = clicks(60_000, days=4)
    blunted = 0.9 * truth + 0.1 * truth.mean()
    found = evaluate.compare(truth, blunted, data)["ne_difference"]
    single = evaluate.report(truth, data)["ne"]
    assert found["high"] < 0
    assert found["high"] - found["low"] < 0.3 * (single["high"] - single["low"])
    assert evaluate.compare(truth, truth, data)["ne_difference"] == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_a_probability_that_is_not_a_number_is_named() -> None:
    data, truth = clicks(4000)
    truth[17] = np.nan
    with pytest.raises(ValueError, match="probability of row 17"):
        evaluate.report(truth, data)
