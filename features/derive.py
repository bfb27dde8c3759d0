"""From stored values and a request to the features that a model reads.  One definition for every path: the as-of source, the
online source and Feast's on-demand view all call `derive`.

Arithmetic is float64 and cast to float32 once, so the same stored values give the same bits online and as-of.  What can't be
known is NaN (numbers), -1 (whole numbers) or "" (strings): a rate of an unknown user is unknown, not the average; models
impute.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from features.batch import Array, RequestBatch
from features.catalogue import DERIVED, VIEWS, Feature, View
from features.recent import COUNTERS
from features.schemas import CATEGORIES
from infra.clock import DAY_US, HOUR_US, SECOND_US

F64 = npt.NDArray[np.float64]

CATEGORY_CTR_STRENGTH = 20.0  # impressions: what it takes to believe a user's rate in a category over the user's own rate
CATEGORY_SHARE_STRENGTH = 5.0  # clicks

# What each derived feature is computed from: stored features by name, `request.NAME` for context.
NEEDS: dict[str, tuple[str, ...]] = {
    "user_tenure_days": ("user_signup",),
    "seconds_since_impression": ("user_last_impression",),
    "seconds_since_click": ("user_last_click",),
    "user_category_impressions_7d": ("user_category_impressions", "ad_category"),
    "user_category_clicks_7d": ("user_category_clicks", "ad_category"),
    "user_category_ctr": ("user_category_impressions", "user_category_clicks", "user_ctr", "ad_category"),
    "user_category_share": ("user_category_clicks", "user_clicks_7d", "ad_category"),
    "user_category_fatigue": ("user_category_recent", "user_recent_until", "ad_category"),
    "clicked_category_matches": ("user_clicked_categories", "user_recent_until", "ad_category"),
    "ad_log_price": ("ad_price",),
    "price_gap": ("ad_price", "user_price_clicked"),
    "ad_age_days": ("ad_created",),
    "campaign_age_days": ("campaign_started",),
    "hour_sin": (),
    "hour_cos": (),
    "topic_match": ("ad_category", "request.page_topic"),
    "hour": (),
    "weekend": (),
}


def available(views: tuple[View, ...], context: tuple[str, ...]) -> tuple[Feature, ...]:
    """The derived features that can be computed from these views and this context."""
    have = {f.name for v in views for f in v.features} | {f"request.{name}" for name in context}
    return tuple(f for f in DERIVED if have.issuperset(NEEDS[f.name]))


def derive(stored: Mapping[str, Array], requests: RequestBatch) -> dict[str, Array]:
    """The columns of a FeatureBatch, each [n] or [n, length], from stored columns of the same n rows.

    `stored` holds all features of the views that were read, by name: float32 [n] or [n, length]; ids int64; times int64 us, -1
    where unknown; strings numpy unicode.  Returned are the stored features that models use (the counters of `user_recent`
    decayed on to the request), the derived features whose inputs are there, and the request's own user, ad and context.
    """
    columns: dict[str, Array] = {"user_id": requests.user_id, "ad_id": requests.ad_id, **requests.context}
    columns |= {f.name: stored[f.name] for view in VIEWS for f in view.features if f.use != "stored" and f.name in stored}
    inputs = _Inputs(stored, requests)
    if "user_recent_until" in stored:
        for name, (_, half_life) in COUNTERS.items():
            if name in columns:
                columns[name] = _single(stored[name] * inputs.decay(half_life))
    have = {*stored, *(f"request.{name}" for name in requests.context)}
    derived = [feature for feature in DERIVED if have.issuperset(NEEDS[feature.name])]
    numbers = [feature.name for feature in derived if feature.kind == "float"]
    values = np.empty((len(numbers), len(requests)))
    for row, name in enumerate(numbers):
        values[row] = _RULES[name](inputs)
    columns |= zip(numbers, _single(values), strict=True)
    columns |= {f.name: _RULES[f.name](inputs).astype(np.int64) for f in derived if f.kind == "int"}
    return columns


def _single(value: F64) -> Array:
    """The one cast to float32; NaNs get one sign, which would otherwise depend on a row's place in its SIMD lane."""
    single = value.astype(np.float32)
    single[np.isnan(single)] = np.nan
    return single


TIMES = tuple(f.name for view in VIEWS for f in view.features if f.kind == "time")


