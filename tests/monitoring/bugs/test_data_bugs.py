"""Faults of data, experiments and feedback: who is hit, and what the contract at the lake's door says to it."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from made_up_rows import DAY, market, rows_for

from features.event_contract import check
from features.schemas import IMPRESSIONS
from infra.clock import DAY_US, HOUR_US, MINUTE_US, SECOND_US
from monitoring.bugs.catalogue import bug
from monitoring.bugs.entry import Scene


def us(rows: pa.Table, name: str) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.asarray(pc.cast(rows[name], pa.int64()).to_numpy())


def in_market(code: str, dose: float) -> tuple[pa.Table, pa.Table, pa.Table]:
    """(clicks before, clicks after, impressions)."""
    clicks, shown = market(20_000, np.random.default_rng(9))
    return clicks, bug(code).inject(clicks, dose, Scene("clicks", seed=3, tables={"impressions": shown})), shown


def of_impressions(clicks: pa.Table, shown: pa.Table, column: str) -> list[object]:
    value = dict(zip(shown["impression_id"].to_pylist(), shown[column].to_pylist(), strict=True))
    return [value[i] for i in clicks["impression_id"].to_pylist()]


@pytest.mark.parametrize(("code", "column", "value"), [("DATA02", "device", "mobile"), ("TRAIN02", "randomised", True)])
def test_only_clicks_of_the_slice_are_lost(code: str, column: str, value: object) -> None:
    clicks, kept, shown = in_market(code, 0.8)
    gone = clicks.filter(pc.invert(pc.is_in(clicks["click_id"], kept["click_id"].combine_chunks())))
    assert set(of_impressions(gone, shown, column)) == {value}
    assert gone.num_rows / of_impressions(clicks, shown, column).count(value) == pytest.approx(0.8, abs=0.03)


def test_a_click_farm_clicks_at_once_and_on_nearly_all_that_its_users_see() -> None:
    clicks, found, shown = in_market("DATA06", 0.03)
    farmed = found.slice(clicks.num_rows)
    users = set(of_impressions(farmed, shown, "user_id"))
    assert len(users) == pytest.approx(0.03 * 20_000 * 0.7 * 0.9, rel=0.15)  # one impression a user, 0.7 of them not clicked
    at = dict(zip(shown["impression_id"].to_pylist(), us(shown, "event_timestamp").tolist(), strict=True))
    delay = us(farmed, "event_timestamp") - np.array([at[i] for i in farmed["impression_id"].to_pylist()])
    assert SECOND_US <= delay.min() < delay.max() <= 2 * SECOND_US


def test_half_of_what_is_delivered_twice_comes_later_and_ingestion_counts_it_once() -> None:
    rows, scene = rows_for(bug("DATA03"), "impressions", 4000)
    rows = rows.select(IMPRESSIONS.names).set_column(
        3,
        IMPRESSIONS.field("arrived_at"),
        pc.add(rows["event_timestamp"], pa.scalar(1, pa.duration("us"))).cast(IMPRESSIONS.field("arrived_at").type),
    )
    rows = rows.set_column(
        rows.schema.get_field_index("n_candidates"), IMPRESSIONS.field("n_candidates"), pa.array(np.full(4000, 20, np.int32))
    )
    found = bug("DATA03").inject(rows, 0.3, scene)
    again = found.slice(4000)
    later = us(again, "arrived_at") - us(
        rows.take(pc.index_in(again["impression_id"], rows["impression_id"].combine_chunks())), "arrived_at"
    )
    assert np.mean(later > 0) == pytest.approx(0.5, abs=0.06)
    assert 0 <= later.min() < later.max() <= 30 * MINUTE_US
    checked = check("impressions", found, DAY + 2 * DAY_US)
    assert checked.duplicates == again.num_rows
    assert checked.accepted.num_rows == 4000


@pytest.mark.parametrize(("code", "field"), [("DATA13", "propensity"), ("DATA14", "event_timestamp")])
def test_the_contract_refuses_what_breaks_it(code: str, field: str) -> None:
    entry = bug(code)
    rows, scene = rows_for(entry, entry.tables[0], 4000)
    arrives = pc.add(rows["event_timestamp"], pa.scalar(60 * SECOND_US, pa.duration("us")))
    rows = rows.set_column(rows.schema.get_field_index("arrived_at"), rows.schema.field("arrived_at"), arrives)
    if code == "DATA13":
        for name, value in (("n_candidates", np.full(4000, 20)), ("propensity", np.full(4000, 0.9))):
            at = rows.schema.get_field_index(name)
            rows = rows.set_column(at, rows.schema.field(at), pa.array(value).cast(rows.schema.field(at).type))
    context = tuple(name for name in rows.column_names if name in ("device", "placement", "page_topic"))
    assert check(entry.tables[0], rows, DAY + 3 * DAY_US, context).quarantined.num_rows == 0
    refused = check(entry.tables[0], entry.inject(rows, 0.4, scene), DAY + 3 * DAY_US, context).quarantined
    assert set(refused["field"].to_pylist()) == {field}
    assert refused.num_rows / 4000 == pytest.approx(0.4, abs=0.04)


def test_held_clicks_come_6_to_12_hours_later() -> None:
    rows, scene = rows_for(bug("DATA05"), "clicks", 4000)
    later = us(bug("DATA05").inject(rows, 0.6, scene), "arrived_at") - us(rows, "arrived_at")
    assert later[later > 0].min() >= 6 * HOUR_US
    assert later.max() <= 12 * HOUR_US


def test_a_renamed_device_and_a_numbered_placement_are_values_nobody_has_seen() -> None:
    rows, scene = rows_for(bug("DATA11"), "requests", 4000)
    renamed, numbered = bug("DATA11").inject(rows, 0.6, scene), bug("DATA12").inject(rows, 1.0, scene)
    was = np.asarray(rows["device"].to_pylist())
    assert set(was[np.asarray(renamed["device"].to_pylist()) == "phone"]) == {"mobile"}
    pairs = sorted({*zip(rows["placement"].to_pylist(), numbered["placement"].to_pylist(), strict=True)})
    assert [code for _, code in pairs] == ["0", "1", "2", "3", "4", "5"]


def test_arms_lose_requests_or_users_or_their_memory() -> None:
    log, scene = rows_for(bug("EXP01"), "predictions", 4000)
    lost = bug("EXP01").inject(log, 0.5, scene)
    arms = {arm: (log["arm"].to_pylist().count(arm), lost["arm"].to_pylist().count(arm)) for arm in ("a", "b")}
    assert arms["a"][0] == arms["a"][1]
    assert arms["b"][1] / arms["b"][0] == pytest.approx(0.5, abs=0.05)
    user = np.arange(4000) // 8  # eight requests each
    asked = pa.table({"request_id": np.arange(4000), "user_id": user, "arm": np.where(user % 2, "a", "b")})
    for code, sticky, share_of_b in (("EXP02", True, 0.5 + 0.5 * 0.4), ("EXP03", False, 0.5)):
        arm = np.asarray(bug(code).inject(asked, 0.4, Scene("assignment", seed=1))["arm"].to_pylist())
        assert np.mean(arm == "b") == pytest.approx(share_of_b, abs=0.06)
        seen_in_both = np.array([len(set(arm[user == u])) == 2 for u in range(500)])
        assert seen_in_both.mean() == pytest.approx(0.0 if sticky else 0.4, abs=0.0 if sticky else 0.07)


def test_an_experiment_by_other_names_is_left_alone() -> None:
    asked = pa.table({"request_id": [1, 2], "user_id": [1, 2], "arm": ["blue", "green"]})
    for code in ("EXP02", "EXP03"):
        assert bug(code).inject(asked, 1.0, Scene("assignment", seed=1))["arm"].to_pylist() == ["blue", "green"]
