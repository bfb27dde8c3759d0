"""Which impression each click belongs to, and what becomes of clicks that have none (yet).

Logs of impressions and clicks travel apart, so a click can be here before its impression.  It then waits, and is tried again
each following day, for `WAIT_DAYS` days.  Pure; called by ingestion once a day.
"""

from datetime import date
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from features.event_contract import QUARANTINE, Origin, refused_rows
from features.event_rules import Rule
from features.schemas import CLICKS, TIME

I64 = npt.NDArray[np.int64]
WAIT_DAYS = 7

# A click on the waiting list, the day since which it waits, and where it came from.
PENDING = CLICKS
for _field in (pa.field("since", pa.string(), False), pa.field("file", pa.string(), False), pa.field("row", pa.int64(), False)):
    PENDING = PENDING.append(_field)

_BEFORE = Rule(
    "event_timestamp",
    "must not be earlier than its impression's",
    "nobody clicks what was not shown yet: correct the clock of the producer",
    lambda table, window: None,
)
_ORPHAN = Rule(
    "impression_id",
    f"must be of an impression that arrived within {WAIT_DAYS} days",
    "deliver the impression, then the click again",
    lambda table, window: None,
)


class Impressions(NamedTuple):
    """Impressions so far: ids in ascending order, and for each when it was shown and when it arrived, us."""

    ids: I64
    shown_us: I64
    arrived_us: I64


class Matched(NamedTuple):
    """Every click of the input is in one of the three."""

    accepted: pa.Table  # CLICKS
    quarantined: pa.Table  # QUARANTINE
    pending: pa.Table  # PENDING


def match(clicks: pa.Table, impressions: Impressions, day: str) -> Matched:
    """Settle `clicks` (PENDING, those that waited and those of `day`) against all impressions up to and including `day`.

    A click that waited arrives, for everybody downstream, when its impression does: only then could it be used, so its
    `arrived_at` becomes the later of the two.  That keeps `day` the day of arrival, and history what could be seen then."""
    ids = clicks["impression_id"].to_numpy()
    at = np.searchsorted(impressions.ids, ids).clip(max=max(len(impressions.ids) - 1, 0))
    known = impressions.ids[at] == ids if len(impressions.ids) else np.zeros(len(ids), bool)
    shown, arrived = (times[at] if len(impressions.ids) else np.zeros(len(ids), np.int64) for times in impressions[1:])
    since = clicks["since"].to_numpy()
    waiting_days, which = np.unique(since, return_inverse=True)
    waited = np.array([_days_between(first, day) for first in waiting_days], np.int64)[which]
    before = known & (_us(clicks, "event_timestamp") < shown)
    orphan = ~known & (waited >= WAIT_DAYS)

    good = known & ~before
    own = _us(clicks, "arrived_at")
    arrives = pa.array(np.where(since != day, np.maximum(own, arrived), own)).cast(TIME)
    accepted = clicks.select(CLICKS.names).set_column(CLICKS.get_field_index("arrived_at"), "arrived_at", arrives)
    quarantined = [_refuse(clicks.filter(mask), rule) for mask, rule in ((before, _BEFORE), (orphan, _ORPHAN))]
    return Matched(accepted.filter(good).cast(CLICKS), pa.concat_tables(quarantined), clicks.filter(~known & ~orphan))


def _refuse(clicks: pa.Table, rule: Rule) -> pa.Table:
    if not len(clicks):
        return QUARANTINE.empty_table()
    file = clicks["file"].combine_chunks().dictionary_encode()
    origin = Origin(file.dictionary.to_pylist(), file.indices.to_numpy(), clicks["row"].to_numpy())
    return refused_rows("clicks", clicks.select(CLICKS.names), rule, origin)


def _days_between(first: str, last: str) -> int:
    return (date.fromisoformat(last) - date.fromisoformat(first)).days


def _us(table: pa.Table, column: str) -> I64:
    return table[column].cast(pa.int64()).to_numpy()
