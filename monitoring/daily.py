"""The daily distribution check: reads a day and the days before it from a home and hands them to `monitoring.drift`.

What is watched: the request's own columns, one row a request; and the model's features of a hashed sample of the
impressions, as serving could see them.  Called by `clickproof monitor` and by drills, which hand it a branch.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from features.batch import Array
from features.catalogue import Entity
from features.ids import uniform
from features.requests import context_column, from_impressions
from features.sources import AsOfSource
from features.spec import feature_spec
from infra.home import Home
from infra.lake import Lake
from monitoring.drift import LEAST_DAYS, Column, cut, drift, summarise
from monitoring.findings import Checks

REFERENCE_DAYS = 28
SAMPLE = 8000  # impressions a day whose features are looked up
# Ids turn over by themselves, and the day of the week is the same for all rows of a day: shares of their values say nothing.
TURNOVER = ("user_id", "ad_id", "campaign_id", "advertiser_id", "weekend")
# The first word of a column's name -> whose history makes it vary together from day to day.
FAMILIES = {
    "user": "user", "seconds": "user", "clicked": "user", "ad": "ad", "price": "ad", "topic": "ad", "campaign": "campaign",
    "hour": "time",
}  # fmt: skip
SALT = 0x44524946


def watched_columns(entities: Sequence[Entity], context: Sequence[str], service: str) -> list[Column]:
    """What the monitor watches of a source: context columns and features, less ids and what a handful of entities decide.

    A placement's counters take one value a placement and day, so their distribution is that of a few numbers: left out.
    """
    spec = feature_spec(entities, context, service)
    kinds = [(name, "categorical") for name in spec.categorical] + [(name, "numeric") for name in spec.numeric]
    found = []
    for name, kind in kinds:
        if name in TURNOVER or name.startswith("placement_"):
            continue
        family = "request" if name in context else FAMILIES.get(name.split("_")[0], "request")
        # Ads come and go with their campaigns, and a campaign brings its own categories, formats, prices and ages.
        units = None
        if family in ("ad", "campaign"):
            finest = "ad_id" if family == "ad" and kind == "numeric" else "campaign_id"
            units = finest if finest in spec.categorical else "ad_id"
        found.append(Column(name, "categorical" if kind == "categorical" else "numeric", family, units))
    return found


def watch(home: Home, day: str, entities: Sequence[Entity], context: Sequence[str], service: str) -> Checks:
    """Compare the impressions that arrived on `day` with those of up to `REFERENCE_DAYS` days before it."""
    checks = Checks()
    before = [d for d in Lake.of(home).days("impressions") if d < day][-REFERENCE_DAYS:]
    if len(before) < LEAST_DAYS:
        checks.skip("distribution", f"{len(before)} days before {day}; the spread between days needs {LEAST_DAYS}")
        return checks
    columns = watched_columns(entities, context, service)
    days = read_days(home, [*before, day], context, AsOfSource(home, entities, context, service))
    bins = [cut(c, np.concatenate([_few(days[d][c.name]) for d in before])) for c in columns]
    summaries = [summarise(name, bins, values) for name, values in days.items()]
    checks.record("distribution", drift(bins, summaries[:-1], summaries[-1]))
    return checks


def sampled_impressions(home: Home, day: str, context: Sequence[str], most: int = SAMPLE) -> pa.Table:
    """About `most` impressions that arrived on a day, in whole requests, by hash of the request."""
    names = ["impression_id", "request_id", "event_timestamp", "user_id", "ad_id", "slot", *context]
    rows = Lake.of(home).read("impressions", names, [day])
    return rows.filter(pa.array(uniform(rows["request_id"].to_numpy(), SALT) < most / max(rows.num_rows, 1)))


def read_days(home: Home, days: Sequence[str], context: Sequence[str], source: AsOfSource) -> dict[str, dict[str, Array]]:
    """By day: the context columns, one row a request, and the features of a hashed sample of whole requests."""
    found: dict[str, dict[str, Array]] = {}
    sampled: list[pa.Table] = []
    for day in days:
        sampled.append(sampled_impressions(home, day, context))
        rows = Lake.of(home).read("impressions", ["request_id", *context], [day])
        _, first = np.unique(rows["request_id"].to_numpy(), return_index=True)
        asked = rows.take(pa.array(first))
        found[day] = {name: context_column(asked[name]) for name in context}
    # One look-up for all days: the as-of join reads each snapshot file once.
    features = source.fetch(from_impressions(pa.concat_tables(sampled), context)).columns
    start = 0
    for day, rows in zip(days, sampled, strict=True):
        part = slice(start, start + rows.num_rows)
        found[day] = {name: values[part] for name, values in features.items()} | found[day]
        start += rows.num_rows
    return found


def _few(values: Array, most: int = 4000) -> npt.NDArray[np.generic]:
    """Every k-th value: quantiles need no more."""
    return values[:: max(1, len(values) // most)]
