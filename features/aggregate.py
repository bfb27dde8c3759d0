"""The daily views: exponentially decayed counters of users, ads, campaigns and placements, advanced one arrival day at a time.

A counter at the end of a day is the sum over all events that have arrived of 2^-((end - t_event) / half_life): the previous
day's counter decayed by the elapsed time, plus the arrival day's events, each decayed by its own age.  `State` carries the sums
from day to day (float32, the precision of the snapshots); `views` turns it into snapshot tables.  Pure; `pipelines.materialize`
calls it.

Rates are smoothed towards a rate that was known at the same time: (clicks + strength * prior) / (impressions + strength).
COEC, clicks over expected clicks, corrects for position: an impression at slot k is expected to give slot k's click rate to
date (Zhang and Jones, "Comparing click logs and editorial labels for training query rewriting", 2007).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from features.catalogue import view
from features.day_events import DayEvents, Events
from features.schemas import CATEGORIES
from features.snapshots import table
from infra.clock import DAY_US, MINUTE_US, to_datetime

Array = npt.NDArray[Any]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

HALF_LIFE_US: dict[str, int] = {  # by group of counters
    "user": 7 * DAY_US,
    "ad": 3 * DAY_US,
    "campaign": 7 * DAY_US,
    "placement": 7 * DAY_US,
    "slot": 7 * DAY_US,
    "category": 7 * DAY_US,
    "all": 7 * DAY_US,
}
# Strengths of the priors in impressions (rates) and in expected clicks (COEC): about what it takes to believe an entity over
# its prior.
STRENGTH = {"user": 50.0, "ad": 100.0, "campaign": 100.0, "placement": 100.0, "slot": 100.0, "category": 100.0, "coec": 5.0}
DELAY_US = 30 * MINUTE_US  # a day's snapshot can be read this long after the day's end


@dataclass(frozen=True, slots=True)
class Counters:
    """m entities, sorted by key, with their decayed sums ([m] or [m, CATEGORIES] float32)."""

    keys: Array
    sums: Mapping[str, Array]


State = Mapping[str, Counters]  # by group: user, ad, campaign, placement, slot, category, all

_EMPTY: dict[str, tuple[str, ...]] = {
    "user": ("impressions", "clicks", "price", "priced", "category_impressions", "category_clicks"),
    "ad": ("impressions", "clicks", "expected"),
    "campaign": ("impressions", "clicks", "expected"),
    "placement": ("impressions", "clicks"),
    "slot": ("impressions", "clicks"),
    "category": ("impressions", "clicks"),
    "all": ("impressions", "clicks"),
}


def empty_state() -> dict[str, Counters]:
    """Before the first event."""
    groups = {}
    for group, names in _EMPTY.items():
        keys = np.zeros(0, np.str_) if group == "placement" else np.zeros(0, np.int64)
        groups[group] = Counters(
            keys, {n: np.zeros((0, CATEGORIES) if n.startswith("category_") else 0, np.float32) for n in names}
        )
    empty = groups["campaign"]
    groups["campaign"] = Counters(empty.keys, {**empty.sums, "started": np.zeros(0, np.int64)})
    return groups


def update(previous: State, events: DayEvents, day_end_us: int) -> dict[str, Counters]:
    """The state at the end of an arrival day from the state a day before and what arrived in between."""
    state = {
        group: _advance(previous[group], group, events, day_end_us, name)
        for group, name in (("slot", "slot"), ("category", "category"), ("placement", "placement"), ("user", "user_id"))
    }
    state["all"] = _advance(previous["all"], "all", events, day_end_us, "")
    expected = _slot_rates(state)
    for group, name in (("ad", "ad_id"), ("campaign", "campaign_id")):
        state[group] = _advance(previous[group], group, events, day_end_us, name, expected)
    return state


def _known(keys: Array) -> npt.NDArray[np.bool_]:
    return keys != "" if keys.dtype.kind == "U" else keys >= 0


def _advance(
    previous: Counters, group: str, events: DayEvents, day_end_us: int, name: str, slot_rates: tuple[I64, F64] | None = None
) -> Counters:
    """One group's counters a day later; events whose key is unknown are left out."""

    def keyed(of: Events) -> tuple[Events, Array]:
        keys = getattr(of, name) if name else np.zeros(len(of), np.int64)
        known = _known(keys)
        return of.take(known), keys[known]

    (shown, shown_keys), (clicked, clicked_keys) = keyed(events.impressions), keyed(events.clicks)
    keys = np.union1d(np.union1d(previous.keys, shown_keys), clicked_keys)
    old = np.searchsorted(keys, previous.keys)
    shown_at, clicked_at = np.searchsorted(keys, shown_keys), np.searchsorted(keys, clicked_keys)
    shown_weight = np.exp2((shown.time_us - day_end_us) / HALF_LIFE_US[group])
    clicked_weight = np.exp2((clicked.time_us - day_end_us) / HALF_LIFE_US[group])
    decay = 2.0 ** (-DAY_US / HALF_LIFE_US[group])
    m = len(keys)

    def total(sum_name: str, at: I64, weights: F64) -> Array:
        before = previous.sums[sum_name]
        cells = m * CATEGORIES if before.ndim == 2 else m
        day = np.bincount(at, weights, minlength=cells).astype(np.float64).reshape((m, *before.shape[1:]))
        day[old] += before * decay
        return day.astype(np.float32)

    sums = {
        "impressions": total("impressions", shown_at, shown_weight),
        "clicks": total("clicks", clicked_at, clicked_weight),
    }
    if group == "user":
        priced = np.isfinite(clicked.log_price)
        weight = clicked_weight[priced]
        sums["priced"] = total("priced", clicked_at[priced], weight)
        sums["price"] = total("price", clicked_at[priced], weight * clicked.log_price[priced])
        for sum_name, of, at, w in (
            ("category_impressions", shown, shown_at, shown_weight),
            ("category_clicks", clicked, clicked_at, clicked_weight),
        ):
            known = of.category >= 0
            sums[sum_name] = total(sum_name, at[known] * CATEGORIES + of.category[known], w[known])
    if slot_rates is not None:
        slots, rates = slot_rates
        sums["expected"] = total("expected", shown_at, shown_weight * rates[np.searchsorted(slots, shown.slot)])
    if group == "campaign":
        started = np.full(m, np.iinfo(np.int64).max)
        started[old] = previous.sums["started"]
        np.minimum.at(started, shown_at, shown.time_us)
        sums["started"] = started
    return Counters(keys, sums)


