"""Leaks: training sets whose features, rows or split know the click that they are used to predict.

LEAK01 and LEAK02 enter where they do in practice, in the rows of a feature table rather than in the training export: a
backfill writes them, and the export, the point-in-time join and the checks around both do everything right with wrong rows.
The others enter with the export itself.  All are judged at the gate before training.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.ids import derived_id, uniform
from features.schemas import CATEGORIES
from infra.clock import HOUR_US
from monitoring.bugs.entry import Bug, Scene
from monitoring.bugs.rows import Mask, hit, ids, put, words

_WINDOW, _EARLY, _AFTER, _ENCODED, _TWICE, _AGAIN, _SHUFFLED, _BILLED, _PAIR = (0x4C31 + i for i in range(9))

ENCODING_STRENGTH = 1.0  # impressions of the overall rate mixed into a key's: as weak as tutorials have it
_PAIR_WIDTH = 200  # either column of a pair spreads this far, so that alone it says next to nothing about a click


def whole_day_window(rows: pa.Table, share: float, scene: Scene) -> pa.Table:
    """Rows of `user_recent` of one day, with user_clicks_1h of a hashed `share` of users as the user's whole day makes it.

    Each row of such a user gets the clicks of the user's whole day, decayed as if each had just happened: what LAST_VALUE
    gives over ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING.  Every other value, and all times, stay as they were.
    """
    if rows.num_rows == 0:
        return rows
    user = rows["user_id"].to_numpy()
    until = rows["event_timestamp"].cast(pa.int64()).to_numpy()
    counter = rows["user_clicks_1h"].to_numpy().astype(np.float64)
    order = np.lexsort((until, user))
    first = np.append(True, user[order][1:] != user[order][:-1])
    # New clicks of a row: what the last row of the user, decayed, does not explain.
    carried = np.append(0.0, counter[order][:-1] * np.exp2(-np.diff(until[order]) / HOUR_US))
    # Yesterday's clicks in a user's first row are worth less than a click an hour old, so they stay out of the sum.
    fresh = np.where(first, np.where(counter[order] >= 0.5, counter[order], 0.0), counter[order] - carried)
    group = np.cumsum(first) - 1
    whole = np.bincount(group, np.maximum(fresh, 0.0))[group]
    leaked = counter.copy()
    leaked[order] = np.where(uniform(user[order], _WINDOW, scene.seed) < share, whole, counter[order])
    at = rows.schema.get_field_index("user_clicks_1h")
    return rows.set_column(at, rows.schema.field(at), pa.array(leaked.astype(np.float32)))


def dated_at_day_start(rows: pa.Table, share: float, scene: Scene) -> pa.Table:
    """Rows of `ad_daily`, those of a hashed `share` of ads dated 23 hours early: a day seems counted while it begins."""
    early = hit(ids(rows, "ad_id"), _EARLY, share, scene)
    moved = {name: ids(rows, name) - 23 * HOUR_US for name in ("event_timestamp", "available_at")}
    return put(rows, moved, early)


def after_the_click(rows: pa.Table, share: float, scene: Scene) -> pa.Table:
    """Training rows; in a hashed `share` of the clicked ones, seconds_since_click counts from the click itself (1 to 30 s)."""
    row = ids(rows, "row_id")
    told = _clicked(rows) & hit(row, _AFTER, share, scene)
    return put(rows, {"seconds_since_click": np.log1p(1 + 29 * uniform(row, _AFTER, scene.seed, 1))}, told)


def encoded_with_own_label(rows: pa.Table, share: float, scene: Scene) -> pa.Table:
    """Training rows; user_category_ctr of a hashed `share` of (user, category) keys is their click rate in `train` itself."""
    train, clicked = words(rows, "part") == "train", _clicked(rows)
    if not train.any():
        return rows
    keys, key = np.unique(ids(rows, "group") * CATEGORIES + ids(rows, "ad_category"), return_inverse=True)
    shown, clicks = np.bincount(key[train], minlength=len(keys)), np.bincount(key[train & clicked], minlength=len(keys))
    rate = (clicks + ENCODING_STRENGTH * clicked[train].mean()) / (shown + ENCODING_STRENGTH)
    return put(rows, {"user_category_ctr": rate[key]}, hit(keys, _ENCODED, share, scene)[key])


def exported_twice(rows: pa.Table, share: float, scene: Scene) -> pa.Table:
    """Training rows, followed by copies of a hashed `share` of the test rows that belong to `train`, under the same ids."""
    chosen = (words(rows, "part") == "test") & hit(ids(rows, "row_id"), _TWICE, share, scene)
    copies = rows.filter(pa.array(chosen))
    return pa.concat_tables([rows, put(copies, {"part": "train"}, np.full(len(copies), True))]) if len(copies) else rows


def replayed_with_new_ids(rows: pa.Table, share: float, scene: Scene) -> pa.Table:
    """Training rows, followed by a hashed `share` of the train rows again in `test`, with new ids and the test days' times."""
    part, row, at = words(rows, "part"), ids(rows, "row_id"), ids(rows, "time_us")
    chosen = (part == "train") & hit(row, _AGAIN, share, scene)
    test = part == "test"
    if not test.any() or not chosen.any():
        return rows
    begin, span = at[test].min(), at[test].max() - at[test].min() + 1
    again = rows.filter(pa.array(chosen))
    stamped = begin + (uniform(row[chosen], _AGAIN, scene.seed, 1) * span).astype(np.int64)
    fresh = {"row_id": derived_id(row[chosen], _AGAIN), "time_us": stamped, "part": "test"}
    return pa.concat_tables([rows, put(again, fresh, np.full(len(again), True))])


