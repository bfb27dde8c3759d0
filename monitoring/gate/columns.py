"""A candidate training set as the gate's checks see it: its parts as one table, what it was asked to hold, columns as
numbers.

Pure.  Called by every check of the gate, and by whoever cuts a set anew.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from features.ids import uniform
from infra.clock import DAY_US
from models.contract import Dataset

Array = npt.NDArray[Any]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Scope:
    """What an export was asked to hold: event times of each part, and which users."""

    windows: Mapping[str, tuple[int, int]]  # part -> [first_us, end_us)
    share: float = 1.0  # of the users, by hash: `uniform(user, salt) < share`
    salt: int = 0

    @classmethod
    def of(cls, parts: Mapping[str, Dataset]) -> "Scope":
        """The whole days from each part's first row to its last: what can be told without being told."""
        filled = {name: part for name, part in parts.items() if len(part)}
        return cls({
            name: (int(p.time_us.min()) // DAY_US * DAY_US, (int(p.time_us.max()) // DAY_US + 1) * DAY_US)
            for name, p in filled.items()
        })  # fmt: skip

    def holds(self, time_us: I64, user: I64) -> Bool:
        """Which rows [n] belong into the export."""
        inside = np.zeros(len(time_us), np.bool_)
        for first, end in self.windows.values():
            inside |= (time_us >= first) & (time_us < end)
        return inside if self.share >= 1 else inside & (uniform(user, self.salt) < self.share)

    @property
    def span(self) -> tuple[int, int]:
        """[first_us, end_us) of all parts."""
        return min(first for first, _ in self.windows.values()), max(end for _, end in self.windows.values())


def concatenate(parts: Sequence[Dataset]) -> Dataset:
    """Rows of several data sets with the same columns, one after the other."""

    def join(pick: str) -> Array:
        return np.concatenate([getattr(part, pick) for part in parts])

    columns = {name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns}
    return Dataset(columns, join("label"), join("slot"), join("time_us"), join("group"), join("row_id"), join("randomised"))


def codes(values: Array) -> I64:
    """The values [n] as 0 .. k-1, equal where they are equal; NaN equals NaN."""
    if values.dtype.kind == "f":
        values = np.where(np.isnan(values), np.inf, values)
    return np.unique(values, return_inverse=True)[1].astype(np.int64, copy=False)


def scalar(data: Dataset) -> dict[str, Array]:
    """The one-dimensional columns: sequences say nothing that a single number could."""
    return {name: values for name, values in data.columns.items() if values.ndim == 1}


def keys(data: Dataset) -> dict[str, I64]:
    """Columns of whole numbers and texts, as codes: what a statistic may have been grouped by."""
    found = {name: codes(values) for name, values in scalar(data).items() if values.dtype.kind != "f"}
    return found if "user_id" in found else {**found, "group": codes(data.group)}


SMALL = 64  # categories that a user or ad may be crossed with to make a key


def crossed(single: Mapping[str, I64]) -> dict[str, I64]:
    """Keys that a statistic may have been grouped by: each one, and users and ads crossed with small categories."""
    small = {name: code for name, code in single.items() if 1 < int(code.max(initial=0)) + 1 <= SMALL}
    found = dict(single)
    for large in ("user_id", "group", "ad_id"):
        if large in single and large not in small:
            found |= {f"{large} x {name}": single[large] * (int(code.max()) + 1) + code for name, code in small.items()}
    return found