def _smoothed(counters: Counters, strength: float, prior: F64 | float) -> F64:
    clicks, shown = counters.sums["clicks"].astype(np.float64), counters.sums["impressions"].astype(np.float64)
    return (clicks + strength * prior) / (shown + strength)


def _overall(state: State) -> float:
    clicks, shown = state["all"].sums["clicks"], state["all"].sums["impressions"]
    return float(clicks[0] / shown[0]) if len(shown) and shown[0] > 0 else 0.0


def _slot_rates(state: State) -> tuple[I64, F64]:
    """The slots seen so far and their click rates to date, smoothed towards the overall rate."""
    return state["slot"].keys, _smoothed(state["slot"], STRENGTH["slot"], _overall(state))


def _coec(counters: Counters) -> F64:
    clicks, expected = counters.sums["clicks"].astype(np.float64), counters.sums["expected"].astype(np.float64)
    return (clicks + STRENGTH["coec"]) / (expected + STRENGTH["coec"])


def views(state: State, day_end_us: int, ad_category: I64) -> dict[str, pa.Table]:
    """The four daily views as snapshot tables, one row for every entity ever seen.

    `ad_category` [m] is the category of each ad in `state["ad"]` (-1: unknown), the prior of its click rate.
    """
    overall = _overall(state)
    user, ad, campaign, placement = (state[group] for group in ("user", "ad", "campaign", "placement"))
    category_rates = np.full(CATEGORIES + 1, overall)  # the last: ads whose category is unknown
    category_rates[state["category"].keys] = _smoothed(state["category"], STRENGTH["category"], overall)
    price = np.full(len(user.keys), np.nan, np.float32)  # before the first click
    np.divide(user.sums["price"], user.sums["priced"], out=price, where=user.sums["priced"] > 0)
    values: dict[str, tuple[Counters, dict[str, Array]]] = {
        "user_daily": (
            user,
            {
                "user_impressions_7d": user.sums["impressions"],
                "user_clicks_7d": user.sums["clicks"],
                "user_ctr": _smoothed(user, STRENGTH["user"], overall),
                "user_price_clicked": price,
                "user_category_impressions": user.sums["category_impressions"],
                "user_category_clicks": user.sums["category_clicks"],
            },
        ),
        "ad_daily": (
            ad,
            {
                "ad_impressions_3d": ad.sums["impressions"],
                "ad_clicks_3d": ad.sums["clicks"],
                "ad_ctr": _smoothed(ad, STRENGTH["ad"], category_rates[ad_category]),
                "ad_coec": _coec(ad),
            },
        ),
        "campaign_daily": (
            campaign,
            {
                "campaign_started": campaign.sums["started"],
                "campaign_impressions_7d": campaign.sums["impressions"],
                "campaign_ctr": _smoothed(campaign, STRENGTH["campaign"], overall),
                "campaign_coec": _coec(campaign),
            },
        ),
        "placement_daily": (
            placement,
            {
                "placement_impressions_7d": placement.sums["impressions"],
                "placement_ctr": _smoothed(placement, STRENGTH["placement"], overall),
            },
        ),
    }
    snapshot = int(to_datetime(day_end_us - DAY_US).strftime("%Y%m%d"))
    tables = {}
    for name, (counters, features) in values.items():
        ends = np.full(len(counters.keys), day_end_us)
        tables[name] = table(view(name), counters.keys, ends, ends + DELAY_US, np.full(len(ends), snapshot), features)
    return tables
