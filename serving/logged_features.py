"""Which candidates' feature values go into the prediction log, and in what form.  Used by `serving.scorer`."""

from typing import Any

import numpy as np

from features.batch import I64, ViewStates
from features.blocks import Blocks
from features.ids import mix_one
from serving.prediction_log import matrix, pack, repeated

LOGGED_ONE_IN = 100  # of the candidates that are not shown, a hashed share has its feature values logged
_SAMPLE = 0x4C_4F_47  # salt of the hashed share


def logged_rows(request_id: int, n: int, shown: I64) -> I64:
    """Indexes of the candidates whose features are logged: the shown ones in slot order, then a hashed share of the others.

    Every LOGGED_ONE_IN-th candidate from a place that the request's id decides: each has the same chance, for one hash a
    request."""
    first = mix_one(request_id, _SAMPLE) % LOGGED_ONE_IN
    if first >= n:
        return shown
    found = shown.tolist()
    there = set(found)
    return np.array(found + [row for row in range(first, n, LOGGED_ONE_IN) if row not in there], np.int64)


def logged_features(columns: Blocks, states: ViewStates, rows: I64) -> dict[str, Any]:
    """The fields of a `Record` that hold feature values, snapshots and ages of some rows."""
    n = len(columns.numbers)
    return {
        "numbers": matrix(columns.names.numbers, columns.numbers.take(rows, axis=0)),
        "whole": matrix(columns.names.whole, columns.whole.take(rows, axis=0)),
        "others": {
            name: pack(values[rows]) if len(values) == n else repeated(values, len(rows))
            for name, values in columns.others.items()
        },
        "snapshots": matrix(states.names, states.snapshot.take(rows, axis=0)),
        "ages": matrix(states.names, states.age_s.take(rows, axis=0)),
    }
