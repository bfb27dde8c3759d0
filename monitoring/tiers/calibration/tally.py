"""What one window shows: clicks seen and clicks expected, as a whole, by age, by slice and by user.  Pure but for what it notes
about new slices.  Called by the tier's streams, once a window.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from infra.clock import HOUR_US
from monitoring.tiers.calibration.cohorts import BIN_US, FINE_US, Cohort, Cohorts, binned, by_key
from monitoring.tiers.calibration.delay_curve import EDGES, HORIZON_S, DelayCurve, bucket_counts, transit
from monitoring.tiers.calibration.slices import Slices, keys
from monitoring.window import Window

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

OLD_S = 7200.0  # clicks from here on are "old": on our worlds a sixth of all
TOP_USERS = 5
FIRST_OLD = int(np.searchsorted(EDGES, OLD_S))


@dataclass(frozen=True, slots=True)
class Tally:
    """Seen and expected; expectations are sums of p, the champion's bias not taken out."""

    hours: float
    impressions: int
    sum_p: float
    clicks: float
    expected: float
    by_slice: F64  # clicks [slices]
    expected_by_slice: F64  # [slices]
    young: float  # sum over young items of their share of p, squared
    young_by_slice: F64  # the same within slices [slices]
    users: I64  # keys, sorted: those with a click, and suspects who were shown something
    user_clicks: F64  # [users]
    user_expected: F64
    user_clicks_now: F64  # on impressions of this very window [users with one]
    user_squares: float  # sum over all users of what this window's impressions let one expect, squared
    top_users: float  # clicks of the `TOP_USERS` users with the most
    cohort: Cohort | None  # None where labels come in the log
    clicks_by_age: F64  # [buckets]; empty likewise
    exposed_by_age: F64
    lags_s: F64  # arrived minus clicked [clicks]


