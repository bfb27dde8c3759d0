"""DCNv2 as an ONNX graph, node by node what `models.dcnv2.Network.forward` does, from its weights.

Ours rather than torch's exporter: that needs another package, and a graph of some thirty nodes is easier to read than what it
writes.
"""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from models.contract import Array
from models.engines.session import IR_VERSION, OPSET

if TYPE_CHECKING:
    from onnx import NodeProto, TensorProto


def graph(weights: Mapping[str, Array], numbers: int) -> bytes:
    """The graph of a network with these weights (its state_dict as numpy arrays) and that many numeric inputs.

    Inputs `codes` int64 [n, columns], `numbers` float32 [n, numbers] and `sequence_0` .. int64 [n, length], -1 where there is
    nothing; output `logit` float32 [n, 1]."""
    from onnx import TensorProto, helper

    build = _Builder(weights)
    tables, pools, crosses, deep = (build.layers(name) for name in ("tables", "pools", "crosses", "deep"))
    parts = [_embeddings(build, tables)] if tables else []
    parts += [_mean_pool(build, pool, f"sequence_{i}") for i, pool in enumerate(pools)]
    x0 = build.node("Concat", *parts, "numbers", axis=1)
    x = x0
    for cross in crosses:
        x = build.node("Add", build.node("Mul", x0, build.linear(x, cross)), x)
    inside = x0
    for layer in deep:
        inside = build.node("Relu", build.linear(inside, layer))
    build.linear(build.node("Concat", x, inside, axis=1), "head", out="logit")
    shapes: dict[str, tuple[int, int | str]] = {f"sequence_{i}": (TensorProto.INT64, f"length_{i}") for i in range(len(pools))}
    shapes = {"codes": (TensorProto.INT64, len(tables)), "numbers": (TensorProto.FLOAT, numbers), **shapes}
    made = helper.make_graph(
        build.nodes,
        "DCNv2",
        [helper.make_tensor_value_info(name, kind, ["n", width]) for name, (kind, width) in shapes.items()],
        [helper.make_tensor_value_info("logit", TensorProto.FLOAT, ["n", 1])],
        build.constants,
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    return bytes(model.SerializeToString())


def _embeddings(build: "_Builder", tables: list[str]) -> str:
    """The rows of all tables side by side, [n, sum of widths]."""
    codes = build.split("codes", len(tables))  # each [n, 1]
    rows = [build.node("Gather", build.weight(f"{table}.weight"), code) for table, code in zip(tables, codes, strict=True)]
    wide = build.node("Concat", *rows, axis=2)  # [n, 1, width]
    return build.node("Squeeze", wide, build.constant(np.array([1], np.int64)))


def _mean_pool(build: "_Builder", pool: str, sequence: str) -> str:
    """The mean of a sequence's embeddings, [n, width], zeros for an empty one.

    The table gets a column of ones, and a last row of zeros, which is where index -1 points: one sum over the sequence then
    gives both the total and how many there were."""
    table = build.weights[f"{pool}.weight"]
    padded = np.zeros((len(table) + 1, table.shape[1] + 1), np.float32)
    padded[:-1, :-1], padded[:-1, -1] = table, 1.0
    rows = build.node("Gather", build.constant(padded), sequence)  # [n, length, width + 1]
    sums = build.node("ReduceSum", rows, build.constant(np.array([1], np.int64)), keepdims=0)
    total, count = build.split(sums, 2, build.constant(np.array([table.shape[1], 1], np.int64)))
    return build.node("Div", total, build.node("Max", count, build.constant(np.ones(1, np.float32))))


class _Builder:
    """Collects nodes and constants, and names what lies between them."""

    def __init__(self, weights: Mapping[str, Array]) -> None:
        self.weights = weights
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []

    def layers(self, name: str) -> list[str]:
        """The layers of a list of modules, in order: tables.0, tables.1, ..."""
        found = {match[0] for key in self.weights if (match := re.match(rf"{name}\.(\d+)", key))}
        return sorted(found, key=lambda layer: int(layer.rpartition(".")[2]))

    def node(self, kind: str, *inputs: str, out: str | None = None, **attributes: Any) -> str:
        """Append a node and name its output."""
        return self._append(kind, inputs, [out or f"{kind}_{len(self.nodes)}"], attributes)[0]

    def split(self, value: str, count: int, widths: str | None = None) -> list[str]:
        """Cut along axis 1 into `count` parts, equal ones unless the widths are given."""
        outputs = [f"Split_{len(self.nodes)}_{i}" for i in range(count)]
        given = {"num_outputs": count} if widths is None else {}
        return self._append("Split", [value, *([] if widths is None else [widths])], outputs, {"axis": 1, **given})

    def linear(self, x: str, layer: str, out: str | None = None) -> str:
        """x W' + b, as torch keeps W."""
        return self.node("Gemm", x, self.weight(f"{layer}.weight"), self.weight(f"{layer}.bias"), out=out, transB=1)

    def weight(self, name: str) -> str:
        """A weight of the network as a constant."""
        return self.constant(self.weights[name], name)

    def constant(self, array: Array, name: str | None = None) -> str:
        """An array as a constant of the graph."""
        from onnx import numpy_helper

        name = name or f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def _append(self, kind: str, inputs: Any, outputs: list[str], attributes: Mapping[str, Any]) -> list[str]:
        from onnx import helper

        self.nodes.append(helper.make_node(kind, list(inputs), outputs, name=f"{kind}_{len(self.nodes)}", **attributes))
        return outputs
