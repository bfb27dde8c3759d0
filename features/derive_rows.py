"""The rules of derived features, row by row: the one place where they are computed, by `features.derive` and by
`features.online`.

A row is a user, an ad and a moment.  Users and ads lie in matrices of stored values, one row each; a plan (an array of columns)
says in which column each input lies and where each result goes, -1 where an input isn't stored or a result isn't wanted.
Arithmetic is float64 and cast to float32 once, NaNs with one sign, so that the same stored values give the same bits whoever
asks.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from infra.compiled import compiled

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]
Bool = npt.NDArray[np.bool_]

Columns = Mapping[str, int]

# Inputs: stored features by matrix.  Arrays lie element by element from their column on.
USER_NUMBERS = (
    "user_impressions_1h", "user_clicks_1h", "user_impressions_1d", "user_clicks_1d", "user_ctr", "user_clicks_7d",
    "user_price_clicked", "user_category_impressions", "user_category_clicks", "user_category_recent",
)  # fmt: skip
USER_WHOLE = ("user_recent_until", "user_signup", "user_last_impression", "user_last_click", "user_clicked_categories")
AD_NUMBERS = ("ad_price",)
AD_WHOLE = ("ad_category", "ad_created", "campaign_started")
# Results, in the order in which `derive_rows` puts them.
NUMBERS = (
    "user_impressions_1h", "user_clicks_1h", "user_impressions_1d", "user_clicks_1d", "user_tenure_days",
    "seconds_since_impression", "seconds_since_click", "user_category_impressions_7d", "user_category_clicks_7d",
    "user_category_ctr", "user_category_share", "user_category_fatigue", "clicked_category_matches", "ad_log_price",
    "price_gap", "ad_age_days", "campaign_age_days", "hour_sin", "hour_cos", "topic_match", "weekend",
)  # fmt: skip
WHOLE = ("hour",)
# What else a plan says: where the page's topic is in `given`, and how large the arrays are.
OTHERS = ("page_topic", "categories", "clicked_categories")

# Places in a plan, in the order of the names above.
_COUNTERS = 4  # the first inputs and the first results
_CTR, _CLICKS_7D, _PRICE_CLICKED, _SHOWN_BY, _CLICKS_BY, _RECENT_BY = range(4, 10)
_UNTIL, _SIGNUP, _LAST_SEEN, _LAST_CLICK, _CLICKED = range(10, 15)
_PRICE, _CATEGORY, _CREATED, _STARTED = range(15, 19)
_RESULTS = 19
_HOUR_OF_DAY, _TOPIC, _CATEGORIES, _LENGTH = range(_RESULTS + len(NUMBERS), _RESULTS + len(NUMBERS) + 4)

_SECOND, _HOUR, _DAY = 1_000_000, 3_600_000_000, 86_400_000_000


def plan(
    user: tuple[Columns, Columns],
    ad: tuple[Columns, Columns],
    results: tuple[Columns, Columns],
    others: Columns,
) -> I64:
    """The columns of (numbers, whole numbers) of users, ads and results, by name; `others` as OTHERS."""
    names = (USER_NUMBERS, USER_WHOLE, AD_NUMBERS, AD_WHOLE, NUMBERS, WHOLE, OTHERS)
    columns = (*user, *ad, *results, others)
    return np.array([at.get(name, -1) for part, at in zip(names, columns, strict=True) for name in part], np.int64)


@compiled
def _number(values: F32, row: int, column: int) -> float:
    return np.float64(values[row, column]) if column >= 0 else np.nan


@compiled
def _element(values: F32, row: int, column: int, place: int) -> float:
    return np.float64(values[row, column + place]) if column >= 0 else np.nan


@compiled
def _whole(values: I64, row: int, column: int) -> int:
    return values[row, column] if column >= 0 else -1


@compiled
def _since(values: I64, row: int, column: int, time_us: int) -> float:
    """Microseconds from a stored time to the request, at least 0; NaN where the time is unknown."""
    at = _whole(values, row, column)
    return float(max(time_us - at, 0)) if at >= 0 else np.nan


@compiled
def _put(out: F32, row: int, column: int, value: float) -> None:
    if column >= 0:
        out[row, column] = np.nan if np.isnan(value) else np.float32(value)


@compiled
def derive_rows(
    user_numbers: F32, user_whole: I64, ad_numbers: F32, ad_whole: I64, ad: I64, time_us: I64, given: I64, constants: F64,
    plan: I64, numbers: F32, whole: I64,
) -> None:  # fmt: skip
    """Fill in the results of n rows.

    Row i is of the i-th user, time and line of `given` (or of the only one, where there is one) and of the ad in row `ad[i]`.
    `constants` are `features.derive.CONSTANTS`.
    """
    own = plan[_RESULTS:_HOUR_OF_DAY]
    decay, categories = np.empty(_COUNTERS + 1), plan[_CATEGORIES]
    ctr_strength, share_strength = constants[_COUNTERS + 1], constants[_COUNTERS + 2]
    until, tenure, seen, clicked, sine, cosine, weekend, hour = np.nan, np.nan, np.nan, np.nan, 0.0, 0.0, 0.0, 0
    for i in range(len(ad)):
        u, a, now = i if len(user_numbers) > 1 else 0, ad[i], time_us[i if len(time_us) > 1 else 0]
        if i == 0 or len(user_numbers) > 1 or len(time_us) > 1:  # what the rows of a request share
            until = _since(user_whole, u, plan[_UNTIL], now)
            for k in range(_COUNTERS + 1):
                decay[k] = np.exp2(-until / constants[k])
            tenure = _since(user_whole, u, plan[_SIGNUP], now) / _DAY
            seen = np.log1p(_since(user_whole, u, plan[_LAST_SEEN], now) / _SECOND)
            clicked = np.log1p(_since(user_whole, u, plan[_LAST_CLICK], now) / _SECOND)
            angle = 2 * np.pi * (now % _DAY / _DAY)
            sine, cosine = np.sin(angle), np.cos(angle)
            hour = now % _DAY // _HOUR
            weekend = 1.0 if (now // _DAY + 3) % 7 >= 5 else 0.0  # 1970-01-01 was a Thursday
        for k in range(_COUNTERS):
            _put(numbers, i, own[k], _number(user_numbers, u, plan[k]) * decay[k])
        _put(numbers, i, own[4], tenure)
        _put(numbers, i, own[5], seen)
        _put(numbers, i, own[6], clicked)

        category = _whole(ad_whole, a, plan[_CATEGORY])
        shown, clicks, lately, matches = np.nan, np.nan, np.nan, np.nan
        if 0 <= category < categories:
            shown = _element(user_numbers, u, plan[_SHOWN_BY], category)
            clicks = _element(user_numbers, u, plan[_CLICKS_BY], category)
            lately = _element(user_numbers, u, plan[_RECENT_BY], category)
        ctr, clicks_7d = _number(user_numbers, u, plan[_CTR]), _number(user_numbers, u, plan[_CLICKS_7D])
        _put(numbers, i, own[7], shown)
        _put(numbers, i, own[8], clicks)
        _put(numbers, i, own[9], (clicks + ctr_strength * ctr) / (shown + ctr_strength))
        prior = share_strength / categories
        _put(numbers, i, own[10], (clicks + prior) / (clicks_7d + share_strength))
        _put(numbers, i, own[11], lately * decay[_COUNTERS])
        if category >= 0 and not np.isnan(until) and plan[_CLICKED] >= 0:
            matches = 0.0
            for k in range(plan[_LENGTH]):
                matches += user_whole[u, plan[_CLICKED] + k] == category
        _put(numbers, i, own[12], matches)

        price = np.log1p(_number(ad_numbers, a, plan[_PRICE]))
        _put(numbers, i, own[13], price)
        _put(numbers, i, own[14], price - _number(user_numbers, u, plan[_PRICE_CLICKED]))
        _put(numbers, i, own[15], _since(ad_whole, a, plan[_CREATED], now) / _DAY)
        _put(numbers, i, own[16], _since(ad_whole, a, plan[_STARTED], now) / _DAY)
        _put(numbers, i, own[17], sine)
        _put(numbers, i, own[18], cosine)
        topic = _whole(given, i if len(given) > 1 else 0, plan[_TOPIC])
        _put(numbers, i, own[19], (1.0 if category == topic else 0.0) if category >= 0 and topic >= 0 else np.nan)
        _put(numbers, i, own[20], weekend)
        if plan[_HOUR_OF_DAY] >= 0:
            whole[i, plan[_HOUR_OF_DAY]] = hour


@compiled
def _place(ids: I64, wanted: int) -> int:
    """Where an id stands among sorted ones; their number where it doesn't."""
    low, high = 0, len(ids)
    while low < high:
        middle = (low + high) // 2
        if ids[middle] < wanted:
            low = middle + 1
        else:
            high = middle
    return low if low < len(ids) and ids[low] == wanted else len(ids)