def tally(window: Window, slices: Slices, cohorts: Cohorts, curve: DelayCurve, suspects: I64) -> Tally | None:
    """Count a window; None where it has neither clicks nor labels.  Users among `suspects` are counted without a click too.

    A click counts when its impression's cohort is known, so that a log may begin anywhere and have holes.
    """
    log = _finite(window.log)
    if window.clicks is None:
        if "label" not in log.column_names:
            return None
        log = log.filter(pc.is_valid(log["label"]))
        if log.num_rows and pa.types.is_floating(log["label"].type):
            log = log.filter(pc.is_finite(log["label"]))
    slices.meet(log, window.start_us)
    p = log["p"].to_numpy(zero_copy_only=False).astype(np.float64)
    time = log["time"].to_numpy().astype(np.int64)
    numbers = slices.of(log)
    user = keys(log["user"]) if "user" in log.column_names and log.num_rows else np.empty(0, np.int64)
    if window.clicks is None:
        clicked = log["label"].to_numpy(zero_copy_only=False).astype(np.float64) > 0
        factor, before = np.ones(len(p)), np.zeros(0)
        click_slices = [(name, number[clicked]) for name, number in numbers]
        click_users, now = user[clicked] if len(user) else user, np.ones(int(clicked.sum()), dtype=bool)
        ages, exposed, lags, cohort = np.zeros(0), np.zeros(0), np.zeros(0), None
        clicks, expected = float(clicked.sum()), float(p.sum())
    else:
        factor = curve.by_age(np.maximum(window.end_us - time, 0) / 1e6)
        fine_at, fine_p = binned(time, p, window.start_us, window.end_us, FINE_US)
        mine = fine_p @ transit(fine_at, window.start_us, window.end_us)
        older = cohorts.exposed(window.start_us, window.end_us)
        before = older @ curve.by_bucket / np.maximum(cohorts.p, 1e-12) if len(older) else np.zeros(0)
        exposed = mine + older.sum(axis=0)
        expected = float(exposed @ curve.by_bucket)
        seen = _finite(window.clicks)
        made = seen["time"].to_numpy().astype(np.int64)
        age = (seen["arrived_at"].to_numpy().astype(np.int64) - made) / 1e6
        now = (made >= window.start_us) & (made < window.end_us)
        known = (now | cohorts.covers(made)) & (age < HORIZON_S)
        seen, made, age, now = seen.filter(pa.array(known)), made[known], age[known], now[known]
        click_slices = slices.of(seen)
        click_users = keys(seen["user"]) if len(user) and seen.num_rows else np.empty(0, np.int64)
        ages = bucket_counts(age)
        lags = (seen["arrived_at"].to_numpy().astype(np.int64) - seen["clicked_at"].to_numpy().astype(np.int64)) / 1e6
        clicks = float(len(made))
        cohort = None
    streams = len(slices.names)
    sums, here, there = np.zeros(streams), np.zeros(streams), np.zeros(streams)
    for _, number in numbers:
        inside = number >= 0
        sums += np.bincount(number[inside], p[inside], minlength=streams)
        here += np.bincount(number[inside], (p * factor)[inside], minlength=streams)
    for _, number in click_slices:
        there += np.bincount(number[number >= 0], minlength=streams)
    rows, items = slices.young(log)
    young = 0.0 if not len(rows) else float(_clump(np.zeros(len(rows), np.int64), items, p[rows], p.sum(keepdims=True))[0])
    young_by_slice = np.zeros(streams)
    for _, number in numbers if len(rows) else []:
        inside = number[rows] >= 0
        young_by_slice += _clump(number[rows][inside], items[inside], p[rows][inside], sums)
    shown, shown_p = by_key(user, p * factor) if len(user) else (np.empty(0, np.int64), np.zeros(0))
    # Users with a click, and then suspects once more, to count the one without the other.
    who, count = np.unique(np.concatenate([click_users, suspects[np.isin(suspects, shown)]]), return_counts=True)
    count = count - np.isin(who, suspects[np.isin(suspects, shown)])
    from_now = np.zeros(len(who))
    if len(who) and len(shown):
        place = np.minimum(np.searchsorted(shown, who), len(shown) - 1)
        from_now = np.where(shown[place] == who, shown_p[place], 0.0)
    if window.clicks is not None:
        coarse_at, coarse_p = binned(time, p, window.start_us, window.end_us, BIN_US)
        users, users_p = by_key(user, p) if len(user) else (np.empty(0, np.int64), np.zeros(0))
        cohort = Cohort(window.start_us, window.end_us, coarse_at, coarse_p, sums, users, users_p)
        here += cohorts.slices(before, streams)
        from_now = from_now + cohorts.users(before, who)
    _, clicked_now = np.unique(click_users[now] if len(click_users) else click_users, return_counts=True)
    return Tally(
        hours=(window.end_us - window.start_us) / HOUR_US,
        impressions=len(p),
        sum_p=float(p.sum()),
        clicks=clicks,
        expected=expected,
        by_slice=there,
        expected_by_slice=here,
        young=young,
        young_by_slice=young_by_slice,
        users=who,
        user_clicks=count.astype(np.float64),
        user_expected=from_now,
        user_clicks_now=clicked_now.astype(np.float64),
        user_squares=float(np.square(shown_p).sum()),
        top_users=float(np.sort(count)[-TOP_USERS:].sum()),
        cohort=cohort,
        clicks_by_age=ages,
        exposed_by_age=exposed,
        lags_s=lags,
    )


def _clump(number: I64, item: I64, p: F64, sums: F64) -> F64:
    """Sum over items of their share of each slice's p, squared [slices]; `sums` are of p by slice."""
    _, code = np.unique(item, return_inverse=True)
    pair, pair_p = by_key(number * (int(code.max(initial=0)) + 1) + code, p)
    squares = np.bincount(pair // (int(code.max(initial=0)) + 1), np.square(pair_p), minlength=len(sums))
    return np.asarray(squares / np.maximum(np.square(sums), 1e-12))


def _finite(rows: pa.Table) -> pa.Table:
    """Rows with a usable prediction: others are the exact tier's business."""
    usable = np.isfinite(rows["p"].to_numpy(zero_copy_only=False).astype(np.float64))  # a null becomes NaN
    return rows if usable.all() else rows.filter(pa.array(usable))  # a copy of a wide log costs more than all else here
