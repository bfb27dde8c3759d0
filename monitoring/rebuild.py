"""Are stored rows of recent activity what the raw events say?  An independent recomputation for a hashed sample of users.

The as-of replay recomputes a training row from stored feature rows, so it cannot see that those rows are wrong.  This check
goes one step back: it feeds the sample's raw events through `features.recent` from the beginning, without any stored state.
Called by the leakage gate and by drills.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features import recent, snapshots
from features.catalogue import view
from features.day_events import Ads, day_events
from features.ids import uniform
from features.sources import with_unknown
from infra.home import Home
from infra.lake import Lake
from monitoring.findings import Finding
from monitoring.leakage import differs

VIEW = "user_recent"
USERS = 300
TRACE = 3  # rows that may differ: a sample holds tens of thousands
WINDOW_DAYS = 3  # a click finds its impression among those that arrived on its day or one of the two before
SALT = 0x52424C44


def rebuild_check(home: Home, days: Sequence[str], placement: bool, users: int = USERS) -> list[Finding]:
    """Features of `user_recent` whose stored rows on `days` differ from those rebuilt from raw events, worst first.

    `placement` says whether impressions have that column.  Days before `days` are read too: counters remember.
    """
    lake = Lake.of(home)
    sample = _sample(lake, days, users)
    names = [f.name for f in view(VIEW).features]
    wrong, rows, first = dict.fromkeys(names, 0), 0, dict.fromkeys(names, "")
    newest: recent.Rows = recent.empty_state()
    every = [day for day in lake.days("impressions") if day <= max(days)]
    columns = ["impression_id", "event_timestamp", "arrived_at", "user_id", "ad_id", "slot", "day"]
    ads = Ads.of(lake.read("ads") if lake.has("ads") else None)
    impressions = lake.read("impressions", [*columns, "placement"] if placement else columns, every)
    impressions = impressions.filter(pc.is_in(impressions["user_id"], sample))
    clicks = lake.read("clicks", days=every)
    clicks = clicks.filter(pc.is_in(clicks["impression_id"], impressions["impression_id"].combine_chunks()))
    for at, day in enumerate(every):
        window = impressions.filter(pc.is_in(impressions["day"], pa.array(every[max(0, at - WINDOW_DAYS + 1) : at + 1])))
        events = day_events(
            window.filter(pc.equal(window["day"], day)), clicks.filter(pc.equal(clicks["day"], day)), window, ads
        )
        today, newest = recent.update(newest, events)
        if day not in days:
            continue
        rebuilt = _ordered(recent.rows_table(today))
        stored = snapshots.read(home, VIEW, day)
        stored = _ordered(stored.filter(pc.is_in(stored["user_id"], sample)))
        rows += max(rebuilt.num_rows, stored.num_rows)
        same = rebuilt.select(["user_id", "event_timestamp"]).equals(stored.select(["user_id", "event_timestamp"]))
        for feature in view(VIEW).features:
            if same:
                apart = differs(with_unknown(feature, stored[feature.name]), with_unknown(feature, rebuilt[feature.name]))
                count = int(apart.sum())
            else:
                count = max(rebuilt.num_rows, stored.num_rows)
            wrong[feature.name] += count
            first[feature.name] = first[feature.name] or (day if count else "")
    return [
        Finding(
            "row-rebuild", "label-leakage", name, "page",
            {"view": VIEW, "rows": rows, "mismatches": count, "rate": count / rows}, first[name], count / TRACE,
        )
        for name, count in sorted(wrong.items(), key=lambda item: -item[1]) if count > TRACE
    ]  # fmt: skip


def _sample(lake: Lake, days: Sequence[str], most: int) -> pa.Array:
    """Ids of at most `most` users who were shown something on `days`, by hash."""
    found = lake.read("impressions", ["user_id"], days)["user_id"]
    ids = np.unique(found.drop_null().to_numpy())
    return pa.array(np.sort(ids[np.argsort(uniform(ids, SALT), kind="stable")[:most]]))


def _ordered(rows: pa.Table) -> pa.Table:
    return rows.sort_by([("user_id", "ascending"), ("event_timestamp", "ascending")]).combine_chunks()
