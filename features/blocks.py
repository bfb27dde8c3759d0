"""Feature columns side by side in matrices: what one request's answer is made of.

At twenty rows numpy's calls cost more than its work, so the path of a request handles all numbers of a batch in one call, not
column by column.  A `Blocks` is still a mapping of columns, for everybody who asks for one by name.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]


class Names:
    """The names of a block's columns, with what is derived from them, made once: batches of one source share it."""

    def __init__(self, numbers: Sequence[str], whole: Sequence[str]) -> None:
        self.numbers = tuple(numbers)
        self.whole = tuple(whole)
        self.number = {name: i for i, name in enumerate(self.numbers)}
        self.whole_number = {name: i for i, name in enumerate(self.whole)}
        self._orders: dict[tuple[str, ...], I64 | None] = {}

    def order(self, names: tuple[str, ...]) -> I64 | None:
        """The columns of `numbers` that bear these names, in their order; None where some name isn't among them."""
        if names not in self._orders:
            known = all(name in self.number for name in names)
            self._orders[names] = np.array([self.number[name] for name in names], np.int64) if known else None
        return self._orders[names]


class Blocks(Mapping[str, Array]):
    """n rows: `numbers` float32 [n, d], `whole` int64 [n, e], and `others` (strings, sequences), each [n, ...] or, where all
    rows have the same, [1, ...]."""

    __slots__ = ("_same_at", "names", "numbers", "others", "whole")

    def __init__(
        self, names: Names, numbers: F32, whole: I64, others: Mapping[str, Array], same_at: Mapping[str, int] | None = None
    ) -> None:
        """`same_at` are the columns of `whole` in which all rows have the same."""
        self.names = names
        self.numbers = numbers
        self.whole = whole
        self.others = others
        self._same_at: Mapping[str, int] = same_at or {}

    @property
    def same(self) -> dict[str, int]:
        """The value of those whole numbers that all rows share."""
        if not self._same_at or not len(self.whole):
            return {}
        first = self.whole[0].tolist()
        return {name: first[at] for name, at in self._same_at.items()}

    @classmethod
    def of(cls, columns: Mapping[str, Array]) -> "Blocks":
        """The blocks of plain columns [n]: float32 and int64 go into the matrices, anything else beside them."""
        if isinstance(columns, Blocks):
            return columns
        numbers = [name for name, values in columns.items() if values.ndim == 1 and values.dtype == np.float32]
        whole = [name for name, values in columns.items() if values.ndim == 1 and values.dtype == np.int64]
        n = len(next(iter(columns.values()), ()))
        others = {name: values for name, values in columns.items() if name not in (*numbers, *whole)}
        return cls(
            Names(numbers, whole),
            np.stack([columns[name] for name in numbers], axis=1) if numbers else np.empty((n, 0), np.float32),
            np.stack([columns[name] for name in whole], axis=1) if whole else np.empty((n, 0), np.int64),
            others,
        )

    @classmethod
    def joined(cls, parts: Sequence["Blocks"]) -> "Blocks":
        """Blocks with the same columns, one behind the other."""
        others = {name: np.concatenate([part[name] for part in parts]) for name in parts[0].others}
        numbers, whole = [part.numbers for part in parts], [part.whole for part in parts]
        return cls(parts[0].names, np.concatenate(numbers), np.concatenate(whole), others)

    def __len__(self) -> int:
        return len(self.names.numbers) + len(self.names.whole) + len(self.others)

    def __iter__(self) -> Iterator[str]:
        yield from self.names.whole
        yield from self.names.numbers
        yield from self.others

    def __contains__(self, name: object) -> bool:
        return name in self.names.number or name in self.names.whole_number or name in self.others

    def __getitem__(self, name: str) -> Array:
        if (at := self.names.number.get(name)) is not None:
            return self.numbers[:, at]
        if (at := self.names.whole_number.get(name)) is not None:
            return self.whole[:, at]
        values = self.others[name]
        rows = len(self.numbers)
        return values if len(values) == rows else np.repeat(values, rows, axis=0)
