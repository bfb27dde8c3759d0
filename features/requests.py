"""From impressions to the question that was asked: one `RequestBatch` for training, batch scoring and replay."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.batch import Array, RequestBatch


def from_impressions(impressions: pa.Table, context: Sequence[str]) -> RequestBatch:
    """The requests behind impressions, row by row: impression id, time, user (-1 where null), ad, and the context columns.

    Strings become numpy unicode ("" where null), whole numbers int64 (-1 where null).
    """
    return RequestBatch(
        row_id=_ids(impressions["impression_id"]),
        time_us=_ids(impressions["event_timestamp"]),
        user_id=_ids(impressions["user_id"]),
        ad_id=_ids(impressions["ad_id"]),
        context={name: context_column(impressions[name]) for name in context},
    )


def _ids(column: pa.ChunkedArray) -> np.ndarray:
    return pc.fill_null(pc.cast(column, pa.int64()), -1).to_numpy()


def context_column(column: pa.ChunkedArray) -> Array:
    """One context column as numpy; strings through their dictionary, because there are few different ones."""
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        encoded = pc.dictionary_encode(pc.fill_null(column, "")).combine_chunks()
        words = np.array(encoded.dictionary.to_pylist() or [""], dtype=np.str_)
        return words[encoded.indices.to_numpy(zero_copy_only=False)]
    return _ids(column)
