"""What an engine is: one library that gives a model's margins from rows that are encoded already.

Every engine of a model gives the same numbers to float32 rounding; they differ in what they cost at which batch size.
`models.engines.choice` times them, `models.boosted_trees` and `models.dcnv2` have some and use the one that was chosen.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from models.contract import F32, Array

if TYPE_CHECKING:
    from models.engines.choice import Choice

# Encoded rows, each array with n rows.  Trees: (table float32 [n, d], C-contiguous, NaN where missing).  DCNv2: (codes int64
# [n, columns], numbers float32 [n, k], then each sequence int64 [n, length], -1 where there is nothing).
Inputs = tuple[Array, ...]


class Engine(Protocol):
    """Called with n rows, gives their margins, float32 [n]."""

    @property
    def name(self) -> str:
        """How logs and tables call it."""
        ...

    def __call__(self, inputs: Inputs) -> F32:
        """Margins of n rows: the model's logits before its own constant, calibration and position are added."""
        ...


@runtime_checkable
class HasEngines(Protocol):
    """A model that several engines can compute."""

    def engines(self) -> tuple[Engine, ...]:
        """All that agree to float32 rounding, the one that the model uses by itself first."""
        ...

    def engine(self, n: int) -> Engine:
        """The one that scores n rows now."""
        ...

    def inputs(self, columns: Mapping[str, Array]) -> Inputs:
        """What an engine gets of n rows."""
        ...

    def made_up(self, n: int, rng: np.random.Generator) -> Inputs:
        """n encoded rows that take the model's paths about as real ones do: to time engines where there are no data."""
        ...

    def use_engines(self, choice: "Choice | None") -> None:
        """Score with the engine chosen for each batch size; None: the way the model does it by itself.  Training and updating
        a model forget the choice, since engines hold the model as it was."""
        ...
