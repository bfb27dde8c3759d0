"""A stretch of a log as arrays: decoded once a column, and grouped once a key, however many counts look at them.

A key is a column whose values own rows (a user, an ad, a request): rows of one owner are not independent, and many columns
have one value an owner.  Called by the counters of this tier.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Array = npt.NDArray[Any]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

EVERYTHING = "*"  # the key whose one owner has all rows
BOTH = "+"  # between two columns that own together
ENOUGH_OWNERS = 20.0  # of a log, before it means something that rows are of few of them
CROWD, CROWD_ROWS = 0.15, 10  # share of the rows in one place, and rows, above which they are of one owner
BETWEEN = "\x1f"  # between their values


def kish(sizes: Array) -> float:
    """How many equally large ones they are worth, (sum n)^2 / sum n^2; 0 where there is none (Kish 1965, "Survey Sampling")."""
    sizes = sizes.astype(np.float64)
    return float(sizes.sum() ** 2 / np.square(sizes).sum()) if sizes.any() else 0.0


@dataclass(frozen=True, slots=True)
class Groups:
    """Rows by owner: `order` [n] sorts rows by owner and, within one, by time; `starts` [u] and `sizes` [u] cut it."""

    owner: npt.NDArray[np.int32]  # [n] 0 .. u-1
    order: I64
    starts: I64
    sizes: I64

    @property
    def cluster(self) -> float:
        """Rows of a row's own owner, on average: sum n^2 / sum n (Kish's design effect of equal rows)."""
        return float(np.square(self.sizes.astype(np.float64)).sum() / max(self.sizes.sum(), 1))

    @property
    def worth(self) -> float:
        """How many equally busy owners all rows are worth (Kish)."""
        return kish(self.sizes)

    def first(self, values: Array) -> Array:
        """Each owner's first value [u]."""
        return values[self.order[self.starts]]

    def voters(self, place: I64, places: int) -> F64:
        """How many owners have a row in each of so many places [places]; rows at -1 have none.

        A busy owner weighs no more than any other, so that shares of owners are steadier than shares of rows.
        """
        there = place >= 0
        pairs = self.owner[there].astype(np.int64) * places + place[there]
        if len(self.sizes) * places <= 20 * len(place) + 1000:
            seen = np.bincount(pairs, minlength=len(self.sizes) * places) > 0
            return seen.reshape(-1, places).sum(axis=0).astype(np.float64)
        return np.bincount(np.unique(pairs) % places, minlength=places).astype(np.float64)

    def means(self, values: F64, chosen: Bool | None = None) -> F64:
        """Each owner's mean of values [owners]; of `chosen` rows only where given; owners without one are left out."""
        owner = self.owner if chosen is None else self.owner[chosen]
        total = np.bincount(owner, values, len(self.sizes))
        count = np.bincount(owner, minlength=len(self.sizes))
        return total[count > 0] / count[count > 0]

    def independent(self, rows: I64) -> float:
        """How many owners' worth of rows these row numbers are: (sum k)^2 / sum k^2."""
        return kish(np.unique(self.owner[rows], return_counts=True)[1])