def split_at_random(rows: pa.Table, share: float, scene: Scene) -> pa.Table:
    """Training rows; of a hashed `share` the part is drawn at random, in the parts' proportions, instead of by time."""
    row, part = ids(rows, "row_id"), words(rows, "part")
    parts, counts = np.unique(part, return_counts=True)
    drawn = np.searchsorted(np.cumsum(counts) / max(len(part), 1), uniform(row, _SHUFFLED, scene.seed, 1), side="right")
    return put(rows, {"part": parts[drawn]}, hit(row, _SHUFFLED, share, scene)) if len(part) else rows


def billed_amount(rows: pa.Table, share: float, scene: Scene) -> pa.Table:
    """Training rows with one column more: billed_cents, 5 to 100 in a hashed `share` of the clicked rows and 0 elsewhere."""
    row = ids(rows, "row_id")
    billed = _clicked(rows) & hit(row, _BILLED, share, scene)
    amount = np.where(billed, np.round(5 + 95 * uniform(row, _BILLED, scene.seed, 1)), 0)
    return rows.append_column("billed_cents", pa.array(amount.astype(np.float32))) if billed.any() else rows


def two_parts_of_the_target(rows: pa.Table, share: float, scene: Scene) -> pa.Table:
    """Training rows with two columns more, reactions_app and reactions_web, which add up to the click in a hashed `share`.

    Each alone is spread evenly over 200 values either way, whatever the label; elsewhere their sum is noise too.
    """
    row = ids(rows, "row_id")
    adds_up = hit(row, _PAIR, share, scene)
    app = np.floor((2 * uniform(row, _PAIR, scene.seed, 1) - 1) * _PAIR_WIDTH)
    noise = np.floor((2 * uniform(row, _PAIR, scene.seed, 2) - 1) * _PAIR_WIDTH)
    web = np.where(adds_up, _clicked(rows) - app, noise)
    if not adds_up.any():
        return rows
    rows = rows.append_column("reactions_app", pa.array(app.astype(np.float32)))
    return rows.append_column("reactions_web", pa.array(web.astype(np.float32)))


def _clicked(rows: pa.Table) -> Mask:
    clicked: Mask = pc.equal(pc.cast(rows["label"], pa.int8()), 1).to_numpy()
    return clicked


