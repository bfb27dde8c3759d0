"""What must be true of every event: the field a rule is about, what must hold, and what to do where it does not.

`features.event_contract` applies them to whole columns.  A rule judges one row by itself; duplicates, and clicks
without an impression, are matters between rows, which ingestion settles.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from features.catalogue import CONTEXT
from features.schemas import CATEGORIES, STREAMS, TIME

EARLIEST_US = 946_684_800_000_000  # 2000-01-01: earlier times come from unset clocks or from seconds read as microseconds
OLDEST_USER = 120  # years


class Window(NamedTuple):
    """When the batch was delivered, us: no event of it can have arrived later than `now`, nor earlier than `since`."""

    since_us: int
    now_us: int


class Rule(NamedTuple):
    """`holds` maps (table, window) to booleans [n], null or True where the rule holds or has nothing to say."""

    field: str
    must: str
    fix: str
    holds: Callable[[pa.Table, Window], Any]


def event_schema(stream: str, context_columns: tuple[str, ...] = ()) -> pa.Schema:
    """The schema that a stream's files must have: `STREAMS`, and on impressions the source's context columns (nullable).

    Context columns are as `features.catalogue.CONTEXT` says (int64 or string); the source's own are strings."""
    schema = STREAMS[stream]
    if stream == "impressions":
        kinds = {feature.name: pa.int64() if feature.kind == "int" else pa.string() for feature in CONTEXT}
        for name in context_columns:
            if name not in schema.names:
                schema = schema.append(pa.field(name, kinds.get(name, pa.string())))
    return schema


def rules(stream: str, schema: pa.Schema) -> list[Rule]:
    """A stream's rules, in the order in which they are reported: a row is quarantined for the first that it breaks."""
    required = [Rule(f.name, "must not be null", "fill it at the producer", _present(f.name)) for f in schema if not f.nullable]
    ids = [
        Rule(f.name, "must be 0 or more", "derive ids as in features.ids", _between(f.name, 0, None))
        for f in schema
        if f.name.endswith("_id")
    ]
    texts = [
        Rule(f.name, "must not be empty", "send the value, or null where the field allows it", _filled(f.name))
        for f in schema
        if f.type == pa.string()
    ]
    return [*required, *ids, *TIMES, *texts, *OWN.get(stream, []), *[r for r in TOPIC if r.field in schema.names]]


def _present(field: str) -> Callable[[pa.Table, Window], Any]:
    return lambda t, w: pc.is_valid(t[field])


def _filled(field: str) -> Callable[[pa.Table, Window], Any]:
    return lambda t, w: pc.not_equal(t[field], "")


def _between(field: str, low: float, high: float | None) -> Callable[[pa.Table, Window], Any]:
    def holds(t: pa.Table, w: Window) -> Any:
        within = pc.greater_equal(t[field], low)
        return within if high is None else pc.and_(within, pc.less_equal(t[field], high))

    return holds


def _at(us: int) -> pa.Scalar:
    return pa.scalar(us, TIME)


TIMES = [
    Rule(
        "event_timestamp",
        "must not be before the year 2000",
        "set the producer's clock, or check the unit of its times (microseconds)",
        lambda t, w: pc.greater_equal(t["event_timestamp"], _at(EARLIEST_US)),
    ),
    Rule(
        "event_timestamp",
        "must not be later than arrived_at",
        "an event cannot arrive before it happens: correct the clock of the producer",
        lambda t, w: pc.less_equal(t["event_timestamp"], t["arrived_at"]),
    ),
    Rule(
        "arrived_at",
        "must not be later than the batch it came in",
        "it lies in the future: stamp arrived_at on receipt, in UTC",
        lambda t, w: pc.less_equal(t["arrived_at"], _at(w.now_us)),
    ),
    Rule(
        "arrived_at",
        "must not be earlier than the batch it came in",
        "stamp arrived_at on receipt; what arrived on another day belongs in that day's folder",
        lambda t, w: pc.greater_equal(t["arrived_at"], _at(w.since_us)),
    ),
]

TOPIC = [
    Rule("page_topic", f"must be 0 .. {CATEGORIES - 1}", "use the category's number", _between("page_topic", 0, CATEGORIES - 1))
]

OWN: dict[str, list[Rule]] = {
    "requests": [
        Rule("n_candidates", "must be 0 or more", "count the candidate ads", _between("n_candidates", 0, None)),
        Rule("n_shown", "must be 0 or more", "count the ads shown", _between("n_shown", 0, None)),
        Rule(
            "n_shown",
            "must not exceed n_candidates",
            "only candidates can be shown: check that both counts are of one request",
            lambda t, w: pc.less_equal(t["n_shown"], t["n_candidates"]),
        ),
    ],
    "impressions": [
        Rule("n_candidates", "must be 1 or more", "count the candidate ads", _between("n_candidates", 1, None)),
        Rule("slot", "must be 0 or more", "count slots from 0, the top", _between("slot", 0, None)),
        Rule(
            "slot",
            "must be less than n_candidates",
            "count slots from 0, the top",
            lambda t, w: pc.less(t["slot"], t["n_candidates"]),
        ),
        Rule(
            "propensity",
            "must be more than 0 and at most 1",
            "log the probability with which the policy chose this ad here, or null where it is not known",
            lambda t, w: pc.and_(pc.greater(t["propensity"], 0), pc.less_equal(t["propensity"], 1)),
        ),
        Rule(
            "bid",
            "must be finite and 0 or more",
            "send null where there was no bid",
            lambda t, w: pc.and_(pc.is_finite(t["bid"]), pc.greater_equal(t["bid"], 0)),
        ),
    ],
    "users": [
        Rule(
            "user_age",
            f"must be 0 .. {OLDEST_USER}",
            "send the age in whole years, or null where it is not known",
            _between("user_age", 0, OLDEST_USER),
        ),
    ],
    "ads": [
        Rule(
            "ad_category",
            f"must be 0 .. {CATEGORIES - 1}",
            "use the category's number",
            _between("ad_category", 0, CATEGORIES - 1),
        ),
        Rule(
            "ad_price",
            "must be finite and 0 or more",
            "send null where there is no price",
            lambda t, w: pc.and_(pc.is_finite(t["ad_price"]), pc.greater_equal(t["ad_price"], 0)),
        ),
    ],
}
