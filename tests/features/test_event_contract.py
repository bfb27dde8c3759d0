"""The contract at the door: what gets in, what doesn't, and whether the reason tells what to do."""

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.event_contract import QUARANTINE, Checked, Origin, WrongColumns, check
from features.event_rules import event_schema
from features.schemas import STREAMS, TIME

NOW = 1_767_657_599_999_999  # the last moment of 2026-01-05
SINCE = NOW - 86_400_000_000 + 1
AT = NOW - 3_600_000_000
CONTEXT = ("device", "placement", "page_topic", "campaign_kind")

VALID: dict[str, dict[str, Any]] = {
    "requests": {"request_id": 1, "user_id": 2, "device": "tv", "placement": "top", "n_candidates": 20, "n_shown": 3},
    "impressions": {
        "impression_id": 1, "request_id": 1, "user_id": None, "ad_id": 3, "slot": 0, "n_candidates": 20,
        "bid": 0.5, "propensity": 0.25, "policy": "logging", "randomised": False,
        "device": "tv", "placement": "top", "page_topic": 23, "campaign_kind": "brand",
    },
    "clicks": {"click_id": 1, "impression_id": 1},
    "users": {"user_id": 1, "user_age": 40, "user_country": "NL"},
    "ads": {
        "ad_id": 1, "campaign_id": None, "advertiser_id": 4, "ad_category": 0, "ad_format": "banner", "ad_price": 0.0,
    },
}  # fmt: skip


def batch(stream: str, *changes: dict[str, Any]) -> pa.Table:
    """One row a change: a valid row with its own id, changed; without not-null marks, as files may be."""
    schema = event_schema(stream, CONTEXT if stream == "impressions" else ())
    rows = []
    for number, change in enumerate(changes):
        row = VALID[stream] | {"event_timestamp": AT, "arrived_at": AT + 1} | {schema.names[0]: number} | change
        rows.append(
            {n: pa.scalar(v, pa.int64()).cast(TIME).as_py() if n in TIMES and v is not None else v for n, v in row.items()}
        )
    return pa.Table.from_pylist(rows, pa.schema([pa.field(f.name, f.type) for f in schema]))


TIMES = ("event_timestamp", "arrived_at")


def judge(stream: str, table: pa.Table, **more: Any) -> Checked:
    return check(stream, table, NOW, CONTEXT if stream == "impressions" else (), since_us=SINCE, **more)


@pytest.mark.parametrize("stream", STREAMS)
def test_valid_rows_are_accepted_in_the_streams_schema(stream: str) -> None:
    found = judge(stream, batch(stream, {}, {}))
    assert len(found.accepted) == 2
    assert found.accepted.schema == event_schema(stream, CONTEXT if stream == "impressions" else ())
    assert len(found.quarantined) == found.duplicates == 0


BAD: list[tuple[str, dict[str, Any], str]] = [
    *[(stream, {field.name: None}, field.name) for stream in STREAMS for field in STREAMS[stream] if not field.nullable],
    ("clicks", {"impression_id": -1}, "impression_id"),
    ("requests", {"user_id": -1}, "user_id"),
    ("impressions", {"ad_id": -5}, "ad_id"),
    ("ads", {"campaign_id": -1}, "campaign_id"),
    ("clicks", {"event_timestamp": 0}, "event_timestamp"),
    ("clicks", {"event_timestamp": AT + 2}, "event_timestamp"),
    ("clicks", {"arrived_at": NOW + 1}, "arrived_at"),
    ("clicks", {"event_timestamp": SINCE - 9, "arrived_at": SINCE - 1}, "arrived_at"),
    ("requests", {"n_candidates": -1}, "n_candidates"),
    ("requests", {"n_shown": -1}, "n_shown"),
    ("requests", {"n_shown": 21}, "n_shown"),
    ("requests", {"device": ""}, "device"),
    ("impressions", {"n_candidates": 0}, "n_candidates"),
    ("impressions", {"slot": -1}, "slot"),
    ("impressions", {"slot": 20}, "slot"),
    ("impressions", {"propensity": 0.0}, "propensity"),
    ("impressions", {"propensity": 1.5}, "propensity"),
    ("impressions", {"propensity": float("nan")}, "propensity"),
    ("impressions", {"bid": -0.1}, "bid"),
    ("impressions", {"bid": float("inf")}, "bid"),
    ("impressions", {"policy": ""}, "policy"),
    ("impressions", {"page_topic": 24}, "page_topic"),
    ("users", {"user_age": 121}, "user_age"),
    ("users", {"user_age": -1}, "user_age"),
    ("ads", {"ad_category": 24}, "ad_category"),
    ("ads", {"ad_price": -1.0}, "ad_price"),
    ("ads", {"ad_price": float("nan")}, "ad_price"),
]


