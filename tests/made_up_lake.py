"""A small made-up lake for tests of features: a few days, a few dozen users and ads, late clicks, users without a profile."""

import numpy as np
import pyarrow as pa

from features.schemas import ADS, CATEGORIES, CLICKS, IMPRESSIONS, TIME, USERS
from infra.clock import DAY_US, HOUR_US, SECOND_US, day_name
from infra.home import Home
from infra.lake import Lake
from pipelines.sources.contract import SourceSpec, Split

FIRST_US = 20_461 * DAY_US  # 2026-01-08, a Thursday


def spec(days: int = 4) -> SourceSpec:
    return SourceSpec(
        name="made-up",
        entities=("user", "ad", "campaign", "placement"),
        context=("device", "placement", "page_topic"),
        streams=("requests", "impressions", "clicks", "users", "ads"),
        split=Split(1, days - 3, 1, 1, 0),
        first_day_us=FIRST_US,
        days=days,
        truth=False,
    )


def fill(home: Home, days: int = 4, impressions: int = 300, users: int = 40, ads: int = 12, seed: int = 3) -> SourceSpec:
    """Write the lake of a home; the spec it answers to."""
    rng = np.random.default_rng(seed)
    lake = Lake.of(home)
    n = days * impressions
    end = FIRST_US + days * DAY_US - 1
    per = 3  # impressions a request, at slots 0, 1, 2
    asked = np.sort(FIRST_US + rng.integers(0, days * DAY_US - HOUR_US, n // per))
    shown = np.repeat(asked, per)
    user = np.repeat(rng.integers(0, users, n // per), per) * 1_000_003 + 17
    shown_arrived = np.minimum(shown + rng.integers(0, 90 * SECOND_US, len(shown)), end)
    ad = rng.integers(0, ads, len(shown)) * 7_919 + 5
    ids = np.arange(len(shown)) + 1
    words = {
        "device": np.repeat(rng.choice(["desktop", "mobile"], n // per), per),
        "placement": np.repeat(rng.choice(["top", "side", "foot"], n // per), per),
    }
    _append(
        lake, "impressions", IMPRESSIONS, shown_arrived,
        impression_id=ids, request_id=np.repeat(np.arange(n // per), per), event_timestamp=shown, arrived_at=shown_arrived,
        user_id=user, ad_id=ad, slot=np.tile(np.arange(per), n // per), n_candidates=np.full(len(ids), 10),
        bid=np.ones(len(ids)), propensity=np.ones(len(ids)), policy=["made-up"] * len(ids), randomised=np.ones(len(ids), bool),
        **words, page_topic=np.repeat(rng.integers(0, CATEGORIES, n // per), per),
    )  # fmt: skip
    of = np.flatnonzero(rng.random(len(ids)) < 0.2)
    clicked = np.minimum(shown[of] + rng.integers(SECOND_US, HOUR_US, len(of)), end)
    clicked_arrived = np.minimum(clicked + rng.integers(0, 10 * HOUR_US, len(of)) * (rng.random(len(of)) < 0.3), end)
    _append(
        lake, "clicks", CLICKS, clicked_arrived,
        click_id=np.arange(len(of)), impression_id=ids[of], event_timestamp=clicked, arrived_at=clicked_arrived,
    )  # fmt: skip
    known = np.arange(users - 5)  # the last five never had a profile
    signed = FIRST_US + rng.integers(0, days * DAY_US - HOUR_US, len(known)) * (known % 2)
    _append(
        lake, "users", USERS, signed + SECOND_US,
        user_id=known * 1_000_003 + 17, event_timestamp=signed, arrived_at=signed + SECOND_US,
        user_age=pa.array(rng.integers(18, 80, len(known)), mask=known % 9 == 0),
        user_country=rng.choice(["AT", "NZ"], len(known)),
    )  # fmt: skip
    made = np.arange(ads - 1)
    at = np.full(len(made), FIRST_US)
    _append(
        lake, "ads", ADS, at,
        ad_id=made * 7_919 + 5, event_timestamp=at, arrived_at=at, campaign_id=made % 3 + 900, advertiser_id=made % 2 + 50,
        ad_category=pa.array(made % 4, mask=made == 7), ad_format=rng.choice(["text", "video"], len(made)),
        ad_price=pa.array(rng.uniform(1, 90, len(made)), mask=made == 3),
    )  # fmt: skip
    return spec(days)


def _append(lake: Lake, table: str, schema: pa.Schema, arrived_us: np.ndarray, **columns: object) -> None:
    """One commit: columns cast to the stream's types (context columns keep their own), with the day of arrival."""
    types = {field.name: field.type for field in schema}
    arrays = {}
    for name, values in columns.items():
        column = values if isinstance(values, pa.Array) else pa.array(values)
        arrays[name] = (column.cast(pa.int64()) if types.get(name) == TIME else column).cast(types.get(name, column.type))
    arrays["day"] = pa.array([day_name(at) for at in arrived_us.tolist()])
    lake.append(table, pa.table(arrays))
