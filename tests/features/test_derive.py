"""Derived features: the arithmetic of each against a plain formula, the unknown, and bits that don't depend on company."""

import math
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.batch import RequestBatch
from features.catalogue import CONTEXT, DERIVED, SEQUENCE_LENGTH, SERVICES, VIEWS
from features.derive import CATEGORY_CTR_STRENGTH, CATEGORY_SHARE_STRENGTH, NEEDS, derive
from features.recent import COUNTERS
from features.schemas import CATEGORIES
from features.spec import feature_spec
from infra.clock import DAY_US, HOUR_US, SECOND_US

ALL = ("user", "ad", "campaign", "placement")
TIME_US = 20_461 * DAY_US + 6 * HOUR_US  # Thursday, six o'clock


def made_up(n: int, seed: int) -> tuple[dict[str, np.ndarray], RequestBatch]:
    """Stored columns of n rows, about a fifth unknown, and their requests."""
    rng = np.random.default_rng(seed)
    stored: dict[str, np.ndarray] = {}
    for view in VIEWS:
        unknown = rng.random(n) < 0.2
        for f in view.features:
            if f.kind in ("float", "floats"):
                values = rng.gamma(1.0, 3.0, (n, f.length) if f.kind == "floats" else n).astype(np.float32)
                values[unknown] = np.nan
            elif f.kind == "time":
                values = np.where(unknown, -1, TIME_US - rng.integers(0, 30 * DAY_US, n))
            elif f.kind == "string":
                values = np.where(unknown, "", rng.choice(["a", "bb"], n))
            else:
                values = rng.integers(-1, CATEGORIES, (n, f.length) if f.length > 1 else n)
                values[unknown] = -1
            stored[f.name] = values
    context = {"device": rng.choice(["tv", "mobile"], n), "placement": rng.choice(["top"], n)}
    context["page_topic"] = rng.integers(-1, CATEGORIES, n)
    times = TIME_US + rng.integers(0, DAY_US, n)
    return stored, RequestBatch(np.arange(n), times, rng.integers(0, 9, n), rng.integers(0, 9, n), context)


def one(stored: dict[str, object], **context: object) -> dict[str, np.ndarray]:
    """`derive` of a single row at TIME_US."""
    arrays = {name: np.array([value]) for name, value in stored.items()}
    request = RequestBatch(
        np.array([0]), np.array([TIME_US]), np.array([1]), np.array([2]), {k: np.array([v]) for k, v in context.items()}
    )
    return {name: values[0] for name, values in derive(arrays, request).items()}


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(0, 1 << 30))
def test_a_rows_bits_do_not_depend_on_the_rows_beside_it(n, seed):
    stored, requests = made_up(n, seed)
    together = derive(stored, requests)
    for i in range(n):
        row = slice(i, i + 1)
        alone = derive(
            {name: values[row] for name, values in stored.items()},
            RequestBatch(
                requests.row_id[row], requests.time_us[row], requests.user_id[row], requests.ad_id[row],
                {name: values[row] for name, values in requests.context.items()},
            ),
        )  # fmt: skip
        for name, values in together.items():
            assert values[row].tobytes() == alone[name].astype(values.dtype).tobytes(), name


def by_hand(stored: dict[str, np.ndarray], requests: RequestBatch, i: int) -> dict[str, float]:
    """Row i of what is derived, one formula after the other, as the catalogue words them."""
    x: dict[str, Any] = {name: values[i] for name, values in stored.items()}
    now, topic, category = int(requests.time_us[i]), int(requests.context["page_topic"][i]), int(x["ad_category"])
    there, known = 0 <= category < CATEGORIES, x["user_recent_until"] >= 0

    def days(name: str) -> float:
        return max(now - int(x[name]), 0) / DAY_US if x[name] >= 0 else math.nan

    def log_seconds(name: str) -> float:
        return math.log1p(max(now - int(x[name]), 0) / SECOND_US) if x[name] >= 0 else math.nan

    def decayed(value: float, half_life: int) -> float:
        return float(value) * 2.0 ** -(max(now - int(x["user_recent_until"]), 0) / half_life) if known else math.nan

    def in_category(name: str) -> float:
        return float(x[name][category]) if there else math.nan

    clicks, shown, price = in_category("user_category_clicks"), in_category("user_category_impressions"), float(x["ad_price"])
    hour = now % DAY_US / HOUR_US
    return {
        "user_impressions_1h": decayed(x["user_impressions_1h"], HOUR_US),
        "user_clicks_1h": decayed(x["user_clicks_1h"], HOUR_US),
        "user_impressions_1d": decayed(x["user_impressions_1d"], DAY_US),
        "user_clicks_1d": decayed(x["user_clicks_1d"], DAY_US),
        "user_tenure_days": days("user_signup"),
        "seconds_since_impression": log_seconds("user_last_impression"),
        "seconds_since_click": log_seconds("user_last_click"),
        "user_category_impressions_7d": shown,
        "user_category_clicks_7d": clicks,
        "user_category_ctr": (clicks + 20 * float(x["user_ctr"])) / (shown + 20),
        "user_category_share": (clicks + 5 / CATEGORIES) / (float(x["user_clicks_7d"]) + 5),
        "user_category_fatigue": decayed(in_category("user_category_recent"), 6 * HOUR_US),
        "clicked_category_matches": x["user_clicked_categories"].tolist().count(category)
        if category >= 0 and known
        else math.nan,
        "ad_log_price": math.log1p(price),
        "price_gap": math.log1p(price) - float(x["user_price_clicked"]),
        "ad_age_days": days("ad_created"),
        "campaign_age_days": days("campaign_started"),
        "hour_sin": math.sin(2 * math.pi * hour / 24),
        "hour_cos": math.cos(2 * math.pi * hour / 24),
        "topic_match": float(category == topic) if category >= 0 and topic >= 0 else math.nan,
        "hour": math.floor(hour),
        "weekend": float(datetime.fromtimestamp(now / SECOND_US, UTC).weekday() >= 5),
    }


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30), st.integers(0, 1 << 30))
def test_each_row_is_what_the_formulas_give_by_hand(n, seed):
    stored, requests = made_up(n, seed)
    columns = derive(stored, requests)
    for i in range(n):
        expected = by_hand(stored, requests, i)
        assert set(expected) == {f.name for f in DERIVED} | {name for name in COUNTERS if name != "user_category_recent"}
        for name, value in expected.items():
            np.testing.assert_allclose(columns[name][i], value, rtol=2e-7, atol=1e-7, err_msg=name)


