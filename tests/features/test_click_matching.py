"""Clicks find their impression, wait for it, or are refused with the reason."""

import numpy as np
import pyarrow as pa

from features.click_matching import PENDING, WAIT_DAYS, Impressions, Matched, match
from features.schemas import CLICKS, TIME

IMPRESSIONS = Impressions(np.array([10, 20, 30]), np.array([100, 200, 300]), np.array([110, 210, 900]))


def settle(*clicks: tuple[int, int, int, int, str], day: str = "2026-01-09", impressions: Impressions = IMPRESSIONS) -> Matched:
    """Clicks are (id, impression, clicked at, arrived at, waits since)."""
    columns = list(zip(*clicks, strict=True))
    times = [pa.array(columns[i], pa.int64()).cast(TIME) for i in (2, 3)]
    rows = [columns[0], columns[1], *times, columns[4], ["clicks/a.parquet"] * len(clicks), range(len(clicks))]
    return match(pa.table([pa.array(c) for c in rows], schema=PENDING), impressions, day)


def test_a_click_with_its_impression_is_accepted_as_it_came() -> None:
    found = settle((1, 20, 250, 260, "2026-01-09"), (2, 10, 100, 105, "2026-01-09"))
    assert found.accepted.schema == CLICKS
    assert found.accepted["click_id"].to_pylist() == [1, 2]
    assert found.accepted["arrived_at"].cast(pa.int64()).to_pylist() == [260, 105]
    assert len(found.quarantined) == len(found.pending) == 0


def test_a_click_that_waited_arrives_with_its_impression() -> None:
    found = settle((1, 30, 350, 360, "2026-01-08"))
    assert found.accepted["arrived_at"].cast(pa.int64()).to_pylist() == [900]


def test_a_click_without_impression_waits_and_then_is_refused() -> None:
    last_day, too_late = f"2026-01-{2 + WAIT_DAYS - 1:02}", f"2026-01-{2 + WAIT_DAYS:02}"
    click = (1, 25, 250, 260, "2026-01-02")
    assert settle(click, day=last_day).pending.to_pylist() == settle(click, day="2026-01-03").pending.to_pylist() != []
    refused = settle(click, day=too_late).quarantined.to_pylist()[0]
    assert (refused["file"], refused["row"], refused["field"], refused["value"]) == (
        "clicks/a.parquet",
        0,
        "impression_id",
        "25",
    )
    assert "deliver the impression" in refused["reason"]
    assert '"click_id":1' in refused["content"]


def test_a_click_before_its_impression_is_refused() -> None:
    found = settle((1, 20, 199, 260, "2026-01-09"), (2, 20, 200, 260, "2026-01-09"))
    assert found.accepted["click_id"].to_pylist() == [2]
    assert "must not be earlier than its impression's" in found.quarantined["reason"][0].as_py()


def test_with_no_impressions_at_all_every_click_waits() -> None:
    none = np.zeros(0, np.int64)
    found = settle((1, 20, 250, 260, "2026-01-09"), impressions=Impressions(none, none, none))
    assert found.pending["click_id"].to_pylist() == [1]
