"""From stored values and a request to the features that a model reads.  One definition for every path: the as-of source and
Feast's on-demand view call `derive`, the online source the same loop over rows in a `Derivation`.

The arithmetic is in `features.derive_rows`, compiled.  What can't be known is NaN (numbers), -1 (whole numbers) or ""
(strings): a rate of an unknown user is unknown, not the average; models impute.
"""

from collections.abc import Collection, Mapping
from functools import lru_cache

import numpy as np

from features.batch import F32, I64, Array, RequestBatch
from features.catalogue import DERIVED, SEQUENCE_LENGTH, VIEWS, Feature, View
from features.recent import COUNTERS
from features.schemas import CATEGORIES

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
        counters = [name for name in COUNTERS if name in _MODELLED and decays and name in have]
        self.numbers = (*counters, *(feature.name for feature in derived if feature.kind == "float"))
        self.whole = tuple(feature.name for feature in derived if feature.kind == "int")

    def plan(self, user: "Sides", ad: "Sides", topic: int, first: tuple[int, int] = (0, 0)) -> I64:
        """The plan of `features.derive_rows`: where inputs lie in the matrices of users and ads, and the topic among what is
        given; results lie side by side from the columns `first` of (numbers, whole numbers) on."""
        from features.derive_rows import plan

        numbers = {name: first[0] + i for i, name in enumerate(self.numbers)}
        whole = {name: first[1] + i for i, name in enumerate(self.whole)}
        others = {"page_topic": topic, "categories": CATEGORIES, "clicked_categories": SEQUENCE_LENGTH}
        return plan(user, ad, (numbers, whole), others)


Sides = tuple[Mapping[str, int], Mapping[str, int]]  # columns of numbers and of whole numbers by feature; of arrays, the first
_MODELLED = {f.name for view in VIEWS for f in view.features if f.use != "stored"}
# What `features.derive_rows` computes with: half-lives of the counters (user_category_recent's last), us; the two strengths.
CONSTANTS = np.array([*(COUNTERS[name][1] for name in COUNTERS), CATEGORY_CTR_STRENGTH, CATEGORY_SHARE_STRENGTH], np.float64)


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
    numbers, whole = _derived(stored, requests, chosen := derivation(frozenset(stored), frozenset(requests.context)))
    columns |= zip(chosen.numbers, numbers.T, strict=True)
    columns |= zip(chosen.whole, whole.T, strict=True)
    return columns


def _derived(stored: Mapping[str, Array], requests: RequestBatch, chosen: Derivation) -> tuple[F32, I64]:
    """(numbers [n, ..], whole numbers [n, ..]) of a derivation."""
    from features.derive_rows import AD_NUMBERS, AD_WHOLE, USER_NUMBERS, USER_WHOLE, derive_rows

    n = len(requests)
    user_numbers, user_whole = _beside(stored, USER_NUMBERS, np.float32, n), _beside(stored, USER_WHOLE, np.int64, n)
    ad_numbers, ad_whole = _beside(stored, AD_NUMBERS, np.float32, n), _beside(stored, AD_WHOLE, np.int64, n)
    topic = "page_topic" in requests.context
    given = requests.context["page_topic"].astype(np.int64)[:, None] if topic else np.empty((n, 0), np.int64)
    numbers, whole = np.empty((n, len(chosen.numbers)), np.float32), np.empty((n, len(chosen.whole)), np.int64)
    where = chosen.plan((user_numbers[1], user_whole[1]), (ad_numbers[1], ad_whole[1]), 0 if topic else -1)
    times_us = np.array(requests.time_us)  # a copy: compiled loops are compiled for arrays that can be written
    ads, at = (ad_numbers[0], ad_whole[0]), np.arange(n)
    derive_rows(user_numbers[0], user_whole[0], *ads, at, times_us, given, CONSTANTS, where, numbers, whole)
    return numbers, whole


def _beside(stored: Mapping[str, Array], names: tuple[str, ...], kind: type, n: int) -> tuple[Array, dict[str, int]]:
    """Stored features side by side [n, ..], and the first column of each."""
    at: dict[str, int] = {}
    parts: list[Array] = [np.empty((n, 0), kind)]
    width = 0
    for name in names:
        if name in stored:
            at[name] = width
            parts.append(stored[name].reshape(n, stored[name].size // max(n, 1)))
            width += parts[-1].shape[1]
    return np.concatenate(parts, axis=1, out=np.empty((n, width), kind)), at
