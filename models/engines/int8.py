"""DCNv2 with 8-bit weights and activations, and the gate in front of it.

Dynamic quantisation (onnxruntime.quantization) is not float32 rounding: probabilities move.  So there is no engine without a
recorded comparison with the network as it is, on rows with labels: the upper end of the interval of the NE difference may be at
most BOUND, and a missing number fails.  Activations are scaled by batch, so a row's p depends on the rows beside it: the gate
scores as many rows at once as a request has.

The endpoint offers no such engine by itself: its answers would carry a hash whose rescored p differs by more than replay lets
pass (`monitoring.replay`).
"""

import hashlib
import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import numpy as np

from models import evaluate
from models.artefact import Artefact
from models.contract import Array, Dataset
from models.engines.one_engine import computed_by
from models.engines.session import OnnxRuntime

NAME = "onnxruntime int8"
BOUND = 0.0002  # NE: a fifth of what a refresh may lose (`models.gates`), since nothing else comes with it
ROWS = 20  # scored at once, like the candidates of a request


class NotPassed(ValueError):
    """An int8 network without a recorded gate that it passed."""


@dataclass(frozen=True, slots=True)
class Gate:
    """What int8 does to p on labelled rows, and whether that is little enough."""

    graph: str  # sha256 of the quantised graph
    artefact: str  # hash of the model that it was made from
    n: int
    clicks: int
    ne_difference: dict[str, float | None]  # int8 minus float32, paired: value, low, high (90%)
    max_dp: float  # the largest change of a probability
    bound: float
    passed: bool

    @property
    def verdict(self) -> str:
        """The decision as a sentence."""
        high = self.ne_difference["high"]
        rise = "NE can't be compared" if high is None else f"NE rises by at most {high:+.5f}"
        return f"{rise} on {self.n:,} rows with {self.clicks:,} clicks, {self.bound:+.5f} is allowed"

    def save(self, path: Path) -> None:
        """Record it as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a record.  Raises NotPassed where there is none."""
        if not path.is_file():
            raise NotPassed(f"there is no record of a gate at {path}; judge the quantised network on validation rows first")
        return cls(**json.loads(path.read_text()))


def quantised(graph: bytes) -> bytes:
    """The graph in 8 bits: weights, embeddings, and what goes into matrix products, which is scaled by batch."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load_from_string(graph)
    # Without this mark it warns that shapes should be inferred and constants folded first: here both are.
    onnx.helper.set_model_props(model, {"onnx.quant.pre_process": "onnxruntime.quant"})
    # A pooled table has a column of ones (`models.engines.network`), which would set the scale of all its columns.
    pools = [node.name for node in model.graph.node if node.op_type == "Gather" and node.input[1].startswith("sequence")]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "int8.onnx"
        kinds = ["MatMul", "Gather"]
        quantize_dynamic(model, out, op_types_to_quantize=kinds, weight_type=QuantType.QInt8, nodes_to_exclude=pools)
        return out.read_bytes()


def judge(artefact: Artefact, graph: bytes, rows: Dataset, bound: float = BOUND) -> Gate:
    """Compare p of a quantised graph with p of the model it was made from, on labelled rows that it was not trained on."""
    p = artefact.probability(artefact.score(rows.columns), rows.slot)
    q = by_request(computed_by(artefact, OnnxRuntime(graph, name=NAME)), rows)
    found = evaluate.compare(q, p, rows)["ne_difference"]
    passed = found["high"] is not None and found["high"] <= bound
    change = float(np.abs(q - p).max(initial=0.0))
    return Gate(_digest(graph), artefact.hash, len(rows), int(rows.label.sum()), found, change, bound, passed)


def by_request(artefact: Artefact, rows: Dataset) -> Array:
    """p [n] of rows scored ROWS at a time."""
    pieces = [rows.take(np.arange(start, min(start + ROWS, len(rows)))) for start in range(0, len(rows), ROWS)]
    found = [artefact.probability(artefact.score(piece.columns), piece.slot) for piece in pieces]
    return np.concatenate([np.zeros(0), *found])


def engine(artefact: Artefact, graph: bytes, record: Path, threads: int = 1) -> OnnxRuntime:
    """The engine of a quantised graph.  Raises NotPassed unless `record` holds a gate that this graph of this model passed."""
    gate = Gate.load(record)
    if (gate.graph, gate.artefact) != (_digest(graph), artefact.hash):
        raise NotPassed(f"{record} is about graph {gate.graph[:16]} of model {gate.artefact}, not about this one: judge it")
    if not gate.passed:
        raise NotPassed(f"{gate.verdict}; serve float32")
    return OnnxRuntime(graph, threads, NAME)


def _digest(graph: bytes) -> str:
    return hashlib.sha256(graph).hexdigest()