def test_every_derived_feature_says_what_it_needs_and_is_computed():
    stored, requests = made_up(3, 1)
    known = {f.name for v in VIEWS for f in v.features} | {f"request.{f.name}" for f in CONTEXT}
    columns = derive(stored, requests)
    for feature in DERIVED:
        assert set(NEEDS[feature.name]) <= known
        assert columns[feature.name].dtype == (np.int64 if feature.kind == "int" else np.float32)
    assert set(NEEDS) == {f.name for f in DERIVED}


def test_recent_counters_decay_from_their_row_to_the_request():
    got = one(
        {
            "user_impressions_1h": np.float32(8), "user_clicks_1h": np.float32(4), "user_impressions_1d": np.float32(2),
            "user_clicks_1d": np.float32(1), "user_last_impression": TIME_US - 99 * SECOND_US, "user_last_click": -1,
            "user_recent_until": TIME_US - 2 * HOUR_US, "user_clicked_categories": np.full(SEQUENCE_LENGTH, -1),
            "user_category_recent": np.full(CATEGORIES, 4, np.float32), "ad_category": 3,
        }
    )  # fmt: skip
    assert got["user_impressions_1h"] == 2
    assert got["user_clicks_1h"] == 1
    assert got["user_impressions_1d"] == np.float32(2 * 2 ** (-2 / 24))
    assert got["user_category_fatigue"] == np.float32(4 * 2 ** (-2 / 6))
    assert got["seconds_since_impression"] == np.float32(math.log(100))
    assert np.isnan(got["seconds_since_click"])


def test_crosses_pick_the_ads_category_and_smooth_towards_the_users_own_rate():
    shown, clicks = np.zeros(CATEGORIES, np.float32), np.zeros(CATEGORIES, np.float32)
    shown[5], clicks[5] = 10, 3
    stored = {
        "user_category_impressions": shown, "user_category_clicks": clicks, "user_ctr": np.float32(0.1),
        "user_clicks_7d": np.float32(4), "ad_category": 5,
    }  # fmt: skip
    got = one(stored)
    assert got["user_category_impressions_7d"] == 10
    assert got["user_category_clicks_7d"] == 3
    strength = CATEGORY_CTR_STRENGTH
    assert got["user_category_ctr"] == pytest.approx((3 + strength * 0.1) / (10 + strength))
    strength = CATEGORY_SHARE_STRENGTH
    assert got["user_category_share"] == pytest.approx((3 + strength / CATEGORIES) / (4 + strength))
    unknown = one({**stored, "ad_category": -1})
    for name in ("user_category_impressions_7d", "user_category_ctr", "user_category_share"):
        assert np.isnan(unknown[name])


def test_times_prices_matches_and_calendar():
    got = one(
        {
            "user_signup": TIME_US - 3 * DAY_US, "ad_created": TIME_US - DAY_US // 2, "campaign_started": -1,
            "ad_price": np.float32(math.e - 1), "user_price_clicked": np.float32(0.25), "ad_category": 7,
            "user_clicked_categories": np.array([7, 2, 7, -1, -1]), "user_recent_until": TIME_US,
        },
        page_topic=7,
    )  # fmt: skip
    assert got["user_tenure_days"] == 3
    assert got["ad_age_days"] == 0.5
    assert np.isnan(got["campaign_age_days"])
    assert got["ad_log_price"] == pytest.approx(1)
    assert got["price_gap"] == pytest.approx(0.75)
    assert got["clicked_category_matches"] == 2
    assert got["topic_match"] == 1
    assert (got["hour"], got["weekend"]) == (6, 0.0)
    assert got["hour_sin"] == pytest.approx(1)
    assert got["hour_cos"] == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("entities", [ALL, ("ad", "placement"), ("user", "ad")])
@pytest.mark.parametrize("context", [("device", "placement", "page_topic"), ("placement",)])
def test_the_spec_names_exactly_the_columns_that_are_computed(service, entities, context):
    stored, requests = made_up(4, 2)
    spec = feature_spec(entities, context, service)
    views = [v for v in VIEWS if v.entity in entities and v.name in SERVICES[service]]
    kept = {f.name: stored[f.name] for v in views for f in v.features}
    asked = RequestBatch(
        requests.row_id, requests.time_us, requests.user_id, requests.ad_id, {n: requests.context[n] for n in context}
    )
    columns = set(derive(kept, asked)) - ({"user_id"} if "user" not in entities else set())
    assert set(spec.categorical + spec.numeric + spec.sequence) == columns
    assert set(spec.skipped_views) == set(SERVICES[service]) - {v.name for v in views}


def test_a_context_column_of_the_sources_own_is_categorical():
    spec = feature_spec(("ad",), ("campaign_kind",))
    assert "campaign_kind" in spec.categorical
    assert "user_id" not in spec.categorical
