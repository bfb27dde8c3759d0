"""A stored row as one value: all of an entity's features in a view, with its stamps, the way the online reader reads them.

The stores keep Feast's one value a cell for whoever reads through Feast, and beside it this, so that a request reads one value
a view instead of one a feature.  Little-endian:

    layout id, event_us, available_us, snapshot (int64) | whole numbers and times (int64) | numbers (float32) | strings

where arrays lie element by element and a string is its length (uint16) and its UTF-8 bytes.  The layout id is a hash of the
view's features, so that rows written before a feature was added or changed are recognised instead of misread.
`features.online_store` packs; `features.online` unpacks.
"""

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features.catalogue import Feature, View
from features.snapshots import matrix, times_us

I64 = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]

HEAD = 4  # whole numbers before the features'
_WHOLE, _NUMBERS, _WORDS = ("int", "time", "ints"), ("float", "floats"), ("string",)
_LENGTH = struct.Struct("<H")


@dataclass(frozen=True, slots=True)
class Rows:
    """m rows of a view, and behind them one that stands for whoever isn't there."""

    snapshot: I64  # [m + 1]; 0 where there is no row
    missing: npt.NDArray[np.bool_]  # [m + 1]
    whole: I64  # [m + 1, Layout.whole], -1 unknown
    numbers: F32  # [m + 1, Layout.numbers], NaN unknown
    words: dict[str, npt.NDArray[np.str_]]  # [m + 1], "" unknown


class Layout:
    """Where the features of a view lie in its packed rows."""

    def __init__(self, view: View) -> None:
        self.view = view
        described = ";".join(f"{f.name}:{f.kind}:{f.length}" for f in view.features)
        digest = hashlib.blake2b(f"{view.name}|{described}".encode(), digest_size=8).digest()
        self.id = int.from_bytes(digest, "little", signed=True)
        self.words = tuple(f for f in view.features if f.kind in _WORDS)
        self.at: dict[str, slice] = {}  # a whole number's or number's columns among those of its sort
        self.whole = self._place(_WHOLE)
        self.numbers = self._place(_NUMBERS)
        self._start = 8 * (HEAD + self.whole)
        self.fixed = self._start + 4 * self.numbers  # bytes before the strings

    def _place(self, kinds: tuple[str, ...]) -> int:
        width = 0
        for feature in self.view.features:
            if feature.kind in kinds:
                self.at[feature.name] = slice(width, width + feature.length)
                width += feature.length
        return width

    @cached_property
    def _unknown(self) -> bytes:
        head = struct.pack(f"<{HEAD + self.whole}q", self.id, -1, -1, 0, *[-1] * self.whole)
        return head + np.full(self.numbers, np.nan, "<f4").tobytes() + _LENGTH.pack(0) * len(self.words)

    def pack(self, rows: pa.Table) -> list[bytes]:
        """Snapshot rows (columns as in `features.snapshots.schema`), one value each."""
        n = rows.num_rows
        whole = np.empty((n, HEAD + self.whole), "<i8")
        numbers = np.empty((n, self.numbers), "<f4")
        whole[:, 0] = self.id
        for column, name in enumerate(("event_timestamp", "available_at"), 1):
            whole[:, column] = times_us(rows[name])
        whole[:, 3] = rows["snapshot"].to_numpy()
        for feature in self.view.features:
            if feature.kind in _WHOLE:
                at = self.at[feature.name]
                whole[:, at.start + HEAD : at.stop + HEAD] = _plain(feature, rows[feature.name])
            elif feature.kind in _NUMBERS:
                numbers[:, self.at[feature.name]] = _plain(feature, rows[feature.name])
        numbers[np.isnan(numbers)] = np.nan  # one sign of NaN, as `features.derive` gives
        left, right = whole.tobytes(), numbers.tobytes()
        a, b = self._start, 4 * self.numbers
        fixed = [left[i * a : (i + 1) * a] + right[i * b : (i + 1) * b] for i in range(n)]
        for feature in self.words:
            words = [word.encode() for word in pc.fill_null(rows[feature.name], "").to_pylist()]
            fixed = [row + _LENGTH.pack(len(word)) + word for row, word in zip(fixed, words, strict=True)]
        return fixed

    def unpack(self, packed: Sequence[bytes | None]) -> Rows:
        """Rows from what `pack` made; None: there is no row.  ValueError where a value was written with another layout."""
        values = [value if value is not None else self._unknown for value in packed]
        values.append(self._unknown)
        if len(values) == 2:  # one entity, the usual request: numpy's calls cost more than its work
            whole = np.frombuffer(values[0][: self._start] + self._unknown[: self._start], "<i8").reshape(2, -1)
            numbers = np.frombuffer(values[0][self._start : self.fixed] + self._unknown[self._start : self.fixed], "<f4")
        else:
            whole = np.frombuffer(b"".join([value[: self._start] for value in values]), "<i8")
            numbers = np.frombuffer(b"".join([value[self._start : self.fixed] for value in values]), "<f4")
        try:
            whole, numbers = whole.reshape(len(values), -1), numbers.reshape(len(values), self.numbers)
            if (whole[:, 0] != self.id).any() or whole.shape[1] != HEAD + self.whole:
                raise ValueError("another layout")
            words = self._words(values)
        except (ValueError, struct.error, IndexError) as error:
            raise ValueError(
                f"the online store holds rows of {self.view.name} that were not written with the features it has now "
                f"({error}); run clickproof materialize, which writes them again"
            ) from None
        missing = np.array([value is None for value in packed] + [True])
        return Rows(whole[:, 3], missing, whole[:, HEAD:], numbers, words)

    def _words(self, values: Sequence[bytes]) -> dict[str, npt.NDArray[np.str_]]:
        found: dict[str, list[str]] = {feature.name: [] for feature in self.words}
        if not self.words:
            return {}
        for value in values:
            at = self.fixed
            for words in found.values():
                (length,) = _LENGTH.unpack_from(value, at)
                at += _LENGTH.size + length
                words.append(value[at - length : at].decode())
        return {name: np.array(words, np.str_) for name, words in found.items()}


def _plain(feature: Feature, column: pa.ChunkedArray) -> npt.NDArray[np.generic]:
    """A stored column as numpy [n, length]: -1 or NaN where null."""
    if feature.kind in ("floats", "ints"):
        return matrix(column, feature.length)
    if feature.kind == "float":
        return pc.fill_null(column, np.nan).to_numpy()[:, None]
    if feature.kind == "time":
        return times_us(column)[:, None]
    return pc.fill_null(column, -1).to_numpy()[:, None]


_layouts: dict[str, Layout] = {}


def layout(view: View) -> Layout:
    """The layout of a view, made once."""
    known = _layouts.get(view.name)
    if known is None or known.view is not view:
        known = _layouts[view.name] = Layout(view)
    return known
