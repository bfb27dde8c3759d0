"""A small click log with known truth, made in memory: what the tests of this room train on."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from infra.clock import DAY_US
from models.contract import Array, Dataset, FeatureSpec

SPEC = FeatureSpec(("user_id", "ad_id", "device", "ad_category"), ("user_ctr", "ad_ctr", "price", "seen"), ("recent",))
FIRST_DAY = 20_000 * DAY_US
BIAS = np.array([0.0, -0.4, -0.7, -0.9])


class Clicks(NamedTuple):
    data: Dataset
    truth: Array


def clicks(n: int = 40_000, seed: int = 0, days: int = 10, first_day: int = 0, users: int = 800, ads: int = 120) -> Clicks:
    """n impressions over `days` days; `price` x `device` interact, `ad_category` in `recent` helps, order is confounded with
    relevance."""
    world, rng = np.random.default_rng(99), np.random.default_rng(seed)
    user_taste, ad_quality = world.normal(0, 0.6, users), world.normal(0, 0.6, ads)
    category = world.integers(0, 6, ads)
    requests = n // 4
    user = np.repeat(rng.integers(0, users, requests), 4)
    ad = rng.integers(0, ads, 4 * requests)
    device = rng.choice(np.array(["mobile", "desktop", "tablet"]), 4 * requests, p=[0.6, 0.3, 0.1])
    price = rng.exponential(2.0, 4 * requests).astype(np.float32)
    recent = np.where(rng.random((4 * requests, 3)) < 0.3, -1, rng.integers(0, 6, (4 * requests, 3)))
    matches = (recent == category[ad][:, None]).sum(axis=1)
    interaction = np.where(device == "mobile", -0.5, 0.5) * (price - 2.0).clip(-2, 3)
    relevance = -2.2 + user_taste[user] + ad_quality[ad] + 0.5 * matches + interaction
    randomised = np.repeat(rng.random(requests) < 0.1, 4)
    ranking = np.argsort(-(relevance.reshape(-1, 4) + rng.normal(0, 0.5, (requests, 4))), axis=1)
    by_relevance = np.argsort(ranking, axis=1).reshape(-1)
    slot = np.where(randomised, np.tile(np.arange(4), requests), by_relevance)
    truth = 1 / (1 + np.exp(-(relevance + BIAS[slot])))
    label = rng.random(len(truth)) < truth
    noise = rng.normal(0, 0.2, (2, len(truth)))
    user_ctr = (user_taste[user] + noise[0]).astype(np.float32)
    user_ctr[rng.random(len(truth)) < 0.1] = np.nan
    time_us = np.sort(FIRST_DAY + first_day * DAY_US + rng.integers(0, days * DAY_US, requests)).repeat(4)
    columns: dict[str, Array] = {
        "user_id": user.astype(np.int64),
        "ad_id": ad.astype(np.int64),
        "device": device,
        "ad_category": category[ad].astype(np.int64),
        "user_ctr": user_ctr,
        "ad_ctr": (ad_quality[ad] + noise[1]).astype(np.float32),
        "price": price,
        "seen": rng.poisson(2.0, len(truth)).astype(np.float32),
        "recent": recent.astype(np.int64),
    }
    return Clicks(
        Dataset(
            columns, label.astype(np.uint8), slot.astype(np.int16), time_us, user.astype(np.int64),
            np.arange(len(truth)) + 1_000_000 * seed, randomised,
        ),
        truth,
    )  # fmt: skip


def with_columns(data: Dataset, **columns: Array) -> Dataset:
    """`data` with some columns replaced."""
    return replace(data, columns={**data.columns, **columns})
