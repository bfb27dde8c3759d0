"""The latest day of a home without its prediction log: impressions and their features go through the distribution tier.

For decisions that need no more than the features' mix (`clickproof retrain`) and homes that have served nothing yet.  Features
are those that serving could see, looked up for a hashed sample of the impressions; there is no prediction among them.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.catalogue import Entity
from features.ids import uniform
from features.requests import from_impressions
from features.sources import AsOfSource
from infra.clock import DAY_US
from infra.home import Home
from infra.lake import Lake
from monitoring.columns import columns_of
from monitoring.findings import Checks
from monitoring.tiers.distribution import DistributionTier
from monitoring.window import Window

REFERENCE_DAYS = 14
LEAST_DAYS = 4  # of reference: a weekend and a few days before it, or the other way round
SAMPLE = 6000  # impressions a day whose features are looked up
SALT = 0x44524946


def watch(home: Home, day: str, entities: Sequence[Entity], context: Sequence[str], service: str) -> Checks:
    """Compare the impressions that arrived on `day` with those of up to `REFERENCE_DAYS` days before it, in one piece."""
    checks = Checks()
    before = [d for d in Lake.of(home).days("impressions") if d < day][-REFERENCE_DAYS:]
    if len(before) < LEAST_DAYS:
        checks.skip("distribution", f"{len(before)} days before {day}; the spread between days needs {LEAST_DAYS}")
        return checks
    tier = DistributionTier(columns_of(entities, context, service))
    windows = read_windows(home, [*before, day], context, AsOfSource(home, entities, context, service))
    for window in windows[:-1]:
        tier.test(window)
        tier.learn()
    checks.record("distribution", tier.test(windows[-1]))
    return checks


def sampled_impressions(home: Home, day: str, context: Sequence[str], most: int = SAMPLE) -> pa.Table:
    """About `most` impressions that arrived on a day, in whole requests, by hash of the request."""
    names = ["impression_id", "request_id", "event_timestamp", "user_id", "ad_id", "slot", *context]
    rows = Lake.of(home).read("impressions", names, [day])
    return rows.filter(pa.array(uniform(rows["request_id"].to_numpy(), SALT) < most / max(rows.num_rows, 1)))


def read_windows(home: Home, days: Sequence[str], context: Sequence[str], source: AsOfSource) -> list[Window]:
    """A window a day: impressions of whole sampled requests that were made and arrived on it, with their features."""
    sampled = [sampled_impressions(home, day, context) for day in days]
    # One look-up for all days: the as-of join reads each snapshot file once.
    rows = pa.concat_tables(sampled)
    columns = {
        "id": rows["impression_id"],
        "time": pc.cast(rows["event_timestamp"], pa.int64()),
        "request": rows["request_id"],
        "user": rows["user_id"],
        "item": rows["ad_id"],
        "slot": rows["slot"],
    }
    for name, values in source.fetch(from_impressions(rows, context)).columns.items():
        if values.ndim == 1:
            columns[f"f_{name}"] = pa.array(values)
    table = pa.table(columns)
    time = table["time"].to_numpy()
    windows = []
    for day in days:
        start = int(np.datetime64(day, "us").astype(np.int64))
        windows.append(Window(start, start + DAY_US, table.filter(pa.array((time >= start) & (time < start + DAY_US)))))
    return windows
