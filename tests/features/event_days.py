"""Small made-up event logs for feature tests: tables as the lake holds them, a few days of arrival."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from features.day_events import Ads, DayEvents, day_events
from features.schemas import TIME
from infra.clock import DAY_US, HOUR_US

FIRST_US = 20_000 * DAY_US
DAYS = 3


class Log(NamedTuple):
    """Events of a few days; arrays by impression and by click."""

    shown_us: np.ndarray
    shown_arrived_us: np.ndarray
    user_id: np.ndarray
    ad_id: np.ndarray
    slot: np.ndarray
    of: np.ndarray  # the impression of each click, an index
    clicked_us: np.ndarray
    clicked_arrived_us: np.ndarray


def impressions(log: Log) -> pa.Table:
    return pa.table(
        {
            "impression_id": np.arange(len(log.user_id)) * 7 + 3,
            "event_timestamp": pa.array(log.shown_us).cast(TIME),
            "arrived_at": pa.array(log.shown_arrived_us).cast(TIME),
            "user_id": pa.array(log.user_id, mask=log.user_id < 0),
            "ad_id": log.ad_id,
            "slot": pa.array(log.slot, pa.int16()),
            "placement": pa.array([("top", "side")[i % 2] for i in log.ad_id.tolist()], pa.string()),
        }
    )


def clicks(log: Log) -> pa.Table:
    return pa.table(
        {
            "click_id": np.arange(len(log.of)),
            "impression_id": log.of * 7 + 3,
            "event_timestamp": pa.array(log.clicked_us).cast(TIME),
            "arrived_at": pa.array(log.clicked_arrived_us).cast(TIME),
        }
    )


def ads() -> Ads:
    """Ads 0..4: campaigns 100..102, categories 0, 1, 2, 0, unknown; ad 5 has no profile."""
    ids = np.arange(5)
    category = np.array([0, 1, 2, 0, -1])
    return Ads(ids, ids % 3 + 100, category, np.log1p(np.array([1.0, 5.0, np.nan, 20.0, 3.0])))


def days(log: Log) -> list[DayEvents]:
    """The log cut by day of arrival; all impressions are in every day's window."""
    shown, clicked = impressions(log), clicks(log)
    return [
        day_events(
            shown.filter(pa.array((log.shown_arrived_us - FIRST_US) // DAY_US == day)),
            clicked.filter(pa.array((log.clicked_arrived_us - FIRST_US) // DAY_US == day)),
            shown,
            ads(),
        )
        for day in range(DAYS)
    ]


@st.composite
def logs(draw: st.DrawFn) -> Log:
    """Up to 60 impressions over three days, arriving up to hours late, and clicks on some of them."""
    rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    n, k = draw(st.integers(0, 60)), draw(st.integers(0, 30))
    if n == 0:
        k = 0
    end = FIRST_US + DAYS * DAY_US - 1
    shown = FIRST_US + rng.integers(0, DAYS * DAY_US - 1, n)
    of = rng.integers(0, max(n, 1), k)
    clicked = np.minimum(shown[of] + rng.integers(0, 6 * HOUR_US, k), end) if n else np.zeros(0, np.int64)
    return Log(
        shown,
        np.minimum(shown + rng.integers(0, 2 * HOUR_US, n) * rng.integers(0, 2, n), end),
        rng.integers(-1, 4, n),
        rng.integers(0, 6, n),
        rng.integers(0, 3, n),
        of,
        clicked,
        np.minimum(clicked + rng.integers(0, 20 * HOUR_US, k), end),
    )
