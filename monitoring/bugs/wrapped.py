"""An artefact that scores otherwise than it declares: what bugs of stage `model` put in the champion's place.  Called by
serve.py and train.py.

Its hashes are those of the artefact inside, as in production: the loader, the server or the export went wrong, and the log
says what should have been there.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.scorer import ScoringArtefact

Array = npt.NDArray[Any]
F32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Wrapped:
    """`inside`, with its scores passed through `change`."""

    inside: ScoringArtefact
    change: Callable[[Mapping[str, Array], F32], Array]  # (feature columns, s [n]) -> s [n]
    constant: tuple[float, float] | None = None  # (s, p): rows that score exactly s have probability p at every slot

    @property
    def hash(self) -> str:
        """What the log will say scored."""
        return self.inside.hash

    @property
    def encoder_hash(self) -> str:
        """What the log will say encoded."""
        return self.inside.encoder_hash

    def score(self, columns: Mapping[str, Array]) -> F32:
        """s of n rows as they come out of the broken place: float32 [n]."""
        return np.asarray(self.change(columns, self.inside.score(columns)), np.float32)

    def probability(self, s: Array, slot: Array) -> npt.NDArray[np.floating]:
        """Click probability of scores at slots, [n]."""
        p = self.inside.probability(s, slot)
        return p if self.constant is None else np.where(s == np.float32(self.constant[0]), self.constant[1], p)

    def __getattr__(self, name: str) -> Any:
        """Everything else (spec, service, family, ...) is the artefact's own."""
        if name.startswith("__") or name == "inside":  # a copy under construction has nothing inside yet
            raise AttributeError(name)
        return getattr(self.inside, name)
