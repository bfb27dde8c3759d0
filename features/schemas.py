"""The shape of every event and log table: what arrives, what the lake keeps.

Times are `timestamp[us, UTC]`; ids are int64, made by `features.ids`.
"""

import pyarrow as pa

TIME = pa.timestamp("us", tz="UTC")


def _schema(*fields: tuple[str, pa.DataType] | tuple[str, pa.DataType, bool]) -> pa.Schema:
    """A schema of (name, type) for required fields and (name, type, True) for nullable ones."""
    return pa.schema([pa.field(f[0], f[1], nullable=len(f) == 3) for f in fields])


# One row a request, whether or not anything was shown for it.
REQUESTS = _schema(
    ("request_id", pa.int64()),
    ("event_timestamp", TIME),
    ("arrived_at", TIME),
    ("user_id", pa.int64(), True),
    ("device", pa.string(), True),
    ("placement", pa.string(), True),
    ("n_candidates", pa.int32()),
    ("n_shown", pa.int32()),
)

# One row an ad shown.  `slot` counts from 0, the top.  Columns that a source declares as its own context follow these.
IMPRESSIONS = _schema(
    ("impression_id", pa.int64()),
    ("request_id", pa.int64()),
    ("event_timestamp", TIME),
    ("arrived_at", TIME),
    ("user_id", pa.int64(), True),
    ("ad_id", pa.int64()),
    ("slot", pa.int16()),
    ("n_candidates", pa.int32()),
    ("bid", pa.float32(), True),
    ("propensity", pa.float32(), True),
    ("policy", pa.string()),
    ("randomised", pa.bool_()),
)

CLICKS = _schema(
    ("click_id", pa.int64()),
    ("impression_id", pa.int64()),
    ("event_timestamp", TIME),
    ("arrived_at", TIME),
)

USERS = _schema(
    ("user_id", pa.int64()),
    ("event_timestamp", TIME),  # sign-up
    ("arrived_at", TIME),
    ("user_age", pa.int32(), True),
    ("user_country", pa.string(), True),
)

ADS = _schema(
    ("ad_id", pa.int64()),
    ("event_timestamp", TIME),  # creation
    ("arrived_at", TIME),
    ("campaign_id", pa.int64(), True),
    ("advertiser_id", pa.int64(), True),
    ("ad_category", pa.int64(), True),  # 0 .. CATEGORIES - 1
    ("ad_format", pa.string(), True),
    ("ad_price", pa.float32(), True),
)

STREAMS: dict[str, pa.Schema] = {
    "requests": REQUESTS,
    "impressions": IMPRESSIONS,
    "clicks": CLICKS,
    "users": USERS,
    "ads": ADS,
}

KEYS: dict[str, str] = {
    "requests": "request_id",
    "impressions": "impression_id",
    "clicks": "click_id",
    "users": "user_id",
    "ads": "ad_id",
}

CATEGORIES = 24

# labels(as_of): one row an impression.
LABELS = _schema(
    ("impression_id", pa.int64()),
    ("click", pa.bool_()),
    ("mature", pa.bool_()),  # older than the attribution window at `as_of`
    ("clicked_at", TIME, True),
)

# The prediction log in the lake: one row an ad shown, one a candidate not shown (slot -1).  Feature values follow as
# `f_NAME`, snapshot ids as `snapshot_VIEW` (0: none), ages in seconds as `age_VIEW`; null where not logged.
PREDICTIONS = _schema(
    ("request_id", pa.int64()),
    ("impression_id", pa.int64(), True),
    ("event_timestamp", TIME),
    ("user_id", pa.int64(), True),
    ("ad_id", pa.int64()),
    ("slot", pa.int16()),
    ("n_candidates", pa.int32()),
    ("s", pa.float32()),  # calibrated logit without position
    ("p", pa.float32(), True),  # click probability at the position given; null when not shown
    ("bid", pa.float32(), True),
    ("propensity", pa.float32(), True),
    ("policy", pa.string()),
    ("randomised", pa.bool_()),
    ("arm", pa.string()),
    ("artefact", pa.string()),
    ("encoder", pa.string()),
    ("fallback_mask", pa.int32()),
)

# What shadows scored, in the lake: one row a candidate, beside the row of the same request and ad in `predictions`.
SHADOW_SCORES = _schema(
    ("request_id", pa.int64()),
    ("impression_id", pa.int64(), True),
    ("event_timestamp", TIME),
    ("ad_id", pa.int64()),
    ("slot", pa.int16()),  # that the ad was given by whoever answered; -1: not shown
    ("artefact", pa.string()),  # the shadow
    ("encoder", pa.string()),
    ("s", pa.float32()),
    ("p", pa.float32(), True),  # at the slot given; null when not shown
)