@pytest.mark.parametrize(("stream", "change", "field"), BAD)
def test_a_bad_value_is_refused_and_its_neighbours_are_not(stream: str, change: dict[str, Any], field: str) -> None:
    found = judge(stream, batch(stream, {}, change, {}), origin=Origin(["a", "b"], np.array([0, 1, 1]), np.array([5, 0, 1])))
    assert found.rows.tolist() == [0, 2]
    assert found.quarantined.schema == QUARANTINE
    refused = found.quarantined.to_pylist()[0]
    value = "null" if refused["value"] is None else refused["value"]
    assert (refused["stream"], refused["file"], refused["row"], refused["field"]) == (stream, "b", 0, field)
    assert refused["reason"].startswith(f"b, row 0: {field} is {value}, but it {refused['rule']}; ")
    content = json.loads(refused["content"])
    assert set(content) == set(event_schema(stream, CONTEXT).names)
    if field not in TIMES:
        assert str(content[field]) == str(change[field])


@pytest.mark.parametrize(
    ("stream", "change"),
    [
        ("impressions", {"propensity": 1.0}), ("impressions", {"propensity": None}), ("impressions", {"bid": 0.0}),
        ("impressions", {"slot": 19}), ("impressions", {"page_topic": None}), ("clicks", {"event_timestamp": AT + 1}),
        ("clicks", {"arrived_at": NOW}), ("clicks", {"event_timestamp": SINCE - 9, "arrived_at": SINCE}),
        ("users", {"user_age": 0}), ("users", {"user_age": 120}), ("requests", {"n_shown": 20}),
        ("ads", {"ad_category": 23}), ("ads", {"ad_price": None}),
    ],
)  # fmt: skip
def test_values_at_the_edge_are_accepted(stream: str, change: dict[str, Any]) -> None:
    assert len(judge(stream, batch(stream, change)).accepted) == 1


def test_the_first_row_of_an_id_that_keeps_the_contract_is_accepted() -> None:
    found = judge(
        "clicks", batch("clicks", {"click_id": 4, "impression_id": -1}, {"click_id": 4}, {"click_id": 4}, {"click_id": 5})
    )
    assert found.rows.tolist() == [1, 3]
    assert (len(found.quarantined), found.duplicates) == (1, 1)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(-1, 4), st.integers(-2, 3), st.sampled_from([None, 0.0, 0.5, float("nan")])), max_size=12)
)
def test_no_row_is_lost_or_invented(rows: list[tuple[int, int, float | None]]) -> None:
    table = batch("impressions", *({"impression_id": i, "slot": slot, "propensity": p} for i, slot, p in rows))
    found = judge("impressions", table)
    accepted, seen = [], set()
    for number, (i, slot, p) in enumerate(rows):
        if i >= 0 and slot >= 0 and p in (None, 0.5) and i not in seen:
            accepted.append(number)
            seen.add(i)
    assert found.rows.tolist() == accepted
    assert found.accepted.equals(table.take(pa.array(accepted, pa.int64())).cast(found.accepted.schema))
    assert len(rows) == len(found.accepted) + len(found.quarantined) + found.duplicates


def test_an_empty_batch_is_fine() -> None:
    assert judge("clicks", batch("clicks")).accepted.schema == STREAMS["clicks"]


