"""What goes into a feature lookup and what comes out: the contract of `FeatureSource`, in its three forms.

Online (the store), as-of (history as it could be seen at each row's time) and logged (what serving wrote down) all
answer the same question with the same type, so that training, serving and replay can be compared value by value.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
I64 = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]

OK, MISSING, STALE = 0, 1, 2


@dataclass(frozen=True, slots=True)
class RequestBatch:
    """n (request, candidate ad) pairs, each with the time at which the request was made."""

    row_id: I64  # unique; joins keep it, so rows in == rows out can be checked
    time_us: I64
    user_id: I64  # -1 where the source has no users
    ad_id: I64
    context: Mapping[str, Array]  # name -> values [n]: strings (numpy unicode) or numbers

    def __len__(self) -> int:
        return len(self.row_id)


@dataclass(frozen=True, slots=True)
class ViewState:
    """Where each row's values of one feature view came from."""

    snapshot: I64  # snapshot id; 0 where missing
    age_s: F32  # request time minus the time the view's data were complete up to, seconds; NaN where missing
    status: U8  # OK, MISSING or STALE


@dataclass(frozen=True, slots=True)
class FeatureBatch:
    """Feature values of n rows, aligned with the RequestBatch they answer.

    `columns` maps a feature's name to values [n] (float32; int64 for ids; numpy unicode for small categories; NaN, -1 or ""
    where unknown) or, for sequences, int64 [n, length] padded with -1.
    """

    columns: Mapping[str, Array]
    views: Mapping[str, ViewState]

    def fallback_mask(self) -> npt.NDArray[np.int32]:
        """[n] int32: bit i is set where the i-th view (in `views` order) was missing or stale."""
        states = list(self.views.values())
        mask = np.zeros(len(states[0].status) if states else 0, np.int32)
        for bit, state in enumerate(states):
            if state.status.any():  # OK is 0
                mask |= (state.status != OK).astype(np.int32) << bit
        return mask


class FeatureSource(Protocol):
    """Anything that can say what was known about (user, ad, context) at a time."""

    def fetch(self, requests: RequestBatch) -> FeatureBatch:
        """Features of each row, in row order.  Never fails for an unknown entity: it marks it MISSING."""
        ...
