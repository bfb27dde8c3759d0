"""From a request's blocks to the table that trees read, in one compiled loop over rows.  Used by `models.boosted_trees`."""

import numpy as np
import numpy.typing as npt

from features.blocks import Blocks, Names
from infra.compiled import compiled
from models.encode import Encoder

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]


class Table:
    """How the blocks with some names become the numbers of an encoder and codes of some categories: found out once."""

    def __init__(self, encoder: Encoder, categories: tuple[str, ...], names: Names) -> None:
        self._of = encoder, categories, names
        self._order = names.order(encoder.spec.numeric)
        vocabularies = [encoder.vocabularies[name] for name in categories]
        whole = [name in names.whole_number for name in categories]
        self._looked_up = all(v.values.dtype == np.int64 for v, here in zip(vocabularies, whole, strict=True) if here)
        self._others = [
            (at, name, v) for at, (name, v, here) in enumerate(zip(categories, vocabularies, whole, strict=True)) if not here
        ]
        self._column = np.array([names.whole_number.get(name, -1) for name in categories], np.int64)
        known = [v for v, here in zip(vocabularies, whole, strict=True) if here and self._looked_up]
        self._values = np.concatenate([np.zeros(0, np.int64), *(v.values for v in known)])
        self._codes = np.concatenate([np.zeros(0, np.int64), *(v.codes for v in known)]).astype(np.float32)
        sizes = [len(v.values) if here else 0 for v, here in zip(vocabularies, whole, strict=True)]
        self._start = np.cumsum([0, *sizes])

    def fits(self, encoder: Encoder, categories: tuple[str, ...], names: Names) -> bool:
        """Whether it was made for these."""
        return self._of[0] is encoder and self._of[2] is names and self._of[1] == categories

    def __call__(self, blocks: Blocks) -> F32 | None:
        """The table [n, numbers and codes]; None for blocks that lack a number, or have words where training had whole numbers
        or the other way round."""
        if self._order is None or not self._looked_up:
            return None
        n, width = len(blocks.numbers), len(self._order)
        code = np.zeros(len(self._column), np.float32)
        rest = []
        for at, name, vocabulary in self._others:
            values = blocks.others[name]
            if len(values) == 1:
                code[at] = vocabulary.code(values.item())
            else:
                rest.append((at, vocabulary.encode(values)))
        table = np.empty((n, width + len(code)), np.float32)
        numbers, whole = np.ascontiguousarray(blocks.numbers), np.ascontiguousarray(blocks.whole)
        _fill(table, numbers, self._order, whole, self._column, code, self._values, self._codes, self._start)
        for at, codes in rest:
            table[:, width + at] = codes
        return table


@compiled
def _fill(
    table: F32, numbers: F32, order: I64, whole: I64, column: I64, code: F32, values: I64, codes: F32, start: I64
) -> None:
    """Numbers in their order, then codes: of the value in a `column` of `whole`, which stands among the sorted `values` from
    start[j] to start[j + 1], 0 where it doesn't; where `column` is -1, the `code` that all rows have."""
    width = len(order)
    for i in range(len(table)):
        for j in range(width):
            table[i, j] = numbers[i, order[j]]
        for j in range(len(column)):
            found = code[j]
            if column[j] >= 0:
                wanted = whole[i, column[j]]
                low, high = start[j], start[j + 1]
                while low < high:
                    middle = (low + high) // 2
                    if values[middle] < wanted:
                        low = middle + 1
                    else:
                        high = middle
                found = codes[low] if low < start[j + 1] and values[low] == wanted else np.float32(0)
            table[i, width + j] = found
