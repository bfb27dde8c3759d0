"""Skews: a rewritten feature and those derived from it are what the endpoint would have made of the wrong stored value."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from features.batch import RequestBatch
from features.catalogue import VIEWS
from features.derive import derive
from features.schemas import CATEGORIES, TIME
from infra.clock import DAY_US, HOUR_US
from monitoring.bugs.catalogue import bug
from monitoring.bugs.entry import Scene
from monitoring.bugs.rows import touched

N = 400
DAY = 20_454 * DAY_US
SCENE = Scene("features", seed=11)
Array = npt.NDArray[Any]
Stored = dict[str, Array]


def stored_rows() -> Stored:
    """What the store holds for N rows; one user in five has never clicked."""
    draw, end = np.random.default_rng(6), DAY - HOUR_US
    stored: Stored = {}
    for feature in (f for v in VIEWS for f in v.features):
        shape = (N, feature.length) if feature.length > 1 else N
        if feature.kind in ("float", "floats"):
            stored[feature.name] = (draw.random(shape) * 9).astype(np.float32)
        elif feature.kind == "time":
            stored[feature.name] = end - draw.integers(0, 5 * HOUR_US, N)
        elif feature.kind == "string":
            stored[feature.name] = draw.choice(["US", "PL", "DE"], N)
        else:
            stored[feature.name] = draw.integers(0, CATEGORIES, shape)
    stored["user_ctr"] = (draw.random(N) * 0.1).astype(np.float32)
    stored["user_price_clicked"][::5] = np.nan
    return stored


def asked(hours: int = 0) -> RequestBatch:
    """N requests of two days, by a clock that is some hours off."""
    draw = np.random.default_rng(7)
    context: dict[str, Array] = {
        "device": draw.choice(["mobile", "tv"], N),
        "placement": draw.choice(["home_feed", "search"], N),
        "page_topic": draw.integers(0, CATEGORIES, N),
    }
    time_us = DAY + draw.integers(0, 2 * DAY_US, N) + hours * HOUR_US
    return RequestBatch(np.arange(N), time_us, np.arange(N) + 1, np.arange(N) + 1, context)


def fetched(stored: Stored, requests: RequestBatch) -> pa.Table:
    """The table that bugs of stage `features` get."""
    columns = {name: values for name, values in derive(stored, requests).items() if values.ndim == 1}
    stamps = {
        "impression_id": np.arange(N),
        "request_id": np.arange(N),
        "event_timestamp": pa.array(asked().time_us).cast(TIME),
    }
    return pa.table({**stamps, **columns})


def zeros(stored: Stored) -> None:
    for name in ("user_impressions_7d", "user_clicks_7d", "user_ctr", "user_price_clicked"):
        stored[name] = np.zeros_like(stored[name])
    for name in ("user_category_impressions", "user_category_clicks"):
        stored[name] = np.zeros_like(stored[name])


def a_default_user(stored: Stored) -> None:
    stored["user_country"], stored["user_age"] = np.full(N, "US"), np.full(N, 35, np.float32)
    stored["user_signup"] = asked().time_us


def cents(stored: Stored) -> None:
    stored["ad_price"] = stored["ad_price"] * np.float32(100)


def thousandfold_recency(stored: Stored) -> None:
    for name in ("user_last_impression", "user_last_click"):
        stored[name] = asked().time_us - 1000 * (asked().time_us - stored[name])


def swapped(stored: Stored) -> None:
    stored["user_country"] = np.array([{"US": "PL", "PL": "US"}.get(c, c) for c in stored["user_country"]])


def whole_percents(stored: Stored) -> None:
    stored["user_ctr"] = np.round(stored["user_ctr"], 2)


def zero_prices(stored: Stored) -> None:
    stored["user_price_clicked"] = np.nan_to_num(stored["user_price_clicked"])


@pytest.mark.parametrize(("code", "broken"), [
    ("SKEW01", zeros), ("SKEW02", a_default_user), ("SKEW03", cents), ("SKEW04", thousandfold_recency), ("SKEW06", swapped),
    ("SKEW12", whole_percents), ("SKEW14", zero_prices),
])  # fmt: skip
def test_derived_features_follow_the_stored_value_that_is_wrong(code: str, broken: Callable[[Stored], None]) -> None:
    stored = stored_rows()
    sound = fetched(stored, asked())
    broken(stored)
    wrong, entry = fetched(stored, asked()), bug(code)
    found = entry.inject(sound, 1.0, SCENE)
    _equal(found, wrong)
    differs = {name for name in sound.column_names if not _same(sound[name], wrong[name])}
    assert differs == {entry.subject, *entry.also} & set(sound.column_names)


@pytest.mark.parametrize(("code", "hours"), [("SKEW10", -6), ("SKEW11", 1)])
def test_hour_its_circle_and_the_weekend_follow_the_clock(code: str, hours: int) -> None:
    found = bug(code).inject(fetched(stored_rows(), asked()), 1.0, SCENE)
    by_that_clock = fetched(stored_rows(), asked(hours))
    for name in ("hour", "hour_sin", "hour_cos", "weekend"):
        assert _same(found[name], by_that_clock[name])


def test_topics_are_permuted_one_to_one_and_the_match_is_made_from_the_new_ones() -> None:
    requests = asked()
    sound = fetched(stored_rows(), requests)
    found = bug("SKEW07").inject(sound, 1.0, SCENE)
    pairs = {*zip(sound["page_topic"].to_pylist(), found["page_topic"].to_pylist(), strict=True)}
    assert len(pairs) == len({old for old, _ in pairs}) == len({new for _, new in pairs}) == CATEGORIES
    there = replace(requests, context={**requests.context, "page_topic": found["page_topic"].to_numpy()})
    _equal(found, fetched(stored_rows(), there))
    other = bug("SKEW07").inject(sound, 1.0, Scene("features", seed=12))
    assert not _same(other["page_topic"], found["page_topic"])


def test_counters_cast_to_whole_lose_their_fractions() -> None:
    sound = fetched(stored_rows(), asked())
    found = bug("SKEW13").inject(sound, 1.0, SCENE)
    for name in bug("SKEW13").also:
        assert (found[name].to_numpy() == np.floor(sound[name].to_numpy())).all()


def test_what_depends_on_a_view_is_named_by_touched() -> None:
    stored = stored_rows()
    sound = fetched(stored, asked())
    for view in VIEWS:
        for feature in view.features:
            if feature.kind in ("float", "floats"):
                stored[feature.name] = stored[feature.name] + 1
            elif feature.kind == "time":
                stored[feature.name] = stored[feature.name] - HOUR_US
        moved = fetched(stored, asked())
        differs = {name for name in sound.column_names if not _same(sound[name], moved[name])}
        assert differs <= set(touched(view.name))
        assert {f.name for f in view.features if f.use == "numeric"} <= differs
        sound = moved


def _same(one: pa.ChunkedArray, other: pa.ChunkedArray) -> bool:
    left, right = (column.to_numpy(zero_copy_only=False) for column in (one, other))
    if left.dtype.kind == "f":  # float32 values that went through a logarithm and back
        return bool(np.allclose(left, right, rtol=2e-5, atol=2e-5, equal_nan=True))
    return bool((left == right).all())


def _equal(found: pa.Table, wanted: pa.Table) -> None:
    assert [name for name in wanted.column_names if not _same(found[name], wanted[name])] == []
