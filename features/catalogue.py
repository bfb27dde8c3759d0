"""Every feature's one definition: its name, type, meaning, where it is stored and how long it may be trusted.

Feast's objects (`features.feast_repo`), the snapshot files, the online store's layout, the request-time transformation and the
models' `FeatureSpec` are all derived from this table.  A feature that isn't here does not exist.
"""

from dataclasses import dataclass
from typing import Literal

from features.schemas import CATEGORIES

Kind = Literal["float", "int", "string", "time", "floats", "ints"]  # time: int64 us; floats/ints: fixed-length arrays
Use = Literal["numeric", "categorical", "sequence", "stored"]  # stored: input of derived features only
Entity = Literal["user", "ad", "campaign", "placement"]

DAY_S = 86_400
HOUR_S = 3_600
SEQUENCE_LENGTH = 5


@dataclass(frozen=True, slots=True)
class Feature:
    """One stored or derived value."""

    name: str
    kind: Kind
    use: Use
    help: str
    length: int = 1  # of arrays


@dataclass(frozen=True, slots=True)
class View:
    """Features of one entity that are computed, stored and refreshed together."""

    name: str
    entity: Entity
    refresh: Literal["batch", "push"]
    max_age_s: int | None  # older than this is marked stale; None: never stale (facts that don't change)
    features: tuple[Feature, ...]


def _f(name: str, help: str, use: Use = "numeric") -> Feature:
    return Feature(name, "float", use, help)


VIEWS: tuple[View, ...] = (
    View(
        "user_profile",
        "user",
        "batch",
        None,
        (
            Feature("user_age", "float", "numeric", "Age in years."),
            Feature("user_country", "string", "categorical", "Country of residence."),
            Feature("user_signup", "time", "stored", "When the user signed up."),
        ),
    ),
    View(
        "user_daily",
        "user",
        "batch",
        30 * HOUR_S,
        (
            _f("user_impressions_7d", "Ads shown to the user, decayed with a half-life of 7 days."),
            _f("user_clicks_7d", "Clicks of the user, decayed with a half-life of 7 days."),
            _f("user_ctr", "Click rate of the user, smoothed towards the overall rate."),
            _f(
                "user_price_clicked",
                "Mean log price of the ads the user clicked, decayed (7 days); NaN before the first click.",
            ),
            Feature("user_category_impressions", "floats", "stored", "user_impressions_7d by ad category.", CATEGORIES),
            Feature("user_category_clicks", "floats", "stored", "user_clicks_7d by ad category.", CATEGORIES),
        ),
    ),
    View(
        "user_recent",
        "user",
        "push",
        1 * HOUR_S,
        (
            _f("user_impressions_1h", "Ads shown to the user, half-life 1 hour, decayed to the time of the request."),
            _f("user_clicks_1h", "Clicks of the user, half-life 1 hour, decayed to the time of the request."),
            _f("user_impressions_1d", "Ads shown to the user, half-life 1 day, decayed to the time of the request."),
            _f("user_clicks_1d", "Clicks of the user, half-life 1 day, decayed to the time of the request."),
            Feature("user_recent_until", "time", "stored", "The moment that this view's counters are decayed to."),
            Feature("user_last_impression", "time", "stored", "When the user was last shown an ad."),
            Feature("user_last_click", "time", "stored", "When the user last clicked."),
            Feature("user_category_recent", "floats", "stored", "Ads shown by category, half-life 6 hours.", CATEGORIES),
            Feature("user_clicked_categories", "ints", "sequence", "Categories last clicked, newest first.", SEQUENCE_LENGTH),
        ),
    ),
    View(
        "ad_profile",
        "ad",
        "batch",
        None,
        (
            Feature("ad_created", "time", "stored", "When the ad was created."),
            Feature("campaign_id", "int", "categorical", "The ad's campaign."),
            Feature("advertiser_id", "int", "categorical", "The ad's advertiser."),
            Feature("ad_category", "int", "categorical", "The ad's category."),
            Feature("ad_format", "string", "categorical", "The ad's format."),
            Feature("ad_price", "float", "stored", "Price of what is advertised."),
        ),
    ),
    View(
        "ad_daily",
        "ad",
        "batch",
        30 * HOUR_S,
        (
            _f("ad_impressions_3d", "Times the ad was shown, half-life 3 days."),
            _f("ad_clicks_3d", "Clicks on the ad, half-life 3 days."),
            _f("ad_ctr", "Click rate of the ad, smoothed towards its category's."),
            _f("ad_coec", "Clicks over the clicks expected at the ad's positions, smoothed towards 1."),
        ),
    ),
    View(
        "campaign_daily",
        "campaign",
        "batch",
        30 * HOUR_S,
        (
            Feature("campaign_started", "time", "stored", "First impression of the campaign."),
            _f("campaign_impressions_7d", "Impressions of the campaign, half-life 7 days."),
            _f("campaign_ctr", "Click rate of the campaign, smoothed."),
            _f("campaign_coec", "Clicks over expected clicks of the campaign, smoothed towards 1."),
        ),
    ),
    View(
        "placement_daily",
        "placement",
        "batch",
        30 * HOUR_S,
        (
            _f("placement_impressions_7d", "Impressions at the placement, half-life 7 days."),
            _f("placement_ctr", "Click rate at the placement, smoothed."),
        ),
    ),
)

