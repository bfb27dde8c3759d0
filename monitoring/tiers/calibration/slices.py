"""Slices: the rows of a log by the values of its columns with few values, numbered once and for all.

Categorical features, arm, model, slot, the randomised flag, tenths of p, and whether item and user are new.  An impression
and its click get the same slices however long the click takes: tenths are cut once, and an item is new for a day after it
was first seen.  Called by the tier's streams.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from infra.clock import DAY_US
from monitoring.window import LogColumns

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

MOST_VALUES = 32  # columns with more values than this are no slices
TENTHS = 10
PREDICTION, UPPER = "prediction", "upper half of p"
NEW = {"item": "new item", "user": "new user"}
BESIDE = ("arm", "model", "slot", "randomised")
YOUNG_US = 3 * DAY_US  # until then counters over three days know little of an item
SETTLE_US = 2 * DAY_US  # who is first seen this early in a log is not called new
SAMPLE = 20_000  # rows of the first windows from which tenths of p are cut


@dataclass(slots=True)
class Slices:
    """Numbers slices as they appear."""

    columns: LogColumns
    names: list[tuple[str, str]] = field(default_factory=list)  # (column, value) by number
    tenths: F64 | None = None  # edges, once cut
    upper: float = np.inf  # from here on up half of the expected clicks lie
    _number: dict[tuple[str, str], int] = field(default_factory=dict)
    _dropped: set[str] = field(default_factory=set)
    _count: dict[str, int] = field(default_factory=dict)
    _first: dict[str, tuple[I64, I64]] = field(default_factory=dict)  # ids (sorted), when first seen
    _begin_us: int | None = None
    _early: list[F64] = field(default_factory=list)

    @property
    def has_users(self) -> bool:
        """Whether rows say whose they are."""
        return "user" in self._first

    def meet(self, log: pa.Table, start_us: int) -> None:
        """Look at a window's impressions before they are sliced: cuts tenths, notes who is new."""
        if self._begin_us is None:
            self._begin_us = start_us
        p = log["p"].to_numpy(zero_copy_only=False).astype(np.float64)
        if self.tenths is None:
            self._early.append(p[np.isfinite(p)])
            rows = sum(len(part) for part in self._early)
            if rows >= SAMPLE or (rows >= 200 and start_us - self._begin_us >= DAY_US):
                every = np.sort(np.concatenate(self._early))
                mass = np.cumsum(every) / max(every.sum(), 1e-12)
                self.tenths = np.unique(every[np.searchsorted(mass, np.arange(1, TENTHS) / TENTHS)])
                self.upper = float(every[np.searchsorted(mass, 0.5)])
                self._early = []
        for column in NEW:
            if column in log.column_names and log.num_rows:
                ids = np.unique(keys(log[column]))
                known, since = self._first.get(column, (np.empty(0, np.int64), np.empty(0, np.int64)))
                place = np.minimum(np.searchsorted(known, ids), max(len(known) - 1, 0))
                unknown = ids if not len(known) else ids[known[place] != ids]
                if len(unknown):
                    known = np.concatenate([known, unknown])
                    order = np.argsort(known)
                    since = np.concatenate([since, np.full(len(unknown), start_us)])
                    self._first[column] = known[order], since[order]

    def young(self, table: pa.Table) -> tuple[I64, I64]:
        """Rows of items that are days old at most [young rows], and their item's key."""
        nothing = np.empty(0, np.int64)
        if "item" not in self._first or "item" not in table.column_names or not table.num_rows:
            return nothing, nothing
        assert self._begin_us is not None, "`meet` comes first"
        known, since = self._first["item"]
        late = since > self._begin_us + SETTLE_US
        known, since = known[late], since[late]
        if not len(known):
            return nothing, nothing
        ids = keys(table["item"])
        place = np.minimum(np.searchsorted(known, ids), len(known) - 1)
        rows = np.flatnonzero((known[place] == ids) & (table["time"].to_numpy() - since[place] < YOUNG_US))
        return rows, ids[rows]

    def of(self, table: pa.Table) -> list[tuple[str, I64]]:
        """For each slicing column its name and the slice numbers [rows] of a table's rows (-1: in none)."""
        found = []
        for name in self.columns.categorical:
            if name in self.columns.ids or self.columns.families.get(name) == "time" or name in self._dropped:
                continue
            if f"f_{name}" in table.column_names:
                found.append((name, self._categories(name, table[f"f_{name}"])))
        beside = [name for name in BESIDE if name in table.column_names and name not in self._dropped]
        found += [(name, self._categories(name, table[name])) for name in beside]
        for name, title in NEW.items():
            if name in table.column_names and name in self._first and table.num_rows:
                known, since = self._first[name]
                ids = keys(table[name])
                place = np.minimum(np.searchsorted(known, ids), len(known) - 1)
                first = np.where(known[place] == ids, since[place], np.iinfo(np.int64).max)
                assert self._begin_us is not None, "`meet` comes first"
                young = (first > self._begin_us + SETTLE_US) & (table["time"].to_numpy() - first < DAY_US)
                found.append((name, np.where(young, self._of(name, title), -1)))
        if self.tenths is not None:
            p = table["p"].to_numpy(zero_copy_only=False).astype(np.float64)
            numbers = np.array([self._of(PREDICTION, f"tenth {i + 1} of p") for i in range(len(self.tenths) + 1)])
            found.append((PREDICTION, numbers[np.searchsorted(self.tenths, p, "right")]))
            found.append((UPPER, np.where(p >= self.upper, self._of(UPPER, "yes"), -1)))
        return [(name, numbers) for name, numbers in found if name not in self._dropped]

    def _of(self, column: str, value: str) -> int:
        key = column, value
        if key not in self._number:
            self._number[key] = len(self.names)
            self.names.append(key)
            self._count[column] = self._count.get(column, 0) + 1
        return self._number[key]

    def _categories(self, column: str, values: pa.ChunkedArray) -> I64:
        coded = pc.dictionary_encode(values.combine_chunks(), null_encoding="encode")
        if isinstance(coded, pa.ChunkedArray):
            coded = coded.combine_chunks()
        texts = [str(value) for value in coded.dictionary.to_pylist()]
        new = [text for text in texts if (column, text) not in self._number]
        if self._count.get(column, 0) + len(new) > MOST_VALUES:
            # In the first day a column with many values is no slicing column; later only its new values are left out.
            if not self._count.get(column, 0) or self.tenths is None:
                self._dropped.add(column)
                return np.full(len(coded), -1, dtype=np.int64)
            texts = [text if (column, text) in self._number else "" for text in texts]
        numbers = np.array([self._of(column, text) if text or not new else -1 for text in texts] or [-1], dtype=np.int64)
        codes = coded.indices.to_numpy(zero_copy_only=False)
        return np.asarray(numbers[codes.astype(np.int64)])


def keys(values: pa.ChunkedArray) -> I64:
    """Ids, numbers or strings, as int64 [rows]: strings by hash, nulls as one id of their own."""
    if pa.types.is_integer(values.type) and not values.null_count:
        return np.asarray(values.to_numpy(), dtype=np.int64)
    import pandas as pd

    coded = pc.dictionary_encode(values.combine_chunks(), null_encoding="encode")
    if isinstance(coded, pa.ChunkedArray):
        coded = coded.combine_chunks()
    texts = np.array([str(value) for value in coded.dictionary.to_pylist()], dtype=object)
    hashed = pd.util.hash_array(texts).astype(np.int64) if len(texts) else np.zeros(1, np.int64)
    return np.asarray(hashed[coded.indices.to_numpy(zero_copy_only=False).astype(np.int64)])