def test_types_that_hold_the_same_values_are_converted() -> None:
    table = batch("impressions", {})
    other = {"slot": pa.int64(), "bid": pa.float64(), "policy": pa.large_string(), "n_candidates": pa.uint8(),
             "device": pa.dictionary(pa.int8(), pa.string()), "arrived_at": pa.timestamp("ns", "Europe/Amsterdam"),
             "placement": pa.string_view()}  # fmt: skip
    for name, kind in other.items():
        table = table.set_column(table.column_names.index(name), name, table[name].cast(kind))
    table = table.set_column(table.column_names.index("user_id"), "user_id", pa.nulls(1))
    assert judge("impressions", table).accepted.equals(judge("impressions", batch("impressions", {})).accepted)


def test_a_number_too_large_for_its_column_is_refused_not_wrapped() -> None:
    table = batch("impressions", {}, {})
    table = table.set_column(table.column_names.index("slot"), "slot", pa.array([65_536, 1], pa.int64()))
    found = judge("impressions", table)
    assert found.rows.tolist() == [1]
    assert "slot is 65536, but it must be int16" in found.quarantined["reason"][0].as_py()


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda t: t.drop_columns(["impression_id"]), "column 'impression_id' is missing; add it"),
        (lambda t: t.append_column("colour", t["click_id"]), "column 'colour' is unknown; drop it"),
        (lambda t: t.append_column("click_id", t["click_id"]), "two columns have one name"),
        (lambda t: t.set_column(0, "click_id", pa.array(["x"])), r"'click_id' is string, as in \['x'\]; write it as int64"),
        (lambda t: t.set_column(0, "click_id", pa.array([1.0])), "'click_id' is double"),
        (lambda t: t.set_column(2, "event_timestamp", t[2].cast(pa.timestamp("us"))), "an ISO 8601 time with its zone"),
    ],
)  # fmt: skip
def test_a_batch_of_another_shape_is_refused_whole_with_the_fix(spoil: Any, says: str) -> None:
    with pytest.raises(WrongColumns, match=says):
        judge("clicks", spoil(batch("clicks", {})))


def test_text_columns_are_parsed_and_what_cannot_be_is_refused() -> None:
    table = batch("impressions", *[{}] * 5)
    text = {name: [("" if v is None else str(v).lower()) for v in table[name].to_pylist()] for name in table.column_names}
    text["slot"][1] = "first"
    text["bid"][2] = ""
    text["arrived_at"][3] = "05/01/2026 23:00"
    text["randomised"][4] = "perhaps"
    found = judge("impressions", pa.table({name: pa.array([v.encode() for v in values]) for name, values in text.items()}))
    assert found.rows.tolist() == [0, 2]
    assert found.accepted["bid"].to_pylist() == [0.5, None]
    assert found.accepted.slice(0, 1).equals(judge("impressions", table).accepted.slice(0, 1))
    assert dict(zip(found.quarantined["field"].to_pylist(), found.quarantined["value"].to_pylist(), strict=True)) == {
        "slot": "first",
        "arrived_at": "05/01/2026 23:00",
        "randomised": "perhaps",
    }


def test_text_that_is_not_utf8_is_refused_row_by_row() -> None:
    table = batch("users", {}, {}, {})
    raw = pa.array([b"NL", b"\xff\xfeNL", None], pa.binary())
    validity, offsets, data = raw.buffers()
    country = pa.StringArray.from_buffers(3, offsets, data, validity)  # as a parquet file can hold it, unvalidated
    found = judge("users", table.set_column(table.column_names.index("user_country"), "user_country", country))
    assert found.rows.tolist() == [0, 2]
    refused = found.quarantined.to_pylist()[0]
    assert (refused["field"], refused["value"], refused["rule"]) == ("user_country", r"\xff\xfeNL", "must be valid UTF-8")
    assert json.loads(refused["content"])["user_country"] == r"\xff\xfeNL"


def test_slices_and_chunks_are_judged_alike() -> None:
    whole = batch("clicks", {}, {"impression_id": -1}, {}, {"arrived_at": NOW + 1}, {})
    parts = pa.concat_tables([whole.slice(0, 2), whole.slice(2, 3)])
    assert pc.all(pc.equal(judge("clicks", parts).quarantined["row"], judge("clicks", whole).quarantined["row"])).as_py()
    assert judge("clicks", whole.slice(1)).quarantined["row"].to_pylist() == [0, 2]
