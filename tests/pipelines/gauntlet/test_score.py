"""The scoreboard's arithmetic: rates with counts, misses that count as infinite, and the two filtered scores."""

from dataclasses import replace

import numpy as np
import pytest

from infra.clock import DAY_US, HOUR_US
from monitoring.bugs.entry import Bug
from monitoring.findings import Finding
from pipelines.gauntlet import oracle, score
from pipelines.gauntlet.cells import HORIZON_US, Cell, clicks_needed, draw_cells
from pipelines.gauntlet.outcome import Outcome, Step, judge
from pipelines.gauntlet.pages import gauntlet_page

ONSET = 20_500 * DAY_US
BUG = Bug(
    "T01", "test", "null-spike", "features", ("features",), "price", "story", "looks", {"strong": 0.5}, "share",
    lambda rows, dose, scene: rows, also=("price_gap",),
)  # fmt: skip
CELL = Cell("T01", "strong", ONSET, 1)


def finding(bug_class: str, subject: str, tier: str) -> Finding:
    return Finding("some-check", bug_class, subject, "page", {}, symptom="nulls-up", tier=tier, excess=2.0)


def incident(bug_class: str, subject: str) -> dict[str, object]:
    return {"opened_us": ONSET + HOUR_US, "hypotheses": [{"class": bug_class, "subject": subject}]}


def step(hour: int, incidents: list[dict[str, object]], found: list[Finding] = []) -> Step:  # noqa: B006 - never changed
    return Step(ONSET + hour * HOUR_US, 1000, found, incidents)


def outcome(steps: list[Step]) -> Outcome:
    return judge(BUG, CELL, "w", steps, 0.0)


def test_a_detection_is_a_new_incident_with_the_right_class_or_subject_first() -> None:
    found = outcome([step(1, []), step(2, [incident("null-spike", "other")])])
    assert found.detected
    assert (found.hours, found.events, found.class_rank, found.subject_right) == (2.0, 2000, 1, False)
    by_subject = outcome([step(1, [incident("unit-change", "price_gap")])])
    assert by_subject.detected
    assert by_subject.class_rank is None
    assert by_subject.subject_right
    wrong = outcome([step(1, [incident("unit-change", "age")])])
    assert wrong.alarmed
    assert not wrong.detected
    assert wrong.hours is None


def test_a_bad_model_may_be_named_by_its_hash() -> None:
    model = replace(BUG, stage="model", subject="model", also=())
    named = [step(1, [incident("feature-order", "bef83419ec3aeeff")])]
    assert judge(model, CELL, "w", named, 0.0, "bef83419ec3aeeff").detected
    assert not judge(model, CELL, "w", named, 0.0, "another").detected
    assert not judge(BUG, CELL, "w", named, 0.0, "bef83419ec3aeeff").detected


def test_a_silent_cell_is_a_miss_without_a_name() -> None:
    found = outcome([step(1, []), step(2, [])])
    assert not found.alarmed
    assert not found.detected
    assert found.class_rank is found.subject_right is None


def test_filtered_scores_use_the_same_findings_less_a_tier() -> None:
    replay, labels = finding("null-spike", "price", "replay"), finding("null-spike", "price", "calibration")
    both = outcome([step(1, [incident("null-spike", "price")], [replay, labels])])
    assert both.without_replay
    assert both.label_free
    only_replay = outcome([step(1, [incident("null-spike", "price")], [replay])])
    assert (only_replay.without_replay, only_replay.label_free) == (False, True)
    only_labels = outcome([step(1, [incident("null-spike", "price")], [labels])])
    assert (only_labels.without_replay, only_labels.label_free) == (True, False)


def test_rates_carry_their_counts_and_an_interval() -> None:
    found = score.rate(9, 10)
    assert (found["rate"], found["hits"], found["of"]) == (0.9, 9, 10)
    assert 0.55 < found["low"] < 0.9 < found["high"] < 1.0
    assert score.rate(0, 0)["rate"] is None


def test_no_page_in_180_days_meets_the_promise_and_one_nearly_does() -> None:
    assert score.false_alarms(180, 0)["upper95"] == pytest.approx(30 * 2.9957 / 180, rel=1e-3)
    assert score.false_alarms(180, 1)["upper95"] == pytest.approx(30 * 4.7439 / 180, rel=1e-3)
    assert score.false_alarms(180, 1)["per_30_days"] == pytest.approx(1 / 6)