class Rows:
    """Columns of a log by name, features with their prefix f_."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table
        self.rows = table.num_rows
        self.names = frozenset(table.column_names)
        self._numbers: dict[str, Array] = {}
        self._codes: dict[str, tuple[npt.NDArray[np.int32], Array]] = {}
        self._groups: dict[str, Groups] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> "Rows":
        """Itself: rows never change, and what is kept of them is only remembered."""
        return self

    def number(self, name: str) -> Array:
        """Values [n], float32 or float64; NaN where null or not finite, and in a column that is gone."""
        if name not in self._numbers and name not in self.names:
            self._numbers[name] = np.full(self.rows, np.nan, dtype=np.float32)
        if name not in self._numbers:
            column = self.table[name]
            kind = pa.float32() if pa.types.is_floating(column.type) and column.type.bit_width <= 32 else pa.float64()
            values = np.array(pc.fill_null(pc.cast(column, kind), float("nan")).to_numpy())
            values[~np.isfinite(values)] = np.nan
            self._numbers[name] = values
        return self._numbers[name]

    def codes(self, name: str) -> tuple[npt.NDArray[np.int32], Array]:
        """(codes [n], the distinct values they index); -1 where null, "" or, of numbers, NaN or negative.

        Of a column that is gone all are."""
        if name not in self._codes and BOTH in name:
            self._codes[name] = self._pairs(*name.split(BOTH))
        if name not in self._codes and name not in self.names:
            self._codes[name] = np.full(self.rows, -1, dtype=np.int32), np.empty(0, dtype=str)
        if name not in self._codes:
            column = self.table[name]
            if isinstance(column, pa.ChunkedArray):
                column = column.combine_chunks()
            if pa.types.is_boolean(column.type):
                column = pc.cast(column, pa.int8())
            encoded = column if pa.types.is_dictionary(column.type) else pc.dictionary_encode(column)
            codes = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False).astype(np.int32)
            values = encoded.dictionary.to_numpy(zero_copy_only=False)
            if values.dtype == object:
                values = values.astype(str)
            unknown = (values == "") if values.dtype.kind == "U" else ~(values >= 0)
            if unknown.any() and len(values):
                codes = np.where((codes >= 0) & unknown[np.maximum(codes, 0)], np.int32(-1), codes)
            self._codes[name] = codes, values
        return self._codes[name]

    def groups(self, name: str) -> Groups:
        """Rows grouped by a key column; null owners count as one.  `EVERYTHING` makes all rows one group."""
        if name not in self._groups and name == EVERYTHING:
            whole = np.array([self.rows] if self.rows else [], dtype=np.int64)
            self._groups[name] = Groups(np.zeros(self.rows, np.int32), np.arange(self.rows), np.zeros_like(whole), whole)
        if name not in self._groups:
            raw = self._owners(name)
            present, owner = np.unique(raw, return_inverse=True)
            order = np.argsort(owner.astype(np.int16) if len(present) < 30000 else owner, kind="stable")
            sizes = np.bincount(owner, minlength=len(present))
            self._groups[name] = Groups(owner.astype(np.int32), order, np.cumsum(sizes) - sizes, sizes)
        return self._groups[name]

    def has_many(self, key: str) -> bool:
        """Whether the rows have that key, and enough owners by it to say something."""
        return key in self.names and self.groups(key).worth >= ENOUGH_OWNERS

    def has_many_others(self, key: str) -> bool:
        """The same of all owners but the busiest."""
        if key not in self.names:
            return False
        return kish(np.sort(self.groups(key).sizes)[:-1]) >= ENOUGH_OWNERS

    def crowded(self, place: I64, places: int, key: str) -> Bool:
        """Rows [n] of an owner that alone has more than `CROWD` of the rows in their place [n]; rows at -1 are in none.

        One new ad in a category that few users had met is a third of those who had not; the day before nobody was.
        """
        owner, owners = self.groups(key).owner, len(self.groups(key).sizes)
        pair = (place + 1) * owners + owner
        alone = np.bincount(pair, minlength=(places + 1) * owners).reshape(places + 1, owners)
        large = alone > np.maximum(CROWD * alone.sum(axis=1), CROWD_ROWS)[:, None]
        large[0] = False
        return np.asarray(large.ravel()[pair])

    def things(self, hit: I64, cluster_by: str) -> float:
        """How many things these row numbers are: owners' worth of rows, of whichever of the column's owner, users and items
        has the fewest.  What all happens to one new ad is one thing, however many users see it.  Users or items that are few
        altogether say nothing."""
        keys = {*filter(self.has_many, ("user", "item")), cluster_by} - {""}
        return min((self.groups(key).independent(hit) for key in keys), default=float(len(hit)))

    def _pairs(self, one: str, other: str) -> tuple[npt.NDArray[np.int32], Array]:
        """Codes and values of pairs: their two values as one text."""
        (a, a_values), (b, b_values) = self.codes(one), self.codes(other)
        both = np.where((a < 0) | (b < 0), -1, a.astype(np.int64) * max(len(b_values), 1) + b)
        distinct, codes = np.unique(both, return_inverse=True)
        if len(distinct) and distinct[0] < 0:
            distinct, codes = distinct[1:], codes - 1
        left, right = a_values[distinct // max(len(b_values), 1)], b_values[distinct % max(len(b_values), 1)]
        return codes.astype(np.int32), np.strings.add(np.strings.add(left.astype(str), BETWEEN), right.astype(str))

    def _owners(self, name: str) -> npt.NDArray[np.integer[Any]]:
        """Codes of a key; of two columns joined by BOTH, codes of their pairs."""
        if BOTH not in name:
            return self.codes(name)[0]
        one, other = (self.codes(part)[0].astype(np.int64) for part in name.split(BOTH))
        return (one + 1) * (int(other.max(initial=0)) + 2) + other + 1

    def any_values(self, name: str, numeric: bool) -> Array:
        """Values [n] that can be compared with ==: numbers (NaN where null) or codes of this table."""
        return self.number(name) if numeric else self.codes(name)[0]


def same(left: Array, right: Array) -> Bool:
    """Elementwise equality, with NaN equal to NaN."""
    equal = np.asarray(left == right)
    if left.dtype.kind == "f":
        equal |= np.isnan(left) & np.isnan(right)
    return equal
