"""A small made-up event log, landed as files: what ingestion's tests feed it."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from features.ids import derived_id
from features.schemas import ADS, CLICKS, IMPRESSIONS, REQUESTS, TIME, USERS
from infra.clock import DAY_US, MINUTE_US, SECOND_US, day_name
from infra.home import Home
from pipelines.sources.contract import SourceSpec, Split

FIRST_DAY_US = 1_767_571_200_000_000  # 2026-01-05
SPEC = SourceSpec(
    name="landed",
    entities=("user", "ad"),
    context=("device", "placement", "page_topic"),
    streams=("requests", "impressions", "clicks", "users", "ads"),
    split=Split(1, 1, 1, 1, 1),
    first_day_us=FIRST_DAY_US,
    days=5,
    truth=False,
)


def day_of(number: int) -> str:
    """The name of the log's day `number`, from 0."""
    return day_name(FIRST_DAY_US + number * DAY_US)


def times(values: np.ndarray) -> pa.Array:
    """us as a time column."""
    return pa.array(values.astype(np.int64), pa.int64()).cast(TIME)


def log_of_day(number: int, requests: int = 40, seed: int = 0) -> dict[str, pa.Table]:
    """A day of each stream, all rows valid: two ads shown a request, one impression in ten clicked within the day."""
    luck = np.random.default_rng([seed, number])
    begin = FIRST_DAY_US + number * DAY_US
    at = begin + np.sort(luck.integers(0, DAY_US - 30 * MINUTE_US, requests))
    request = derived_id(seed, number, np.arange(requests))
    shown, slot = np.repeat(request, 2), np.tile([0, 1], requests)
    n, shown_at = 2 * requests, np.repeat(at, 2)
    impression = derived_id(shown, slot)
    clicked = np.flatnonzero(luck.random(n) < 0.1)
    clicked_at = shown_at[clicked] + luck.integers(SECOND_US, 20 * MINUTE_US, len(clicked))
    ads = np.arange(number * 3, number * 3 + 3)
    context = {"device": ["mobile"], "placement": ["top"]}
    return {
        "requests": pa.table(
            [request, times(at), times(at + SECOND_US), np.arange(requests), *(v * requests for v in context.values()),
             np.full(requests, 20), np.full(requests, 2)],
            schema=REQUESTS,
        ),
        "impressions": pa.table(
            [impression, shown, times(shown_at), times(shown_at + SECOND_US), np.repeat(np.arange(requests), 2),
             luck.integers(0, 99, n), slot, np.full(n, 20), luck.random(n),
             luck.uniform(0.01, 1, n), ["logging"] * n, luck.random(n) < 0.1],
            schema=IMPRESSIONS,
        ).append_column("device", [["mobile"] * n]).append_column("placement", [["top"] * n])
        .append_column("page_topic", [luck.integers(0, 24, n)]),
        "clicks": pa.table(
            [derived_id(impression[clicked], 7), impression[clicked], times(clicked_at), times(clicked_at + MINUTE_US)],
            schema=CLICKS,
        ),
        "users": pa.table([[number], times(np.array([begin])), times(np.array([begin])), [30], ["NL"]], schema=USERS),
        "ads": pa.table(
            [ads, times(np.full(3, begin)), times(np.full(3, begin)), ads, ads, [0, 1, 2], ["banner"] * 3, [1.0, 2.0, 3.0]],
            schema=ADS,
        ),
    }  # fmt: skip


def land(home: Home, stream: str, number: int, table: pa.Table, name: str = "part-0.parquet") -> Path:
    """Write a table as one landed file of a day."""
    path = home.writing(home.landing / stream / f"day={day_of(number)}" / name)
    pq.write_table(table, path)
    return path


def land_days(home: Home, days: int, requests: int = 40) -> None:
    """Land the first days of the log."""
    for number in range(days):
        for stream, table in log_of_day(number, requests).items():
            land(home, stream, number, table)
