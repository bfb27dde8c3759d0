"""An ONNX graph run by ONNX Runtime on the processor, with as many threads as it is told and none that spins.

Graphs are made in `trees` and `network` of this folder; `int8` runs the quantised one.
"""

from typing import Any, Self

import onnxruntime

from models.contract import F32
from models.engines.engine import Inputs

# Written into graphs by `models.engines.trees` and `network`: what ONNX Runtime has read since version 1.17 (2024).
IR_VERSION, OPSET, ML_OPSET = 9, 20, 3


class OnnxRuntime:
    """One graph; inputs are taken in the graph's order, the only output is [n] or [n, 1]."""

    def __init__(self, graph: bytes, threads: int = 1, name: str = "onnxruntime") -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # A thread that spins while it waits takes a core from the workers beside it (`models.threads` has figures).
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self._inputs = [each.name for each in self._session.get_inputs()]
        self.name = name

    def __call__(self, inputs: Inputs) -> F32:
        """See `models.engines.engine.Engine`."""
        out: F32 = self._session.run(None, dict(zip(self._inputs, inputs, strict=True)))[0]
        return out.reshape(-1)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A session never changes, so copies of a model share it."""
        return self
