"""The model that knows only how often people click at a slot: what every other model must beat, and the first comparator."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np

from models.contract import F32, Array, Dataset, FitReport, Model
from models.encode import Encoder
from models.metrics import logit_log_loss
from models.newton import ridge_logistic


class BaseRate:
    """s(x) is one constant: the click rate, net of position."""

    family = "base_rate"

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.level = 0.0

    def configuration(self) -> dict[str, Any]:
        """There is nothing to choose."""
        return {}

    def fit(
        self, train: Dataset, valid: Dataset, offset: tuple[F32, F32], *, seed: int, warm_start: Model | None = None
    ) -> FitReport:
        """The constant with the least log loss on `train`; `seed` and `warm_start` change nothing."""
        started = time.perf_counter()
        self._learn(train, offset[0], 1e-6, 0.0)
        loss = logit_log_loss(self.level + offset[1], valid.label)
        return FitReport(1, loss, time.perf_counter() - started, (loss,))

    def update(self, batch: Dataset, offset: F32) -> None:
        """Move towards the batch's click rate, as if the level so far came from ten thousand impressions at 5%."""
        self._learn(batch, offset, 10_000 * 0.05 * 0.95, self.level)

    def inputs(self, columns: Mapping[str, Array]) -> int:
        """The number of rows: nothing else matters."""
        return len(columns[self.encoder.spec.names[0]])

    def margin(self, inputs: int) -> F32:
        """The constant, float32 [n]."""
        return np.full(inputs, self.level, np.float32)

    def score(self, columns: Mapping[str, Array]) -> F32:
        """`margin` of `inputs`."""
        return self.margin(self.inputs(columns))

    def save(self, folder: Path) -> None:
        """encoder.json, encoder.npz and base_rate.json."""
        self.encoder.save(folder)
        (folder / "base_rate.json").write_text(json.dumps({"level": self.level}))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        model = cls(Encoder.load(folder))
        model.level = float(json.loads((folder / "base_rate.json").read_text())["level"])
        return model

    def use_threads(self, count: int) -> None:
        """One addition needs no threads."""

    def _learn(self, data: Dataset, offset: F32, penalty: float, prior: float) -> None:
        ones = np.ones((len(data), 1))
        (level,) = ridge_logistic(ones, data.label, offset, np.array([penalty]), np.array([prior]))
        self.level = float(level)