def test_a_miss_is_an_infinite_delay() -> None:
    def beside(*pairs: tuple[float | None, float | None]) -> list[Outcome]:
        silent = outcome([step(1, [])])
        return [replace(silent, hours=ours, shift=0.5, oracle_hours=oracle) for ours, oracle in pairs]

    found = score.over_oracle(beside((2.0, 2.0), (3.0, 1.0), (None, 4.0), (None, None)))
    assert found["median"] == 3.0
    assert (found["runs"], found["missed"], found["oracle_missed"], found["within_goal"]["hits"]) == (3, 1, 1, 1)
    assert score.over_oracle(beside((None, 1.0), (None, 2.0), (1.0, 1.0)))["median"] is None


def test_the_floor_is_the_clicks_that_four_sigma_need() -> None:
    assert clicks_needed(0.08) == pytest.approx(2500)
    assert clicks_needed(-0.02) == pytest.approx(40_000)


def test_cells_start_on_the_hour_and_leave_room_for_their_horizon() -> None:
    doses = {"strong": 0.5, "mild": 0.05, "trace": 0.005}
    bugs = [
        Bug(f"T{at:02}", f"t{at}", "null-spike", "features", ("features",), "x", "s", "l", doses, "share", lambda r, d, s: r)
        for at in range(20)
    ]
    first, end = ONSET, ONSET + 20 * DAY_US
    cells = draw_cells(bugs, first, end, np.random.default_rng(1), False, 0)
    assert {cell.intensity for cell in cells} == set(HORIZON_US)
    assert all(cell.onset_us % HOUR_US == 0 and first <= cell.onset_us and cell.until_us <= end for cell in cells)
    assert len({cell.onset_us % DAY_US for cell in cells}) > 10
    assert cells == sorted(cells, key=lambda cell: cell.onset_us)
    drawn = [draw_cells(bugs, first, end, np.random.default_rng(1), False, world) for world in range(4)]
    assert sorted(c.code for cells in drawn for c in cells if c.intensity == "trace") == [bug.code for bug in bugs]


def hours(rng: np.random.Generator, days: int, spread: float, factor: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    at = ONSET + np.arange(days * 24) * HOUR_US
    expected = 80 + 40 * np.sin(2 * np.pi * np.arange(days * 24) / 24)
    day = np.exp(spread * rng.normal(size=days)).repeat(24)
    return rng.poisson(expected * day * factor).astype(np.float64), expected, at


def test_the_oracle_knows_the_variance_between_days() -> None:
    clicks, expected, at = hours(np.random.default_rng(0), 400, 0.05)
    level, variance = oracle.day_variance(clicks, expected, at)
    assert level == pytest.approx(1.0, abs=0.02)
    assert np.sqrt(variance) == pytest.approx(0.05, rel=0.25)


@pytest.mark.parametrize(("shift", "soonest", "latest"), [(-0.5, 1, 4), (-0.2, 3, 30)])
def test_the_oracle_sees_larger_shifts_sooner_and_nothing_where_nothing_is(shift: float, soonest: int, latest: int) -> None:
    rng = np.random.default_rng(3)
    found = []
    for _ in range(20):
        clicks, expected, at = hours(rng, 14, 0.05, 1 + shift)
        delay = oracle.delay(clicks, expected, at, shift, 1.0, 0.05**2)
        assert delay is not None
        found.append(delay)
    assert soonest <= np.median(found) <= latest
    false = [oracle.delay(*hours(rng, 14, 0.05), shift, 1.0, 0.05**2) for _ in range(60)]
    assert sum(delay is not None for delay in false) <= 1


def test_the_page_shows_misses_as_misses() -> None:
    found = outcome([step(1, [])])
    result = {
        "runs": 1, "seed": 1, "quick": False, "seconds": 60.0, "worlds": [{"tuning": "market", "seed": 5, "days": 60}],
        "detection": score.by_intensity([found], "detected"), "detection_oracle_sees": score.visible([found]),
        "without_replay": score.by_intensity([found], "without_replay", ("strong", "mild")),
        "label_free": score.label_free([found]), "false_alarms": score.false_alarms(180, 0), "notices_a_day": 0.1,
        "diagnosis": score.diagnosis([found]), "events_to_detect": score.events_to_detect([found]),
        "delay_over_oracle": score.over_oracle([]),
        "overhead": {"distribution_cpu_s": 1.0, "learning_cpu_s": 4.0, "distribution_rows": 500_000, "columns": 40,
                     "replay_cpu_s_max": 0.1,
                     "replay_cpu_s_median": 0.05},
        "gate": {"bad_blocked": score.rate(1, 1), "good_blocked": score.rate(0, 1), "by_class": {}, "misses": []},
        "matrix": score.matrix([found]), "below_floor": [], "misses": [found.as_json()], "misnamed": [], "clean_pages": [],
        "peers": {}, "seconds_by_world": {},
    }  # fmt: skip
    page = gauntlet_page(result)
    assert "| T01 " in page
    assert "0/1" in page
    assert "0.0% (0 of 1" in page
