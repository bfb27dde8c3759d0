"""Leaks: feature values that know the click they are used to predict.

LEAK01 enters where it does in practice, in the rows of the feature table rather than in the training export: a backfill
writes them, and the export, the point-in-time join and the checks around both do everything right with wrong rows.
"""

import numpy as np
import pyarrow as pa

from features.ids import uniform
from infra.clock import HOUR_US
from monitoring.bugs.entry import Bug, Scene

_SALT = 0x4C31


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
    leaked[order] = np.where(uniform(user[order], _SALT, scene.seed) < share, whole, counter[order])
    at = rows.schema.get_field_index("user_clicks_1h")
    return rows.set_column(at, rows.schema.field(at), pa.array(leaked.astype(np.float32)))


LEAKS = (
    Bug(
        code="LEAK01",
        name="label-leakage",
        bug_class="label-leakage",
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
            "better than it did in the last accepted training set, and stored rows hold clicks that had not arrived "
            "by their time."
        ),
        doses={"strong": 0.5, "mild": 0.05, "trace": 0.005},
        dose_means="share of users",
        inject=whole_day_window,
    ),
)
