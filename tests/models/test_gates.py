"""Gates and the retraining question, as tables."""

import copy
from typing import Any

import pytest

from infra.clock import DAY_US
from models.gates import decide, kind_of
from models.retrain import DayResult, History, RetrainPolicy, should_retrain


def near(value: float, half: float = 0.01) -> dict[str, float]:
    return {"value": value, "low": value - half, "high": value + half}


GOOD: dict[str, Any] = {
    "ne": near(0.9), "log_loss": near(0.16), "auc": near(0.7), "calibration": near(1.0),
    "slices": {"device": {"mobile": {"clicks": 500, "calibration": near(1.0), "ne": near(0.9)}}},
}  # fmt: skip
CLEAN = {"passed": True, "reasons": []}


def changed(path: str, value: Any) -> dict[str, Any]:
    out = copy.deepcopy(GOOD)
    *folders, last = path.split("/")
    inside = out
    for folder in folders:
        inside = inside[folder]
    inside[last] = value
    return out


def difference(value: float, high: float) -> dict[str, Any]:
    return {"ne_difference": {"value": value, "low": -1.0, "high": high}}


@pytest.mark.parametrize(
    ("evaluation", "comparison", "leakage", "kind", "passed", "says"),
    [
        (GOOD, difference(-0.05, -0.04), CLEAN, "bootstrap", True, "base-rate model"),
        (GOOD, difference(0.0, 0.0009), CLEAN, "refresh", True, "non-inferior"),
        (GOOD, difference(0.0, 0.0011), CLEAN, "refresh", False, "non-inferior"),
        (GOOD, difference(-0.01, 0.0005), CLEAN, "change", False, "superior"),
        (GOOD, difference(-0.01, -0.001), CLEAN, "change", True, "superior"),
        (GOOD, difference(-0.01, float("nan")), CLEAN, "change", False, "NE difference to the champion has no high"),
        (GOOD, {}, CLEAN, "change", False, "NE difference to the champion has no value and no high"),
        (GOOD, difference(-0.01, -0.001), None, "change", False, "no verdict of the leakage audit"),
        (GOOD, difference(-0.1, -0.1), {"passed": False, "reasons": ["ad_ctr leaks"]}, "change", False, "ad_ctr leaks"),
        (changed("calibration", near(1.08)), difference(-0.1, -0.1), CLEAN, "change", False, "calibration 1.080"),
        (changed("calibration", near(1.08, 0.05)), difference(-0.1, -0.1), CLEAN, "change", True, "calibration 1.080"),
        (changed("calibration/low", None), difference(-0.1, -0.1), CLEAN, "change", False, "calibration has no low"),
        (changed("ne/value", float("nan")), difference(-0.1, -0.1), CLEAN, "change", False, "ne has no value"),
        (changed("auc", None), difference(-0.1, -0.1), CLEAN, "change", False, "auc has no value"),
        (changed("slices", {}), difference(-0.1, -0.1), CLEAN, "change", False, "no slices"),
        (
            changed("slices/device/mobile/calibration", near(1.4)),
            difference(-0.1, -0.1), CLEAN, "change", False, "calibration of device=mobile",
        ),
        (
            changed("slices/device/mobile", {"clicks": 3, "calibration": near(9.0)}),
            difference(-0.1, -0.1), CLEAN, "change", True, "0 slices",
        ),
    ],
)  # fmt: skip
def test_gates(evaluation: dict, comparison: dict, leakage: dict | None, kind: Any, passed: bool, says: str) -> None:
    decision = decide(evaluation, comparison, leakage, kind)
    assert decision.passed is passed
    relevant = [reason for reason in decision.reasons if says in reason]
    assert relevant
    assert relevant[0].startswith("passed" if passed else "failed")


def test_a_slice_that_got_clearly_worse_than_the_comparators_fails() -> None:
    comparator = changed("slices/device/mobile/ne", near(0.85))
    assert not decide(GOOD, difference(-0.1, -0.1), CLEAN, "change", comparator=comparator).passed
    assert decide(GOOD, difference(-0.1, -0.1), CLEAN, "change", comparator=GOOD).passed
    missing = decide(GOOD, difference(-0.1, -0.1), CLEAN, "change", comparator={})
    assert any("NE of device=mobile of the comparator has no value" in reason for reason in missing.reasons)


def test_a_candidate_is_a_refresh_only_with_the_champions_own_configuration() -> None:
    assert [kind_of("a", None), kind_of("a", "a"), kind_of("a", "b")] == ["bootstrap", "refresh", "change"]


def days(*results: tuple[float, float]) -> tuple[DayResult, ...]:
    return tuple(DayResult(f"2026-01-0{i + 1}", ne, calibration, 500) for i, (ne, calibration) in enumerate(results))


WELL = days((0.9, 1.0), (0.9, 1.0), (0.9, 1.0))


@pytest.mark.parametrize(
    ("history", "reason"),
    [
        (History(10 * DAY_US, None, None), "no champion"),
        (History(10 * DAY_US, 3 * DAY_US, 0.9, WELL), "age"),
        (History(10 * DAY_US, 8 * DAY_US, 0.9, WELL), None),
        (History(10 * DAY_US, 8 * DAY_US, 0.9, days((0.95, 1.0), (0.94, 1.0), (0.93, 1.0))), "performance: NE 0.9400"),
        (History(10 * DAY_US, 8 * DAY_US, 0.9, days((0.95, 1.0), (0.94, 1.0))), None),
        (History(10 * DAY_US, 8 * DAY_US, 0.9, days((0.9, 1.2), (0.9, 1.2), (0.9, 1.2))), "performance: calibration 1.200"),
        (History(10 * DAY_US, 8 * DAY_US, 0.9, days((0.9, 0.8), (0.9, 1.2), (0.9, 1.1))), None),
        (History(10 * DAY_US, 8 * DAY_US, 0.9, days((float("nan"), 1.0), (0.9, 1.0), (0.9, 1.0))), "performance: NE nan"),
        (History(10 * DAY_US, 8 * DAY_US, None, WELL), "performance: the champion was promoted without"),
        (History(10 * DAY_US, 8 * DAY_US, 0.9, WELL, ("ad_price",)), "drift: ad_price"),
        (History(10 * DAY_US, 9 * DAY_US, 0.9), None),
    ],
)
def test_should_retrain(history: History, reason: str | None) -> None:
    found = should_retrain(history, RetrainPolicy())
    assert (found is None) if reason is None else (found is not None and found.startswith(reason))