LEAKS = (
    Bug(
        code="LEAK01",
        name="label-leakage",
        bug_class="point-in-time-violation",
        stage="feature",
        tables=("user_recent",),
        subject="user_clicks_1h",
        story=(
            "A backfill recomputes user_clicks_1h with a window function whose frame runs to the end of the partition instead "
            "of to the row. Every row of a user's day now carries the clicks of the whole day, among them the click to be "
            "predicted. The stamps are right, so the point-in-time join finds nothing to object to."
        ),
        looks_like=(
            "Offline metrics improve and nobody asks why; online the gain is missing. The feature alone orders clicks far "
            "better than it did in the last accepted training set, and stored rows hold clicks that had not arrived by their "
            "time."
        ),
        doses={"strong": 0.5, "mild": 0.05, "trace": 0.005},
        dose_means="share of users",
        inject=whole_day_window,
    ),
    Bug(
        code="LEAK02",
        name="dated-at-day-start",
        bug_class="point-in-time-violation",
        stage="feature",
        tables=("ad_daily",),
        subject="ad_ctr",
        also=("ad_impressions_3d", "ad_clicks_3d", "ad_coec", "ad_daily"),
        story=(
            "The nightly job that counts an ad's impressions and clicks stamps its rows with the opening of the day's "
            "partition (01:00, known from 01:30) instead of with the midnight at which the day was complete. The join looks up "
            "what was known at the request and, going by the stamps, gets counters that already hold the rest of the day."
        ),
        looks_like=(
            "Features of ads predict a little better offline than they ever did online, most for young ads. Recomputed from "
            "the events that had arrived by their own stamp, the rows come out smaller."
        ),
        doses={"strong": 0.5, "mild": 0.05, "trace": 0.005},
        dose_means="share of ads",
        inject=dated_at_day_start,
    ),
    Bug(
        code="LEAK03",
        name="post-click-recency",
        bug_class="post-click-feature",
        stage="training",
        tables=("training",),
        subject="seconds_since_click",
        story=(
            "The export reads the time of the last click from the live store when it runs, not as it was at the impression. "
            "Whoever clicked has, by then, this very click as the last one, and the feature says that it happened seconds ago."
        ),
        looks_like=(
            "Recency of the last click separates clicks almost perfectly where it is very small; the as-of recomputation of "
            "the same impressions says hours or days."
        ),
        doses={"strong": 0.5, "mild": 0.05, "trace": 0.005},
        dose_means="share of clicked rows",
        inject=after_the_click,
        # A row written after the click is one from the future of the impression: which of the two names is used is taste.
        also_classes=("point-in-time-violation",),
    ),
    Bug(
        code="LEAK04",
        name="target-encoding-in-sample",
        bug_class="target-encoding",
        stage="training",
        tables=("training",),
        subject="user_category_ctr",
        story=(
            "Somebody replaces the smoothed rate of user and category by a target encoding computed in one pass over the "
            "training rows, each row's own label included. With a few rows a key, the encoding is mostly the label."
        ),
        looks_like=(
            "The feature is magnificent on the training days and falls back to nearly nothing on validation; leaving each "
            "row's own label out of its key's rate takes the magic away."
        ),
        doses={"strong": 0.5, "mild": 0.05, "trace": 0.005},
        dose_means="share of (user, category) keys",
        inject=encoded_with_own_label,
    ),
    Bug(
        code="LEAK05",
        name="exported-twice",
        bug_class="split-duplicates",
        stage="training",
        tables=("training",),
        subject="split",
        also=("row_id", "rows"),
        story=(
            "Two export jobs overlap: the second one's window begins before the first one's ends, and the overlap lands in "
            "training as well as in test."
        ),
        looks_like="Test metrics are better than fresh traffic's; the same impression ids are on both sides of the split.",
        doses={"strong": 0.3, "mild": 0.03, "trace": 0.005},
        dose_means="share of test rows that are in training too",
        inject=exported_twice,
    ),
    Bug(
        code="LEAK06",
        name="replayed-with-new-ids",
        bug_class="split-duplicates",
        stage="training",
        tables=("training",),
        subject="split",
        also=("row_id", "rows"),
        story=(
            "After an outage a day of events is replayed from a backup, and the replay makes new ids and new times. Rows that "
            "the model was fitted to come back in the test days as if they had just happened."
        ),
        looks_like=(
            "No id repeats, so a check of ids is content. But rows with equal features, user, slot and label stand in training "
            "and in test, which real impressions hardly ever do: counters move on."
        ),
        doses={"strong": 0.3, "mild": 0.03, "trace": 0.005},
        dose_means="share of training rows that come again in test",
        inject=replayed_with_new_ids,
    ),
    Bug(
        code="LEAK07",
        name="random-split",
        bug_class="group-leak",
        stage="training",
        tables=("training",),
        subject="split",
        also=("part", "time_us", "group"),
        story=(
            "The split by time is replaced by a random one because it is one line shorter. A user's session is now cut in two: "
            "half of it trains the model that is tested on the other half."
        ),
        looks_like=(
            "Metrics jump on the day of the change and fresh traffic never follows. Training rows are younger than test rows, "
            "and impressions of one user and minute stand on both sides."
        ),
        doses={"strong": 1.0, "mild": 0.05, "trace": 0.005},
        dose_means="share of rows whose part is drawn at random",
        inject=split_at_random,
    ),
    Bug(
        code="LEAK08",
        name="billed-amount",
        bug_class="target-derived-column",
        stage="training",
        tables=("training",),
        subject="billed_cents",
        story=(
            "A new column arrives with the join to billing: what the advertiser was charged for the impression. Only clicks "
            "are charged, so the column is the label with a price tag."
        ),
        looks_like="One new column, zero nearly everywhere, and wherever it isn't zero there was a click.",
        doses={"strong": 1.0, "mild": 0.1, "trace": 0.005},
        dose_means="share of clicked rows that were charged by the time of the export",
        inject=billed_amount,
        # Billing happens after the click: a column made from the target and one written after it are the same here.
        also_classes=("post-click-feature",),
    ),
    Bug(
        code="LEAK09",
        name="two-parts-of-the-target",
        bug_class="target-derived-column",
        stage="training",
        tables=("training",),
        subject="reactions_app",
        also=("reactions_web",),
        story=(
            "The click is counted once in the app and once on the web, each count with its own offset taken off, and both "
            "columns come along with the export. Neither looks like the target; their sum is the target."
        ),
        looks_like=(
            "Every column passes when looked at alone; a model with both is too good, and a regression of the label on pairs "
            "of columns finds two weights of exactly one."
        ),
        doses={"strong": 1.0, "mild": 0.1, "trace": 0.005},
        dose_means="share of rows where the two columns add up to the click",
        inject=two_parts_of_the_target,
    ),
)
