"""Skews: what the model is served differs from what it was trained on, though nothing in the world has changed.

Most enter between the feature store and the model (stage `features`); derived columns are rewritten along with the stored ones
that they are computed from, as the endpoint would.
"""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from features.derive import CATEGORY_CTR_STRENGTH
from features.ids import mix
from features.schemas import CATEGORIES
from infra.clock import DAY_US, HOUR_US
from monitoring.bugs.entry import Bug, Scene
from monitoring.bugs.rows import Array, Change, for_share, hit, ids, lost, numbers, put, touched, words

_SALT = 0x534B00  # plus the entry's number: no two entries share their luck

LOCAL_HOURS = -6  # the office where the service was written
SWAPPED = ("US", "PL")
DEFAULT_COUNTRY, DEFAULT_AGE = "US", 35.0


def nobody_known(rows: pa.Table) -> Mapping[str, Array | float]:
    """user_daily and what is derived from it, as a look-up gives it that found nothing and filled in zeros."""
    return {
        "user_impressions_7d": 0.0,
        "user_clicks_7d": 0.0,
        "user_ctr": 0.0,
        "user_price_clicked": 0.0,
        "user_category_impressions_7d": 0.0,
        "user_category_clicks_7d": 0.0,
        "user_category_ctr": 0.0,  # no clicks, no impressions, and a rate of zero to fall back on
        "user_category_share": 1 / CATEGORIES,  # only the prior is left
        "price_gap": numbers(rows, "ad_log_price"),
    }


def default_profile(rows: pa.Table) -> Mapping[str, Array | float | str]:
    """user_profile and what is derived from it, as a default object has it: 35 years old, from the US, signed up just now."""
    return {"user_country": DEFAULT_COUNTRY, "user_age": DEFAULT_AGE, "user_tenure_days": 0.0}


def price_in_cents(rows: pa.Table) -> Mapping[str, Array]:
    """The two features of the price, of a price a hundred times as high."""
    log_price = numbers(rows, "ad_log_price")
    cents = np.log1p(100 * np.expm1(log_price))
    return {"ad_log_price": cents, "price_gap": numbers(rows, "price_gap") + cents - log_price}


def milliseconds(rows: pa.Table) -> Mapping[str, Array]:
    """The logs of seconds, as logs of milliseconds."""
    return {
        name: np.log1p(1000 * np.expm1(numbers(rows, name))) for name in ("seconds_since_impression", "seconds_since_click")
    }


def in_thousands(rows: pa.Table) -> Mapping[str, Array]:
    """Counters of impressions, in thousands of impressions."""
    return {name: numbers(rows, name) / 1000 for name in ("user_impressions_1h", "user_impressions_1d")}


def two_countries_swapped(rows: pa.Table) -> Mapping[str, Array]:
    """user_country with US and PL in each other's place."""
    country, (one, other) = words(rows, "user_country"), SWAPPED
    return {"user_country": np.where(country == one, other, np.where(country == other, one, country))}


def topics_permuted(rows: pa.Table, share: float, scene: Scene) -> pa.Table:
    """page_topic through a permutation of the category numbers in a hashed share of requests, and topic_match as it follows."""
    topic, category = ids(rows, "page_topic"), ids(rows, "ad_category")
    order = np.argsort(mix(_SALT + 7, scene.seed, np.arange(CATEGORIES)))
    known = (topic >= 0) & (topic < CATEGORIES)
    moved = np.where(known, order[np.where(known, topic, 0)], topic)
    match = np.where((category >= 0) & (moved >= 0), category == moved, np.nan)
    chosen = hit(ids(rows, "request_id"), _SALT + 7, share, scene)
    return put(rows, {"page_topic": moved, "topic_match": match}, chosen)


