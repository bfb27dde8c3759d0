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
        # Where columns that lie side by side in the views' order belong, and where each feature lies then.
        self._float_order, self.number_at = self._ordered(floats, self.numbers)
        self._int_order, self.whole_at = self._ordered(ints, self.whole)
        self.first = _firsts(self.number_at), _firsts(self.whole_at)  # the first column of each feature

    def _ordered(self, features: list[Feature], first: tuple[str, ...]) -> tuple[I64, dict[str, int | slice]]:
        """(columns in the order: `first`, then the others; each feature's column then, or columns of an array)."""
        start: dict[str, int] = {}
        for feature in features:
            start[feature.name] = sum(each.length for each in features[: len(start)])
        order: list[int] = []
        at: dict[str, int | slice] = {}
        for feature in sorted(features, key=lambda each: each.name not in first):
            at[feature.name] = len(order) if feature.length == 1 else slice(len(order), len(order) + feature.length)
            order += range(start[feature.name], start[feature.name] + feature.length)
        return np.array(order, np.int64), at

    def beside(self, rows: Sequence[Rows], places: Sequence[Index]) -> "Entities":
        """m entities from the rows of each view and the places of the entities in them."""
        taken = list(zip(rows, places, strict=True))
        return Entities(
            self,
            np.concatenate([one.numbers[at] for one, at in taken], axis=1).take(self._float_order, axis=1),
            np.concatenate([one.whole[at] for one, at in taken], axis=1).take(self._int_order, axis=1),
            np.array([one.snapshot[at] for one, at in taken], np.int64).T,
            np.array([one.missing[at] for one, at in taken], np.bool_).T,
            {name: one.words[name][at] for one, at in taken for name in one.words},
        )

    def nothing(self, m: int) -> "Entities":
        """m entities of no view."""
        empty = np.empty((m, 0))
        return Entities(self, empty.astype(np.float32), empty.astype(np.int64), empty.astype(np.int64), empty.astype(bool), {})


def _read(feature: Feature) -> bool:
    """Whether models read a stored feature as it is."""
    return feature.use != "stored" and feature.name not in COUNTERS


def _firsts(at: Mapping[str, int | slice]) -> dict[str, int]:
    return {name: place.start if isinstance(place, slice) else place for name, place in at.items()}


class Entities:
    """m entities: what is stored of them in the views of `columns`, and from which snapshots."""

    __slots__ = ("columns", "missing", "numbers", "snapshot", "whole", "words")

    def __init__(
        self, columns: Columns, numbers: F32, whole: I64, snapshot: I64, missing: Bool, words: Mapping[str, Array]
    ) -> None:
        self.columns = columns
        # In one order in memory, which compiled loops are compiled for.
        self.numbers = np.ascontiguousarray(numbers)  # [m, all numbers]
        self.whole = np.ascontiguousarray(whole)  # [m, all whole numbers]
        self.snapshot = np.ascontiguousarray(snapshot)  # [m, views]
        self.missing = np.ascontiguousarray(missing)  # [m, views]
        self.words = words  # each [m]

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
