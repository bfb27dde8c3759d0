"""One arrival day's impressions and clicks as arrays, each click joined to its impression.  `pipelines.materialize` builds it
once a day; `features.aggregate` and `features.recent` count it.
"""

from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Array = npt.NDArray[Any]
I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Ads:
    """What is known of the ads, one row an ad, sorted by id.  Empty where a source has no ad profiles."""

    ad_id: I64
    campaign_id: I64  # -1: unknown
    category: I64  # -1: unknown
    log_price: F64  # log1p of the price; NaN: unknown

    @classmethod
    def of(cls, ads: pa.Table | None) -> Self:
        """From the stream `ads`: of several rows of one ad, the one with the latest event_timestamp."""
        if ads is None or ads.num_rows == 0:
            nobody = np.zeros(0, np.int64)
            return cls(nobody, nobody, nobody, np.zeros(0))
        ads = ads.sort_by([("ad_id", "ascending"), ("event_timestamp", "ascending"), ("arrived_at", "ascending")])
        ad_id = ads["ad_id"].to_numpy()
        last = np.append(ad_id[1:] != ad_id[:-1], True)
        price = pc.fill_null(pc.cast(ads["ad_price"], pa.float64()), np.nan).to_numpy()
        return cls(ad_id[last], _ids(ads["campaign_id"])[last], _ids(ads["ad_category"])[last], np.log1p(price[last]))

    def find(self, ad_id: I64) -> I64:
        """The row of each ad, -1 where unknown."""
        if len(self.ad_id) == 0:
            return np.full(len(ad_id), -1, np.int64)
        at = np.minimum(np.searchsorted(self.ad_id, ad_id), len(self.ad_id) - 1)
        return np.where(self.ad_id[at] == ad_id, at, -1)


@dataclass(frozen=True, slots=True)
class Events:
    """n impressions or n clicks: what was shown where to whom, and when the event happened and arrived."""

    time_us: I64  # of the impression, or of the click
    arrived_us: I64
    user_id: I64  # -1: unknown
    ad_id: I64
    slot: I64
    placement: Array  # numpy unicode, "" where unknown
    campaign_id: I64  # -1: unknown
    category: I64  # -1: unknown
    log_price: F64  # NaN: unknown

    def __len__(self) -> int:
        return len(self.time_us)

    def take(self, rows: Array) -> Self:
        """The rows that a mask or an index array selects."""
        return type(self)(*(getattr(self, f.name)[rows] for f in fields(self)))


@dataclass(frozen=True, slots=True)
class DayEvents:
    """What arrived on one day."""

    impressions: Events
    clicks: Events  # with what their impression says
    orphans: int  # clicks whose impression didn't arrive within the window: counted nowhere


def day_events(impressions: pa.Table, clicks: pa.Table, window: pa.Table, ads: Ads) -> DayEvents:
    """Impressions and clicks that arrived on a day; `window` holds the impressions of that day and of a few days before,
    in which the clicks find theirs.  Tables as in features.schemas (`placement` may be missing)."""
    shown = window["impression_id"].to_numpy()
    order = np.argsort(shown, kind="stable")
    wanted = clicks["impression_id"].to_numpy()
    at = np.minimum(np.searchsorted(shown[order], wanted), max(len(shown) - 1, 0))
    found = shown[order[at]] == wanted if len(shown) else np.zeros(len(wanted), bool)
    joined = _events(window.take(pa.array(order[at[found]])) if len(shown) else window, ads)
    times = {"time_us": _ids(clicks["event_timestamp"])[found], "arrived_us": _ids(clicks["arrived_at"])[found]}
    clicked = Events(*(times.get(f.name, getattr(joined, f.name)) for f in fields(Events)))
    return DayEvents(_events(impressions, ads), clicked, int((~found).sum()))


def _events(impressions: pa.Table, ads: Ads) -> Events:
    ad_id = impressions["ad_id"].to_numpy()
    row = ads.find(ad_id)
    if len(ads.ad_id):
        known = row >= 0
        campaign, category = np.where(known, ads.campaign_id[row], -1), np.where(known, ads.category[row], -1)
        log_price = np.where(known, ads.log_price[row], np.nan)
    else:
        campaign, category, log_price = row, row, np.full(len(row), np.nan)
    return Events(
        time_us=_ids(impressions["event_timestamp"]),
        arrived_us=_ids(impressions["arrived_at"]),
        user_id=_ids(impressions["user_id"]),
        ad_id=ad_id,
        slot=impressions["slot"].to_numpy().astype(np.int64),
        placement=_words(impressions),
        campaign_id=campaign,
        category=category,
        log_price=log_price,
    )


def _words(impressions: pa.Table) -> Array:
    if "placement" not in impressions.column_names:
        return np.full(impressions.num_rows, "", np.str_)
    encoded = pc.dictionary_encode(pc.fill_null(impressions["placement"], "")).combine_chunks()
    words = np.array(encoded.dictionary.to_pylist() or [""], dtype=np.str_)
    return words[encoded.indices.to_numpy(zero_copy_only=False)]


def _ids(column: pa.ChunkedArray) -> I64:
    return pc.fill_null(pc.cast(column, pa.int64()), -1).to_numpy()
