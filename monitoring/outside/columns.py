"""What the monitor must know of a log's columns and nobody has said.  Pure.

Categories that turn over by themselves are ids.  Columns of a kind are a family: how much days differ is learned from all of
them, and shrinking finds out how alike they are.  Which key owns a column, and which columns follow the clock, the distribution
tier finds out by itself.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from infra.clock import DAY_US
from monitoring.outside.mapping import LogMapping
from monitoring.window import LogColumns

MANY = 1000  # distinct values above which shares of values say nothing and coming and going is normal
TURNOVER = 0.005  # share of a later reference day's rows with a value that no earlier one had


def log_columns(reference: pa.Table, mapping: LogMapping) -> LogColumns:
    """The columns of a log, judged by its reference (columns f_NAME, time, in order of time)."""
    ids = []
    for name in mapping.categorical:
        column = reference[f"f_{name}"]
        named = name in (mapping.user, mapping.item)
        if named or pc.count_distinct(column).as_py() > MANY or _turnover(column, reference["time"].to_numpy()) > TURNOVER:
            ids.append(name)
    families = dict.fromkeys(mapping.categorical, "categorical") | dict.fromkeys(mapping.numeric, "numeric")
    return LogColumns(mapping.categorical, mapping.numeric, tuple(ids), families)


def _turnover(column: pa.ChunkedArray, time: np.ndarray) -> float:
    """Median over the second half of the days: share of rows whose value was on no day before."""
    codes = pc.fill_null(pc.dictionary_encode(column.combine_chunks()).indices, -1).to_numpy(zero_copy_only=False)
    days = np.searchsorted(np.unique(time // DAY_US), time // DAY_US)
    if not len(days) or days[-1] < 3:
        return 0.0
    _, first, back = np.unique(codes, return_index=True, return_inverse=True)  # rows are in order of time
    fresh = (days[first][back] == days) & (codes >= 0)
    share = np.bincount(days, fresh) / np.bincount(days)
    return float(np.median(share[len(share) // 2 :]))
