"""Rows of several views of one entity side by side, in few matrices: how the online reader holds users, ads and placements.

A request then takes all stored values of its ads in a handful of numpy calls.  Made from `features.packed.Rows`; used by
`features.online`.
"""

from collections.abc import Mapping, Sequence
from itertools import chain

import numpy as np
import numpy.typing as npt

from features.batch import F32, I64, Array
from features.catalogue import Feature, View
from features.packed import Layout, Rows, layout
from features.recent import COUNTERS

Bool = npt.NDArray[np.bool_]
Index = npt.NDArray[np.intp] | slice


class Columns:
    """Where the features of some views of one entity lie when side by side: what models read first, inputs of others behind.

    Counters that `features.derive` decays are inputs too: models read what it makes of them.
    """

    def __init__(self, views: Sequence[View]) -> None:
        self.views = tuple(views)
        self.layouts: tuple[Layout, ...] = tuple(layout(view) for view in views)
        features = list(chain.from_iterable(view.features for view in views))
        floats = [f for f in features if f.kind in ("float", "floats")]
        ints = [f for f in features if f.kind in ("int", "time", "ints")]
        self.numbers = tuple(f.name for f in floats if _read(f))
        self.whole = tuple(f.name for f in ints if _read(f) and f.kind == "int")
        self.sequences = tuple(f.name for f in ints if _read(f) and f.kind == "ints")
        self.words = tuple(f.name for f in features if f.kind == "string")
        self._floats, self.number_at = _ordered(floats, self.numbers)
        self._ints, self.whole_at = _ordered(ints, self.whole)

    def beside(self, rows: Sequence[Rows], places: Sequence[Index]) -> "Entities":
        """m entities from the rows of each view and the places of the entities in them."""
        where = {f.name: (i, self.layouts[i].at.get(f.name)) for i, view in enumerate(self.views) for f in view.features}
        taken = list(zip(rows, places, strict=True))
        numbers, whole = [one.numbers[at] for one, at in taken], [one.whole[at] for one, at in taken]
        m = len(numbers[0])

        def columns(names: Sequence[str], parts: list[Array], kind: type) -> Array:
            found = [parts[where[name][0]][:, where[name][1]] for name in names]
            return np.concatenate(found, axis=1) if found else np.empty((m, 0), kind)

        return Entities(
            self,
            columns(self._floats, numbers, np.float32),
            columns(self._ints, whole, np.int64),
            np.stack([one.snapshot[at] for one, at in taken], axis=1),
            np.stack([one.missing[at] for one, at in taken], axis=1),
            {name: taken[where[name][0]][0].words[name][taken[where[name][0]][1]] for name in self.words},
        )


def _read(feature: Feature) -> bool:
    """Whether models read a stored feature as it is."""
    return feature.use != "stored" and feature.name not in COUNTERS


def _ordered(features: list[Feature], first: tuple[str, ...]) -> tuple[list[str], dict[str, int | slice]]:
    """(names in order: `first`, then the others; each one's column, or columns of an array)."""
    order = [f for name in first for f in features if f.name == name] + [f for f in features if f.name not in first]
    at: dict[str, int | slice] = {}
    width = 0
    for feature in order:
        at[feature.name] = width if feature.length == 1 else slice(width, width + feature.length)
        width += feature.length
    return [feature.name for feature in order], at


class Entities:
    """m entities: what is stored of them in the views of `columns`, and from which snapshots."""

    __slots__ = ("_stored", "columns", "flawed", "missing", "numbers", "snapshot", "whole", "words")

    def __init__(
        self, columns: Columns, numbers: F32, whole: I64, snapshot: I64, missing: Bool, words: Mapping[str, Array]
    ) -> None:
        self.columns = columns
        self.numbers = numbers  # [m, all numbers]
        self.whole = whole  # [m, all whole numbers]
        self.snapshot = snapshot  # [m, views]
        self.missing = missing  # [m, views]
        self.flawed = bool(missing.any())
        self.words = words  # each [m]
        self._stored: dict[str, Array] | None = None

    def __len__(self) -> int:
        return len(self.numbers)

    def take(self, place: I64) -> "Entities":
        """The entities at some places, with repetition."""
        return Entities(
            self.columns,
            self.numbers[place],
            self.whole[place],
            self.snapshot[place],
            self.missing[place],
            {name: values[place] for name, values in self.words.items()},
        )

    @property
    def stored(self) -> dict[str, Array]:
        """All of it by name, as `features.derive` takes it; made once."""
        if self._stored is None:
            found: dict[str, Array] = {name: self.numbers[:, at] for name, at in self.columns.number_at.items()}
            found |= {name: self.whole[:, at] for name, at in self.columns.whole_at.items()}
            self._stored = found | dict(self.words)
        return self._stored
