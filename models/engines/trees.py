"""Engines of boosted trees: XGBoost's `inplace_predict`, and the same trees as an ONNX graph.

The graph is one TreeEnsembleRegressor (ai.onnx.ml, opset 3) written from the booster's own JSON: its float32 thresholds, x < t
to the left, missing where XGBoost learned it to go.
"""

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from models.contract import F32
from models.engines.engine import Inputs

if TYPE_CHECKING:
    import xgboost

I64 = npt.NDArray[np.int64]
MADE_UP_MISSING = 0.05  # share of made-up values that are missing


@dataclass(frozen=True, slots=True)
class InplacePredict:
    """XGBoost on the table as it is, with the booster's own number of threads."""

    booster: "xgboost.Booster"
    name: str = "inplace_predict"

    def __call__(self, inputs: Inputs) -> F32:
        """See `models.engines.engine.Engine`."""
        margin = self.booster.inplace_predict(inputs[0], predict_type="margin", validate_features=False)
        return np.asarray(margin, np.float32)


@dataclass(frozen=True, slots=True)
class Forest:
    """A booster's trees: one entry a node in every array, the nodes of a tree numbered from its root, 0."""

    width: int  # columns of the table
    base: float  # margin before the first tree
    tree: I64
    node: I64
    left: I64  # -1: a leaf
    right: I64
    feature: I64
    value: F32  # the threshold, or the leaf's weight
    missing_left: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, booster: "xgboost.Booster") -> Self:
        """Read a booster.  Raises ValueError for one that isn't a sum of trees with numeric splits for one logistic target."""
        learner = json.loads(booster.save_raw("json"))["learner"]
        kind, objective = learner["gradient_booster"]["name"], learner["objective"]["name"]
        if (kind, objective) != ("gbtree", "binary:logistic"):
            raise ValueError(f"a {kind} booster for {objective} is no sum of trees for one logit")
        trees = learner["gradient_booster"]["model"]["trees"]
        if any(int(each["tree_param"]["size_leaf_vector"]) != 1 or any(each["split_type"]) for each in trees):
            raise ValueError("a tree has a categorical split or several targets; give XGBoost codes as floats, one target")
        rate = float(np.atleast_1d(json.loads(learner["learner_model_param"]["base_score"]))[0])
        parts = [_reachable(each, number) for number, each in enumerate(trees)] or [_NOTHING]
        columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
        return cls(booster.num_features(), float(np.log(rate / (1 - rate))), *columns)

    def graph(self) -> bytes:
        """The ONNX graph: input `table` float32 [n, width], output `margin` float32 [n, 1]."""
        from onnx import TensorProto, helper

        from models.engines.session import IR_VERSION, ML_OPSET, OPSET

        leaf = self.left < 0
        node = helper.make_node(
            "TreeEnsembleRegressor",
            ["table"],
            ["margin"],
            domain="ai.onnx.ml",
            n_targets=1,
            base_values=[self.base],
            nodes_treeids=self.tree.tolist(),
            nodes_nodeids=self.node.tolist(),
            nodes_modes=np.where(leaf, "LEAF", "BRANCH_LT").tolist(),
            nodes_featureids=np.where(leaf, 0, self.feature).tolist(),
            nodes_values=np.where(leaf, np.float32(0), self.value).tolist(),
            nodes_truenodeids=np.where(leaf, 0, self.left).tolist(),
            nodes_falsenodeids=np.where(leaf, 0, self.right).tolist(),
            nodes_missing_value_tracks_true=(self.missing_left & ~leaf).astype(int).tolist(),
            target_treeids=self.tree[leaf].tolist(),
            target_nodeids=self.node[leaf].tolist(),
            target_ids=[0] * int(leaf.sum()),
            target_weights=self.value[leaf].tolist(),
        )
        inputs = [helper.make_tensor_value_info("table", TensorProto.FLOAT, ["n", self.width])]
        outputs = [helper.make_tensor_value_info("margin", TensorProto.FLOAT, ["n", 1])]
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", ML_OPSET)]
        model = helper.make_model(
            helper.make_graph([node], "boosted trees", inputs, outputs), opset_imports=opsets, ir_version=IR_VERSION
        )
        return bytes(model.SerializeToString())

    def made_up(self, n: int, rng: np.random.Generator) -> F32:
        """A table [n, width] of the trees' own thresholds and some missing values, so that splits go both ways."""
        table = np.zeros((n, self.width), np.float32)
        split = self.left >= 0
        for column in np.unique(self.feature[split]):
            table[:, column] = rng.choice(self.value[split & (self.feature == column)], n)
        table[rng.random(table.shape) < MADE_UP_MISSING] = np.nan
        return table


def _reachable(tree: dict[str, Any], number: int) -> tuple[npt.NDArray[Any], ...]:
    """The columns of `Forest` for one tree, without nodes that pruning cut off."""
    left, right = tree["left_children"], tree["right_children"]
    found = [0]
    for node in found:  # grows while it runs
        if left[node] >= 0:
            found += [left[node], right[node]]
    nodes = np.array(found, np.int64)
    return (
        np.full(len(nodes), number, np.int64),
        nodes,
        np.array(left, np.int64)[nodes],
        np.array(right, np.int64)[nodes],
        np.array(tree["split_indices"], np.int64)[nodes],
        np.array(tree["split_conditions"], np.float32)[nodes],
        np.array(tree["default_left"], np.bool_)[nodes],
    )


_LEAF: dict[str, Any] = {"left_children": [-1], "right_children": [-1], "split_indices": [0], "split_conditions": [0.0]}
_NOTHING = _reachable({**_LEAF, "default_left": [0]}, 0)  # no trees: one leaf of weight 0, since a graph needs a tree
