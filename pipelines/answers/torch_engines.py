"""TorchScript and torch.compile as engines, measured beside those that serve (`pipelines.answers.engines`); nothing serves with
them."""

import io
import os
import shutil
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from models.contract import F32
from models.dcnv2 import Network
from models.engines.engine import Inputs
from models.threads import torch_threads


@dataclass(frozen=True, slots=True)
class TorchEngine:
    """A network that torch has turned into something else (`models.engines.engine.Engine`), on one thread."""

    name: str
    forward: Callable[[Tensor, Tensor, list[Tensor]], Tensor]

    def __call__(self, inputs: Inputs) -> F32:
        """Logits of n rows."""
        codes, numbers, *sequences = map(torch.from_numpy, inputs)
        with torch_threads(1), torch.inference_mode():
            found: F32 = self.forward(codes, numbers, sequences).numpy()
        return found


def torchscript(network: Network, inputs: Inputs) -> tuple[TorchEngine, int]:
    """The network traced on a few rows and frozen, and how many bytes it has as a file."""
    codes, numbers, *sequences = map(torch.from_numpy, inputs)
    with warnings.catch_warnings():  # torch 2.13 calls TorchScript deprecated, which belongs to the answer
        warnings.simplefilter("ignore", DeprecationWarning)
        traced: Any = torch.jit.freeze(torch.jit.trace(network.eval(), (codes, numbers, sequences)))
        file = io.BytesIO()
        torch.jit.save(traced, file)
    return TorchEngine("TorchScript", traced), len(file.getvalue())


def compiled(network: Network, batches: Sequence[Inputs]) -> tuple[TorchEngine, float] | None:
    """The network through torch.compile for any number of rows, and the processor seconds that compiling for `batches` took,
    the C++ compiler's too; None where there is no such compiler."""
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        return None
    from torch._inductor.utils import fresh_cache

    engine = TorchEngine("torch.compile", torch.compile(network.eval(), dynamic=True))
    started = sum(os.times()[:4])
    with fresh_cache():  # nothing from before, nothing left behind
        for inputs in batches:
            engine(inputs)
    return engine, sum(os.times()[:4]) - started