def in_zone(hours: int) -> Change:
    """Time of day and weekend as a clock shows them that is `hours` ahead of UTC."""

    def change(rows: pa.Table) -> Mapping[str, Array]:
        at = ids(rows, "event_timestamp") + hours * HOUR_US
        turn = 2 * np.pi * (at % DAY_US) / DAY_US
        weekend = (at // DAY_US + 3) % 7 >= 5  # 1970-01-01 was a Thursday
        return {
            "hour": at % DAY_US // HOUR_US,
            "hour_sin": np.sin(turn),
            "hour_cos": np.cos(turn),
            "weekend": weekend.astype(np.float64),
        }

    return change


def rate_in_percent_points(rows: pa.Table) -> Mapping[str, Array]:
    """user_ctr rounded to whole percents, and the rate in the ad's category, which leans on it."""
    rate = numbers(rows, "user_ctr")
    whole = np.round(rate, 2)
    lean = CATEGORY_CTR_STRENGTH / (numbers(rows, "user_category_impressions_7d") + CATEGORY_CTR_STRENGTH)
    return {"user_ctr": whole, "user_category_ctr": numbers(rows, "user_category_ctr") + lean * (whole - rate)}


def cast_to_whole(rows: pa.Table) -> Mapping[str, Array]:
    """The counters of the last hour and day, cut down to whole numbers."""
    return {name: np.floor(numbers(rows, name)) for name in _COUNTERS}


def zero_for_null(rows: pa.Table) -> Mapping[str, Array]:
    """The price a user usually clicks: 0 where it is not known, and the gap to it as it follows."""
    usual, gap = numbers(rows, "user_price_clicked"), numbers(rows, "price_gap")
    null = np.isnan(usual)
    return {
        "user_price_clicked": np.where(null, 0.0, usual),
        "price_gap": np.where(null, numbers(rows, "ad_log_price"), gap),  # to a usual price of 0
    }


def nightly_rows_lost(rows: pa.Table, share: float, scene: Scene) -> pa.Table:
    """Rows of `ad_daily` or `campaign_daily` without those of a hashed `share` of ads or campaigns."""
    return lost(_SALT + 9, by="ad_id" if scene.table == "ad_daily" else "campaign_id")(rows, share, scene)


_COUNTERS = ("user_impressions_1h", "user_clicks_1h", "user_impressions_1d", "user_clicks_1d")
_USER_RECENT = touched("user_recent")
_ADS_DAILY = touched("ad_daily", "campaign_daily")

SKEWS = (
    Bug(
        code="SKEW01",
        name="zeros-for-missing-users",
        bug_class="default-value-skew",
        stage="features",
        tables=("features",),
        subject="user_ctr",
        also=touched("user_daily"),
        story=(
            "A replica of the online store comes up empty. The client library treats a missing row as a row of zeros, so for "
            "the requests that it answers everybody is a user who has seen nothing and clicked nothing."
        ),
        looks_like=(
            "Exact zeros in all of a user's daily counters, in the share of requests that the replica serves; no error "
            "anywhere."
        ),
        doses={"strong": 0.4, "mild": 0.05, "trace": 0.005},
        dose_means="share of requests",
        inject=for_share(_SALT + 1, nobody_known),
    ),
    Bug(
        code="SKEW02",
        name="default-profile",
        bug_class="default-value-skew",
        stage="features",
        tables=("features",),
        subject="user_country",
        also=("user_age", "user_tenure_days"),
        story=(
            "Reading a user's profile times out, and the service goes on with the default object of its data class: 35 years "
            "old, from the US, signed up just now. The values are plausible, which is why nobody looks."
        ),
        looks_like="One country and one age gain what all others lose; tenure has a new peak at zero; nulls don't move.",
        doses={"strong": 0.4, "mild": 0.05, "trace": 0.005},
        dose_means="share of requests",
        inject=for_share(_SALT + 2, default_profile),
    ),
    Bug(
        code="SKEW03",
        name="price-in-cents",
        bug_class="unit-change",
        stage="features",
        tables=("features",),
        subject="ad_log_price",
        also=("price_gap",),
        story=(
            "The catalogue service moves to cents, one region after the other. The field keeps its name; the endpoint in that "
            "region takes the logarithm of a number a hundred times as high."
        ),
        looks_like="A second hump in ad_log_price, 4.6 (the log of 100) to the right; the stored prices are as they were.",
        doses={"strong": 0.4, "mild": 0.05, "trace": 0.005},
        dose_means="share of requests that see prices times 100",
        inject=for_share(_SALT + 3, price_in_cents),
    ),
    Bug(
        code="SKEW04",
        name="milliseconds",
        bug_class="unit-change",
        stage="features",
        tables=("features",),
        subject="seconds_since_impression",
        also=("seconds_since_click",),
        story=(
            "A new client library returns epoch milliseconds where the old one gave seconds, and the difference is a thousand "
            "times too long."
        ),
        looks_like="Everybody seems to have been away a thousand times longer: both recencies move up by 6.9, the log of 1000.",
        doses={"strong": 0.4, "mild": 0.05, "trace": 0.005},
        dose_means="share of requests that see times in milliseconds",
        inject=for_share(_SALT + 4, milliseconds),
    ),
    Bug(
        code="SKEW05",
        name="counted-in-thousands",
        bug_class="unit-change",
        stage="feature",
        tables=("user_recent",),
        subject="user_impressions_1h",
        also=("user_impressions_1d",),
        story=(
            "The stream job borrows a counter from billing, where impressions are sold by the thousand. It writes the feature "
            "table itself, so training, serving and any recomputation agree with each other and are all wrong."
        ),
        looks_like=(
            "user_impressions_1h and _1d of some users drop to a thousandth, while their last impression is minutes ago. "
            "Served and stored values are equal."
        ),
        doses={"strong": 0.4, "mild": 0.05, "trace": 0.005},
        dose_means="share of users whose counters are divided by 1000",
        inject=for_share(_SALT + 5, in_thousands, by="user_id"),
    ),
    Bug(
        code="SKEW06",
        name="countries-swapped",
        bug_class="category-reencoding",
        stage="features",
        tables=("features",),
        subject="user_country",
        story=(
            "The table that turns country codes into names is generated anew, and two lines changed places: who is from the US "
            "is served as Polish, and the other way round."
        ),
        looks_like="The shares of exactly two countries trade places; nothing is null, nothing is new.",
        doses={"strong": 1.0, "mild": 0.1, "trace": 0.005},
        dose_means="share of requests served with the new table",
        inject=for_share(_SALT + 6, two_countries_swapped),
    ),
    Bug(
        code="SKEW07",
        name="topics-permuted",
        bug_class="category-reencoding",
        stage="features",
        tables=("features",),
        subject="page_topic",
        also=("topic_match",),
        story=(
            "Page topics are numbered by their rank in a list, and the endpoint's list was sorted by another key. All 24 "
            "numbers are valid, and nearly all mean something else; whether the page matches the ad is computed from them."
        ),
        looks_like="All topics still occur, with each other's frequencies; topic_match falls to what chance gives.",
        doses={"strong": 1.0, "mild": 0.05, "trace": 0.005},
        dose_means="share of requests served with the other list",
        inject=topics_permuted,
    ),
    Bug(
        code="SKEW08",
        name="stale-user-activity",
        bug_class="stale-features",
        stage="store",
        tables=("user_recent",),
        subject="user_impressions_1h",
        also=(*_USER_RECENT, "user_recent"),
        story=(
            "The consumer that writes recent activity to the online store loses partitions of its topic. For the users in them "
            "the store keeps the last row that it got; the offline copy is complete."
        ),
        looks_like=(
            "Counters of the last hour fade to nothing and the last impression seems ever longer ago, for those users; "
            "recomputation finds newer rows. The view's age shows it only when all partitions are lost."
        ),
        doses={"strong": 1.0, "mild": 0.1, "trace": 0.005},
        dose_means="share of users whose rows no longer reach the store",
        inject=lost(_SALT + 8, by="user_id"),
    ),
    Bug(
        code="SKEW09",
        name="stale-ad-statistics",
        bug_class="stale-features",
        stage="store",
        tables=("ad_daily", "campaign_daily"),
        subject="ad_ctr",
        also=(*_ADS_DAILY, "ad_daily", "campaign_daily"),
        story=(
            "The nightly write of ads' and campaigns' statistics into the online store dies of memory part of the way and "
            "reports success. What it didn't reach is served as it was yesterday, and the day before, and so on."
        ),
        looks_like=(
            "Click rates of ads stop moving from one day to the next; young ads stay unknown. Recomputed values differ by a "
            "day's worth, and equal what was right a day earlier."
        ),
        doses={"strong": 1.0, "mild": 0.1, "trace": 0.003},
        dose_means="share of ads and campaigns whose nightly rows no longer reach the store",
        inject=nightly_rows_lost,
    ),
    Bug(
        code="SKEW10",
        name="local-time",
        bug_class="time-zone-shift",
        stage="features",
        tables=("features",),
        subject="hour",
        also=("hour_sin", "hour_cos", "weekend"),
        story="Some servers run in local time, six hours behind, and the endpoint asks the machine for the hour of day.",
        looks_like=(
            "hour differs from the request's own timestamp by six, hour_sin and hour_cos agree with hour, and nights are busy."
        ),
        doses={"strong": 0.5, "mild": 0.05, "trace": 0.005},
        dose_means="share of requests answered six hours behind",
        inject=for_share(_SALT + 10, in_zone(LOCAL_HOURS)),
    ),
    Bug(
        code="SKEW11",
        name="summer-time",
        bug_class="time-zone-shift",
        stage="features",
        tables=("features",),
        subject="hour",
        also=("hour_sin", "hour_cos", "weekend"),
        story="The clocks go forward, and servers whose time zone has summer time compute the hour of day one too high.",
        looks_like="A shift by one hour hides in the daily rhythm; only the timestamp beside it says so.",
        doses={"strong": 1.0, "mild": 0.1, "trace": 0.005},
        dose_means="share of requests answered one hour ahead",
        inject=for_share(_SALT + 11, in_zone(1)),
    ),
    Bug(
        code="SKEW12",
        name="rate-rounded",
        bug_class="cast-or-rounding",
        stage="features",
        tables=("features",),
        subject="user_ctr",
        also=("user_category_ctr",),
        story=(
            "To save bytes a cache in front of the store keeps rates as whole percents. Most users' rate is 2, 3 or 4 of them."
        ),
        looks_like="user_ctr has a handful of distinct values where it had thousands; its mean stays.",
        doses={"strong": 1.0, "mild": 0.1, "trace": 0.005},
        dose_means="share of requests answered from the cache",
        inject=for_share(_SALT + 12, rate_in_percent_points),
    ),
    Bug(
        code="SKEW13",
        name="counters-cast-to-int",
        bug_class="cast-or-rounding",
        stage="features",
        tables=("features",),
        subject="user_impressions_1h",
        also=_COUNTERS,
        story=(
            "The new API declares counters as int64. Decayed counters are fractions, and whatever is below one becomes nothing."
        ),
        looks_like="The counters of the last hour and day are whole numbers and mostly zero; no fraction is left.",
        doses={"strong": 1.0, "mild": 0.1, "trace": 0.005},
        dose_means="share of requests served through the new API",
        inject=for_share(_SALT + 13, cast_to_whole),
    ),
    Bug(
        code="SKEW14",
        name="zero-for-null",
        bug_class="imputation-difference",
        stage="features",
        tables=("features",),
        subject="user_price_clicked",
        also=("price_gap",),
        story=(
            "Training reads the table, where the usual price of someone who never clicked is null; serving reads a message "
            "format without nulls, where it is 0. One in ten users now likes ads that cost nothing."
        ),
        looks_like="Nulls of user_price_clicked and price_gap go down by as much as its zeros, and price_gap's tail, go up.",
        doses={"strong": 1.0, "mild": 0.3, "trace": 0.04},
        dose_means="share of requests served through that format; one row in ten has a null to lose",
        inject=for_share(_SALT + 14, zero_for_null),
    ),
)
