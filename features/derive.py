"""From stored values and a request to the features that a model reads.  One definition for every path: the as-of source, the
online source and Feast's on-demand view all call `derive`.

Arithmetic is float64 and cast to float32 once, so the same stored values give the same bits online and as-of.  What can't be
known is NaN (numbers), -1 (whole numbers) or "" (strings): a rate of an unknown user is unknown, not the average; models
impute.
"""

from collections.abc import Callable, Collection, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from features.batch import F32, I64, Array, RequestBatch
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


class Derivation:
    """What can be derived from some stored features and some context, chosen once for all requests.

    `numbers` are the counters of `user_recent` decayed on to the request, and the derived floats; `whole` the derived ints.
    """

    def __init__(self, stored: Collection[str], context: Collection[str]) -> None:
        have = {*stored, *(f"request.{name}" for name in context)}
        derived = [feature for feature in DERIVED if have.issuperset(NEEDS[feature.name])]
        decays = "user_recent_until" in have
        counters = [name for name in _DECAYED if decays and name in have]
        self.numbers = (*counters, *(feature.name for feature in derived if feature.kind == "float"))
        self.whole = tuple(feature.name for feature in derived if feature.kind == "int")
        self._rules = [_RULES[name] for name in self.numbers]

    def __call__(
        self, stored: Mapping[str, Array], time_us: I64, context: Mapping[str, Array], rows: int
    ) -> tuple[F32, list[I64]]:
        """(numbers [k, rows], whole [rows or 1] each).  Columns of `stored`, `time_us` and `context` are [rows], or [1] where
        all rows have the same."""
        inputs = _Inputs(stored, time_us, context, rows)
        values = np.empty((len(self._rules), rows))
        for row, rule in enumerate(self._rules):
            values[row] = rule(inputs)
        return _single(values), [_RULES[name](inputs).astype(np.int64) for name in self.whole]


@lru_cache(maxsize=64)
def derivation(stored: frozenset[str], context: frozenset[str]) -> Derivation:
    """The derivation of some columns, made once."""
    return Derivation(stored, context)


def derive(stored: Mapping[str, Array], requests: RequestBatch) -> dict[str, Array]:
    """The columns of a FeatureBatch, each [n] or [n, length], from stored columns of the same n rows.

    `stored` holds all features of the views that were read, by name: float32 [n] or [n, length]; ids int64; times int64 us, -1
    where unknown; strings numpy unicode.  Returned are the stored features that models use (the counters of `user_recent`
    decayed on to the request), the derived features whose inputs are there, and the request's own user, ad and context.
    """
    columns: dict[str, Array] = {"user_id": requests.user_id, "ad_id": requests.ad_id, **requests.context}
    columns |= {f.name: stored[f.name] for view in VIEWS for f in view.features if f.use != "stored" and f.name in stored}
    chosen = derivation(frozenset(stored), frozenset(requests.context))
    numbers, whole = chosen(stored, requests.time_us, requests.context, len(requests))
    columns |= zip(chosen.numbers, numbers, strict=True)
    columns |= zip(chosen.whole, whole, strict=True)
    return columns


def _single(value: F64) -> Array:
    """The one cast to float32; NaNs get one sign, which would otherwise depend on a row's place in its SIMD lane."""
    single = value.astype(np.float32)
    single[np.isnan(single)] = np.nan
    return single


TIMES = tuple(f.name for view in VIEWS for f in view.features if f.kind == "time")


class _Inputs:
    """Stored columns, context and request times, each [rows] or [1], with what several rules share computed once."""

    def __init__(self, stored: Mapping[str, Array], time_us: I64, context: Mapping[str, Array], rows: int) -> None:
        self.stored = stored
        self.time_us = time_us
        self.context = context
        self._rows = rows
        self._category: tuple[I64, Array | None] | None = None
        self._log_price: F64 | None = None
        self._decays: dict[int, F64] = {}
        self._since: dict[str, F64] = {}
        for names in self._times_by_length().values():
            at = np.array([stored[name] for name in names], np.int64)
            self._since |= zip(names, np.where(at >= 0, np.maximum(time_us - at, 0), np.nan), strict=True)

    def _times_by_length(self) -> dict[int, list[str]]:
        groups: dict[int, list[str]] = {}
        for name in TIMES:
            if name in self.stored:
                groups.setdefault(len(self.stored[name]), []).append(name)
        return groups

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
        if self._category is None:
            category = self.stored["ad_category"]
            known = (category >= 0) & (category < CATEGORIES)
            self._category = (category, None) if known.all() else (np.where(known, category, 0), ~known)
        at, unknown = self._category
        arrays = self.stored[name]
        value = (arrays[0, at] if len(arrays) == 1 else arrays[np.arange(len(at)), at]).astype(np.float64)
        if unknown is not None:
            value[unknown] = np.nan
        return value

    def log_price(self) -> F64:
        """log1p of the ad's price."""
        if self._log_price is None:
            self._log_price = np.log1p(self.number("ad_price"))
        return self._log_price

    def day_fraction(self) -> F64:
        return (self.time_us % DAY_US) / DAY_US


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
    category, topic = x.stored["ad_category"], x.context["page_topic"]
    return np.where((category >= 0) & (topic >= 0), category == topic, np.nan)


def _decayed(name: str, half_life: int) -> Callable[[_Inputs], F64]:
    return lambda x: x.stored[name] * x.decay(half_life)


_DECAYED = tuple(name for name in COUNTERS if name != "user_category_recent")  # that one is taken by category
_RULES: dict[str, Callable[[_Inputs], npt.NDArray[Any]]] = {
    **{name: _decayed(name, COUNTERS[name][1]) for name in _DECAYED},
    "user_tenure_days": lambda x: x.since_us("user_signup") / DAY_US,
    "seconds_since_impression": lambda x: np.log1p(x.since_us("user_last_impression") / SECOND_US),
    "seconds_since_click": lambda x: np.log1p(x.since_us("user_last_click") / SECOND_US),
    "user_category_impressions_7d": lambda x: x.of_category("user_category_impressions"),
    "user_category_clicks_7d": lambda x: x.of_category("user_category_clicks"),
    "user_category_ctr": _category_ctr,
    "user_category_share": _category_share,
    "user_category_fatigue": lambda x: x.of_category("user_category_recent") * x.decay(COUNTERS["user_category_recent"][1]),
    "clicked_category_matches": _category_matches,
    "ad_log_price": _Inputs.log_price,
    "price_gap": lambda x: x.log_price() - x.number("user_price_clicked"),
    "ad_age_days": lambda x: x.since_us("ad_created") / DAY_US,
    "campaign_age_days": lambda x: x.since_us("campaign_started") / DAY_US,
    "hour_sin": lambda x: np.sin(2 * np.pi * x.day_fraction()),
    "hour_cos": lambda x: np.cos(2 * np.pi * x.day_fraction()),
    "topic_match": _topic_match,
    "hour": lambda x: x.time_us % DAY_US // HOUR_US,
    "weekend": lambda x: (x.time_us // DAY_US + 3) % 7 >= 5,  # 1970-01-01 was a Thursday
}
