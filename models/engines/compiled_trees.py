"""Boosted trees as a compiled loop without branches: the engine for requests.

A tree is laid out whole, all leaves on one level, so that from node a it goes on at 2 a + 1 or 2 a + 2, and the comparison
itself is the step.  Rows take each step together: where libraries wait for a mispredicted branch at every second node, here
several rows' loads are under way at once (Asadi, Lin, de Vries 2014, "Runtime optimizations for tree-based machine learning
models").  Leaves are added in XGBoost's order and precision.
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from infra.compiled import compiled
from models.contract import F32
from models.engines.engine import Inputs
from models.engines.trees import Forest

U32 = npt.NDArray[np.uint32]

DEEPEST = 8  # a whole tree has 2^depth leaves, however few were grown
ROWS = np.uint32(256)  # that take their steps together: their values stay in the nearest cache


@dataclass(frozen=True, slots=True)
class CompiledTrees:
    """t trees of one depth.  Numbers stand twice in a row, missing ones once as the smallest and once as the largest there is:
    a node reads the one that takes missing values where they should go."""

    feature: U32  # [t, 2^depth - 1], below the width where missing goes left, from there on where it goes right
    threshold: F32  # [t, 2^depth - 1]: right from here on
    leaf: F32  # [t, 2^depth]
    base: np.float32
    name: str = "compiled"

    @classmethod
    def of(cls, forest: Forest) -> Self | None:
        """Lay a forest out; None where it is too deep for that, or has a threshold that isn't finite."""
        depth = _depth(forest)
        if depth > DEEPEST or not np.isfinite(forest.value).all():
            return None
        trees = int(forest.tree.max()) + 1
        inner = 2**depth - 1
        feature, threshold = np.zeros((trees, inner), np.uint32), np.zeros((trees, inner), np.float32)
        leaf = np.zeros((trees, inner + 1), np.float32)
        node_of = {key: i for i, key in enumerate(zip(forest.tree.tolist(), forest.node.tolist(), strict=True))}
        read = np.where(forest.missing_left, forest.feature, forest.feature + forest.width)
        for tree in range(trees):
            todo = [(0, 0, depth)]  # node, its place, levels below it
            for node, at, below in todo:  # grows while it runs
                i = node_of[tree, node]
                if forest.left[i] < 0:
                    first = ((at + 1) << below) - 1 - inner
                    leaf[tree, first : first + (1 << below)] = forest.value[i]
                    continue
                feature[tree, at], threshold[tree, at] = read[i], forest.value[i]
                todo += [(int(forest.left[i]), 2 * at + 1, below - 1), (int(forest.right[i]), 2 * at + 2, below - 1)]
        return cls(feature, threshold, leaf, np.float32(forest.base))

    def __call__(self, inputs: Inputs) -> F32:
        """See `models.engines.engine.Engine`."""
        return _margins(inputs[0], self.feature, self.threshold, self.leaf, self.base)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Nothing in it changes, so copies of a model share it."""
        return self


def _depth(forest: Forest) -> int:
    """Steps from a root to the leaf farthest from it."""
    depth = np.zeros(len(forest.node), np.int64)
    place = {key: i for i, key in enumerate(zip(forest.tree.tolist(), forest.node.tolist(), strict=True))}
    for i in range(len(forest.node)):  # parents stand before their children
        for child in (forest.left[i], forest.right[i]):
            if child >= 0:
                depth[place[int(forest.tree[i]), int(child)]] = depth[i] + 1
    return int(depth.max())


@compiled
def _margins(table: F32, feature: U32, threshold: F32, leaf: F32, base: np.float32) -> F32:
    """Margins [n] of a table [n, width].  Unsigned whole numbers spare the test whether an index counts from the end."""
    n, width = table.shape
    trees, inner = feature.shape
    depth = 0
    while (1 << depth) <= inner:
        depth += 1
    zero, one, two, leaves = np.uint32(0), np.uint32(1), np.uint32(2), np.uint32(inner)
    out = np.full(n, base, np.float32)
    room = min(n, int(ROWS))
    twice, at = np.empty(2 * width * room, np.float32), np.empty(room, np.uint32)
    for start in range(0, n, room if room else 1):
        rows = np.uint32(min(room, n - start))
        for i in range(rows):
            for j in range(width):
                value = table[start + i, j]
                missing = np.isnan(value)
                twice[j * rows + i] = -np.inf if missing else value
                twice[(width + j) * rows + i] = np.inf if missing else value
        for tree in range(trees):
            read, against, end = feature[tree], threshold[tree], leaf[tree]
            for i in range(rows):
                at[i] = zero
            for _ in range(depth):
                for i in range(rows):
                    a = at[i]
                    at[i] = two * a + one + np.uint32(twice[read[a] * rows + np.uint32(i)] >= against[a])
            for i in range(rows):
                out[start + i] += end[at[i] - leaves]
    return out
