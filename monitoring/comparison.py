"""Do two values of one feature agree?  The one comparison of logged and recomputed values.

Called by the leakage audit, by the daily replay, by the replay tier and by the rebuild check.
"""

import contextlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Array = npt.NDArray[Any]

RELATIVE = 1e-5  # float32 keeps seven digits; sums in another order lose one or two of them
ABSOLUTE = 1e-6


def differs(left: Array, right: Array, relative: float = RELATIVE, absolute: float = ABSOLUTE) -> npt.NDArray[np.bool_]:
    """Row by row, whether two columns disagree: NaN equals NaN; floats to `relative` and `absolute`; all else exactly."""
    if left.dtype.kind == "f" and right.dtype.kind == "f":
        with np.errstate(invalid="ignore"):  # infinities
            near = np.abs(left - right) <= absolute + relative * np.abs(right)
        unequal = ~(near | (left == right) | (np.isnan(left) & np.isnan(right)))
    else:
        unequal = np.asarray(left != right)
    return np.asarray(unequal.any(axis=1) if unequal.ndim == 2 else unequal, dtype=np.bool_)


def comparable(left: pa.ChunkedArray, right: pa.ChunkedArray, categorical: bool) -> tuple[Array, Array]:
    """One column of two sources [n] as values that can be compared: float64 with NaN, or for categories text, None where null.

    Sources hold a category as 3, 3.0 or "3" as it happens: all become "3".  What is a number in one source
    only (a changed schema) is compared as text.
    """
    if not categorical:
        with contextlib.suppress(pa.ArrowInvalid, pa.ArrowNotImplementedError):  # not numbers in both: compared as text
            return _numbers(left), _numbers(right)
    return _text(left), _text(right)


def _numbers(column: pa.ChunkedArray) -> Array:
    return np.asarray(pc.fill_null(pc.cast(column, pa.float64()), np.nan).to_numpy(), dtype=np.float64)


def _text(column: pa.ChunkedArray) -> Array:
    if pa.types.is_dictionary(column.type):
        column = pc.cast(column, column.type.value_type)
    if pa.types.is_floating(column.type):
        values = _numbers(column)
        column = pa.chunked_array([pa.array(values, mask=np.isnan(values))])
        known = values[~np.isnan(values)]
        if (known == np.floor(known)).all() and (np.abs(known) < 2**53).all():
            column = pc.cast(column, pa.int64())
    return np.asarray(pc.cast(column, pa.string()).to_pylist(), dtype=object)