# Computed from stored values and the request, by `features.derive.derive`, the same code everywhere (Feast: an on-demand view).
DERIVED: tuple[Feature, ...] = (
    _f("user_tenure_days", "Days since the user signed up."),
    _f("seconds_since_impression", "log1p of seconds since the user was last shown an ad."),
    _f("seconds_since_click", "log1p of seconds since the user last clicked."),
    _f("user_category_impressions_7d", "Ads of this ad's category shown to the user, half-life 7 days."),
    _f("user_category_clicks_7d", "Clicks of the user in this ad's category, half-life 7 days."),
    _f("user_category_ctr", "Click rate of the user in this ad's category, smoothed towards the user's own."),
    _f("user_category_share", "Share of the user's clicks that fell in this ad's category, smoothed."),
    _f(
        "user_category_fatigue",
        "Ads of this category shown to the user lately, half-life 6 hours, decayed to the request.",
    ),
    _f("clicked_category_matches", "How many of the user's last clicks were in this ad's category."),
    _f("ad_log_price", "log1p of the price."),
    _f("price_gap", "ad_log_price minus user_price_clicked."),
    _f("ad_age_days", "Days since the ad was created."),
    _f("campaign_age_days", "Days since the campaign's first impression."),
    _f("hour_sin", "Sine of the hour of day (UTC)."),
    _f("hour_cos", "Cosine of the hour of day (UTC)."),
    _f("topic_match", "1 where the page's topic is the ad's category."),
    Feature("hour", "int", "categorical", "Hour of day (UTC), 0-23."),
    _f("weekend", "1 on Saturday and Sunday (UTC)."),
)

# Part of the request itself.
CONTEXT: tuple[Feature, ...] = (
    Feature("user_id", "int", "categorical", "The user."),
    Feature("ad_id", "int", "categorical", "The ad."),
    Feature("device", "string", "categorical", "desktop, mobile, tablet or tv."),
    Feature("placement", "string", "categorical", "Where on the site the ads are shown."),
    Feature("page_topic", "int", "categorical", "Category of the page, 0 .. 23."),
)

# Feature services: what a model version asks for.  They share views; each feature has its one definition above.
SERVICES: dict[str, tuple[str, ...]] = {
    "ctr_full": tuple(view.name for view in VIEWS),
    "ctr_batch": tuple(view.name for view in VIEWS if view.refresh == "batch"),
}


def view(name: str) -> View:
    """The view of that name; KeyError names the ones there are."""
    for candidate in VIEWS:
        if candidate.name == name:
            return candidate
    raise KeyError(f"no feature view {name!r}; there are {[v.name for v in VIEWS]}")