class _Inputs:
    """Stored columns and request times, with what several rules share computed once."""

    def __init__(self, stored: Mapping[str, Array], requests: RequestBatch) -> None:
        self.stored = stored
        self.requests = requests
        self._cell: tuple[Array, Array] | None = None
        self._decays: dict[int, F64] = {}
        names = [name for name in TIMES if name in stored]
        at = np.array([stored[name] for name in names], np.int64).reshape(len(names), len(requests))
        since = np.where(at >= 0, np.maximum(requests.time_us - at, 0), np.nan)
        self._since: dict[str, F64] = dict(zip(names, since, strict=True))

    def number(self, name: str) -> F64:
        return self.stored[name].astype(np.float64)

    def since_us(self, name: str) -> F64:
        """Microseconds from a stored time to the request, at least 0; NaN where the time is unknown."""
        return self._since[name]

    def decay(self, half_life: int) -> F64:
        """By how much a counter of `user_recent` has decayed since it was written; NaN where there is no row."""
        if half_life not in self._decays:
            self._decays[half_life] = np.exp2(-self.since_us("user_recent_until") / half_life)
        return self._decays[half_life]

    def of_category(self, name: str) -> F64:
        """The value of a per-category array at the ad's category; NaN where the category is unknown."""
        if self._cell is None:
            category = self.stored["ad_category"]
            known = (category >= 0) & (category < CATEGORIES)
            self._cell = np.arange(len(category)), np.where(known, category, 0)
            self._unknown = ~known
        value = self.stored[name][self._cell].astype(np.float64)
        value[self._unknown] = np.nan
        return value

    def day_fraction(self) -> F64:
        return (self.requests.time_us % DAY_US) / DAY_US


def _category_ctr(x: _Inputs) -> F64:
    clicks, shown = x.of_category("user_category_clicks"), x.of_category("user_category_impressions")
    return (clicks + CATEGORY_CTR_STRENGTH * x.number("user_ctr")) / (shown + CATEGORY_CTR_STRENGTH)


def _category_share(x: _Inputs) -> F64:
    prior = CATEGORY_SHARE_STRENGTH / CATEGORIES
    return (x.of_category("user_category_clicks") + prior) / (x.number("user_clicks_7d") + CATEGORY_SHARE_STRENGTH)


def _category_matches(x: _Inputs) -> F64:
    category = x.stored["ad_category"]
    matches = (x.stored["user_clicked_categories"] == category[:, None]).sum(axis=1)
    return np.where((category >= 0) & (x.stored["user_recent_until"] >= 0), matches, np.nan)


def _topic_match(x: _Inputs) -> F64:
    category, topic = x.stored["ad_category"], x.requests.context["page_topic"]
    return np.where((category >= 0) & (topic >= 0), category == topic, np.nan)


_RULES: dict[str, Callable[[_Inputs], npt.NDArray[Any]]] = {
    "user_tenure_days": lambda x: x.since_us("user_signup") / DAY_US,
    "seconds_since_impression": lambda x: np.log1p(x.since_us("user_last_impression") / SECOND_US),
    "seconds_since_click": lambda x: np.log1p(x.since_us("user_last_click") / SECOND_US),
    "user_category_impressions_7d": lambda x: x.of_category("user_category_impressions"),
    "user_category_clicks_7d": lambda x: x.of_category("user_category_clicks"),
    "user_category_ctr": _category_ctr,
    "user_category_share": _category_share,
    "user_category_fatigue": lambda x: x.of_category("user_category_recent") * x.decay(COUNTERS["user_category_recent"][1]),
    "clicked_category_matches": _category_matches,
    "ad_log_price": lambda x: np.log1p(x.number("ad_price")),
    "price_gap": lambda x: np.log1p(x.number("ad_price")) - x.number("user_price_clicked"),
    "ad_age_days": lambda x: x.since_us("ad_created") / DAY_US,
    "campaign_age_days": lambda x: x.since_us("campaign_started") / DAY_US,
    "hour_sin": lambda x: np.sin(2 * np.pi * x.day_fraction()),
    "hour_cos": lambda x: np.cos(2 * np.pi * x.day_fraction()),
    "topic_match": _topic_match,
    "hour": lambda x: x.requests.time_us % DAY_US // HOUR_US,
    "weekend": lambda x: (x.requests.time_us // DAY_US + 3) % 7 >= 5,  # 1970-01-01 was a Thursday
}