# Where `answer_rows` finds how many columns models read of whom, and whether the user's row is one that was kept too long.
READ = ("user numbers", "user whole", "placement numbers", "ad numbers", "ad whole", "user is stale")


@compiled
def answer_rows(
    ad_ids: I64, ad_numbers: F32, ad_whole: I64, ad_snapshot: I64, ad_missing: Bool,
    user_numbers: F32, user_whole: I64, user_snapshot: I64, user_missing: Bool,
    placement_numbers: F32, placement_snapshot: I64, placement_missing: Bool,
    ad_id: I64, time_us: I64, given: I64, until_us: I64, limit_s: F32, constants: F64, plan: I64, read: I64,
    ad: I64, numbers: F32, whole: I64, snapshot: I64, age_s: F32, status: U8,
) -> bool:  # fmt: skip
    """Fill in n rows of everything that is known of users, placements and ads, side by side in this order, then what is
    derived; whether any of it is missing or stale.

    `ad_ids` [m] are sorted; the matrices of ads have m + 1 rows, the last for an ad that isn't known.  Those of users and
    placements, `given` (user id and context) and `time_us` have n rows, or one.  Views stand in the same order: `until_us` [v]
    is up to when each is complete, -1 unknown, `limit_s` how old it may be, -1 as old as it likes.  `ad` [n] becomes each ad's
    row; `whole` begins with the ad's id."""
    users, views_of_user, views_of_placement = len(user_numbers), user_snapshot.shape[1], placement_snapshot.shape[1]
    flawed = False
    for i in range(len(ad_id)):
        ad[i] = _place(ad_ids, ad_id[i])
        u, p, g = i if users > 1 else 0, i if len(placement_numbers) > 1 else 0, i if len(given) > 1 else 0
        now = time_us[i if len(time_us) > 1 else 0]
        at = 0
        for k in range(read[0]):
            numbers[i, at + k] = user_numbers[u, k]
        at += read[0]
        for k in range(read[2]):
            numbers[i, at + k] = placement_numbers[p, k]
        at += read[2]
        for k in range(read[3]):
            numbers[i, at + k] = ad_numbers[ad[i], k]
        whole[i, 0] = ad_id[i]
        at = 1
        for k in range(given.shape[1]):
            whole[i, at + k] = given[g, k]
        at += given.shape[1]
        for k in range(read[1]):
            whole[i, at + k] = user_whole[u, k]
        at += read[1]
        for k in range(read[4]):
            whole[i, at + k] = ad_whole[ad[i], k]
        for view in range(len(until_us)):
            if view < views_of_user:
                snapshot[i, view], missing = user_snapshot[u, view], user_missing[u, view]
            elif view < views_of_user + views_of_placement:
                of_placement = view - views_of_user
                snapshot[i, view], missing = placement_snapshot[p, of_placement], placement_missing[p, of_placement]
            else:
                of_ad = view - views_of_user - views_of_placement
                snapshot[i, view], missing = ad_snapshot[ad[i], of_ad], ad_missing[ad[i], of_ad]
            age = np.float32((now - until_us[view]) / _SECOND) if until_us[view] >= 0 else np.float32(np.nan)
            stale = limit_s[view] >= 0 and not age <= limit_s[view]
            age_s[i, view] = age
            status[i, view] = 1 if missing else 2 if stale or (read[5] and view < views_of_user) else 0
            flawed = flawed or status[i, view] > 0
    derive_rows(user_numbers, user_whole, ad_numbers, ad_whole, ad, time_us, given, constants, plan, numbers, whole)
    return flawed
