"""What goes into a feature lookup and what comes out: the contract of `FeatureSource`, in its three forms.

Online (the store), as-of (history as it could be seen at each row's time) and logged (what serving wrote down) all
answer the same question with the same type, so that training, serving and replay can be compared value by value.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
I64 = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]

OK, MISSING, STALE = 0, 1, 2
Degraded = Literal["", "stale features", "priors", "popularity"]  # what stood in for what could not be had, in order of loss


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


class OneRequest(RequestBatch):
    """The n rows of one request, which share its user, time and context: columns are made only for whoever asks for them."""

    __slots__ = ("one_context", "one_time_us", "one_user")
    one_user: int
    one_time_us: int
    one_context: Mapping[str, str | int]

    def __init__(self, user_id: int, ad_id: I64, time_us: int, context: Mapping[str, str | int]) -> None:
        put = object.__setattr__
        put(self, "ad_id", ad_id)
        put(self, "one_user", user_id)
        put(self, "one_time_us", time_us)
        put(self, "one_context", context)

    def __len__(self) -> int:
        return len(self.ad_id)

    @property
    def row_id(self) -> I64:
        return np.arange(len(self))

    @property
    def time_us(self) -> I64:
        return np.full(len(self), self.one_time_us)

    @property
    def user_id(self) -> I64:
        return np.full(len(self), self.one_user)

    @property
    def context(self) -> dict[str, Array]:
        return {name: np.full(len(self), value) for name, value in self.one_context.items()}


@dataclass(frozen=True, slots=True)
class ViewState:
    """Where each row's values of one feature view came from."""

    snapshot: I64  # snapshot id; 0 where missing
    age_s: F32  # request time minus the time the view's data were complete up to, seconds; NaN where missing
    status: U8  # OK, MISSING or STALE


class ViewStates(Mapping[str, ViewState]):
    """The states of v views, for n rows each, in matrices [n, v]; a mapping for whoever wants one view."""

    __slots__ = ("age_s", "flawed", "names", "snapshot", "status")

    def __init__(self, names: tuple[str, ...], snapshot: I64, age_s: F32, status: U8, flawed: bool) -> None:
        """`flawed`: whether any status may be other than OK."""
        self.names, self.snapshot, self.age_s, self.status, self.flawed = names, snapshot, age_s, status, flawed

    @classmethod
    def of(cls, views: Mapping[str, ViewState], rows: int) -> "ViewStates":
        """Plain states side by side."""
        if isinstance(views, ViewStates):
            return views
        states = list(views.values())
        snapshot, age_s = np.empty((rows, len(states)), np.int64), np.empty((rows, len(states)), np.float32)
        status = np.empty((rows, len(states)), np.uint8)
        for at, state in enumerate(states):
            snapshot[:, at], age_s[:, at], status[:, at] = state.snapshot, state.age_s, state.status
        return cls(tuple(views), snapshot, age_s, status, bool(status.any()))

    def mask(self) -> npt.NDArray[np.int32]:
        """[n] int32: bit i is set where the i-th view was missing or stale."""
        if not self.flawed:
            return np.zeros(len(self.status), np.int32)
        return ((self.status != OK) @ (1 << np.arange(len(self.names)))).astype(np.int32)

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __getitem__(self, name: str) -> ViewState:
        try:
            at = self.names.index(name)
        except ValueError:
            raise KeyError(name) from None
        return ViewState(self.snapshot[:, at], self.age_s[:, at], self.status[:, at])


@dataclass(frozen=True, slots=True)
class FeatureBatch:
    """Feature values of n rows, aligned with the RequestBatch they answer.

    `columns` maps a feature's name to values [n] (float32; int64 for ids; numpy unicode for small categories; NaN, -1 or ""
    where unknown) or, for sequences, int64 [n, length] padded with -1.  `features.blocks.Blocks` is such a mapping.
    """

    columns: Mapping[str, Array]
    views: Mapping[str, ViewState]
    degraded: Degraded = ""  # what stood in where the store could not be read


class FeatureSource(Protocol):
    """Anything that can say what was known about (user, ad, context) at a time."""

    def fetch(self, requests: RequestBatch) -> FeatureBatch:
        """Features of each row, in row order.  Never fails for an unknown entity: it marks it MISSING."""
        ...
