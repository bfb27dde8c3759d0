"""Ingestion five minutes at a time: it comes to what a day at once comes to."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from small_market import SPEC, fill

from features.recent import TICK_US
from features.schemas import CLICKS, TIME
from infra.clock import DAY_US
from infra.home import Home
from infra.lake import Lake
from pipelines import landing
from pipelines.ingest import ingest_day
from pipelines.live.intake import Intake, Taken, refused_by_rule

STREAMS = ("requests", "impressions", "clicks", "users", "ads")


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return fill(Home(tmp_path_factory.mktemp("market")))


def day_us(day: str) -> int:
    return int(np.datetime64(day, "us").astype(np.int64))


def take_a_day(intake: Intake, home: Home, day: str) -> Taken:
    """Deliver what landed on a day five minutes at a time."""
    start, whole = day_us(day), Taken()
    rows = {s: pa.concat_tables([landing.read(f) for f in landing.files(home, s, day)]) for s in STREAMS}
    at = {s: pc.cast(t["arrived_at"], pa.int64()).to_numpy() for s, t in rows.items()}
    for end in range(start + TICK_US, start + DAY_US + 1, TICK_US):
        part = {s: t.filter(pa.array((at[s] >= end - TICK_US) & (at[s] < end))) for s, t in rows.items()}
        whole.add(intake.take(part, end))
    return whole


def test_a_day_in_ticks_is_the_day_at_once(market: Home):
    day = Lake.of(market).days("ingests")[-1]
    taken = take_a_day(Intake(market, SPEC, day_us(day)), market, day)
    at_once = ingest_day(market, SPEC, day).streams
    for stream in STREAMS:
        assert taken.counts.get((stream, "accepted"), 0) == at_once[stream].accepted
        assert taken.counts.get((stream, "landed"), 0) == at_once[stream].delivered
    clicks = taken.rows("clicks", CLICKS)
    assert sorted(clicks["click_id"].to_pylist()) == sorted(Lake.of(market).read("clicks", days=[day])["click_id"].to_pylist())
    assert taken.counts["clicks", "pending"] == at_once["clicks"].pending


def test_what_came_before_counts_once(market: Home):
    day = Lake.of(market).days("ingests")[-1]
    intake = Intake(market, SPEC, day_us(day))
    take_a_day(intake, market, day)
    again = take_a_day(intake, market, day)
    for stream in ("requests", "impressions", "clicks"):
        assert again.counts[stream, "accepted"] == 0
        assert again.counts[stream, "duplicates"] == again.counts[stream, "landed"] > 0


def test_rows_that_break_the_contract_are_counted_by_rule(market: Home):
    day = Lake.of(market).days("ingests")[-1]
    rows = landing.read(landing.files(market, "clicks", day)[0])
    late = pa.array(np.full(rows.num_rows, day_us(day) - 40 * DAY_US)).cast(TIME)
    place = rows.schema.get_field_index("event_timestamp")
    broken = rows.set_column(place, rows.schema.field(place), late).slice(0, 5)
    taken = Intake(market, SPEC, day_us(day)).take({"clicks": broken}, day_us(day) + DAY_US)
    assert taken.counts["clicks", "accepted"] == 0
    refused = refused_by_rule(taken.refused)
    assert sum(refused["rows"].to_pylist()) == taken.counts["clicks", "quarantined"] > 0
    assert set(refused["stream"].to_pylist()) == {"clicks"}


def test_a_delivery_of_another_shape_is_refused_as_a_whole(market: Home):
    day = Lake.of(market).days("ingests")[-1]
    rows = landing.read(landing.files(market, "impressions", day)[0]).drop_columns("slot")
    taken = Intake(market, SPEC, day_us(day)).take({"impressions": rows}, day_us(day) + DAY_US)
    assert taken.counts["impressions", "accepted"] == 0
    assert refused_by_rule(taken.refused)["field"].to_pylist() == [""]


def test_what_is_landed_is_what_was_delivered(market: Home, tmp_path: Path):
    day = Lake.of(market).days("ingests")[-1]
    other = Home(tmp_path)
    intake = Intake(market, SPEC, day_us(day))
    take_a_day(intake, market, day)
    intake._home = other
    intake.land(day_us(day))
    for stream in ("requests", "impressions", "clicks"):
        landed = pa.concat_tables([landing.read(file) for file in landing.files(other, stream, day)])
        delivered = pa.concat_tables([landing.read(file) for file in landing.files(market, stream, day)])
        assert landed.num_rows == delivered.num_rows
