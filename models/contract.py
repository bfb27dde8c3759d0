"""What a model is to the rest of the system: a `FeatureSpec`, a `Dataset`, and the `Model` protocol.

A model gives s(x), the logit of a click without the effect of position.  The probability at a position is
sigmoid(s + b(position)); b and the calibration belong to the artefact around the model (`models.artefact`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
F32 = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class FeatureSpec:
    """All that a model knows of a data set: which columns there are and what they mean."""

    categorical: tuple[str, ...]
    numeric: tuple[str, ...]
    sequence: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Every feature's name, in the order categorical, numeric, sequence."""
        return self.categorical + self.numeric + self.sequence


@dataclass(frozen=True, slots=True)
class Dataset:
    """n impressions with features and labels.  `columns` is as `features.batch.FeatureBatch.columns`."""

    columns: Mapping[str, Array]
    label: npt.NDArray[np.uint8]  # 1: clicked
    slot: npt.NDArray[np.int16]  # position, 0 = top
    time_us: npt.NDArray[np.int64]
    group: npt.NDArray[np.int64]  # user, -1 where unknown
    row_id: npt.NDArray[np.int64]  # impression id
    randomised: npt.NDArray[np.bool_]  # shown in random order

    def __len__(self) -> int:
        return len(self.label)

    def take(self, rows: Array) -> "Dataset":
        """The rows that a mask or an index array selects."""
        return Dataset(
            {name: values[rows] for name, values in self.columns.items()},
            self.label[rows], self.slot[rows], self.time_us[rows], self.group[rows], self.row_id[rows], self.randomised[rows],
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class FitReport:
    """What happened in training: for the record, not for decisions."""

    rounds: int  # boosting rounds or optimiser steps kept
    valid_log_loss: float
    seconds: float
    history: tuple[float, ...] = field(default=())  # validation log loss a round or epoch


class Model(Protocol):
    """One model family's trained scorer.  Implementations never see position, time of split or calibration."""

    family: str

    def fit(
        self, train: Dataset, valid: Dataset, offset: tuple[F32, F32], *, seed: int, warm_start: "Model | None" = None
    ) -> FitReport:
        """Learn from `train`, stop early on log loss of `valid`; `offset` is b(position) of (train, valid), added to s."""
        ...

    def update(self, batch: Dataset, offset: F32) -> None:
        """Learn from a few new rows in place (online learning)."""
        ...

    def inputs(self, columns: Mapping[str, Array]) -> Any:
        """What the model computes with, of n rows: encoded columns."""
        ...

    def margin(self, inputs: Any) -> F32:
        """s(x) of n rows, float32 [n], from what `inputs` made of them."""
        ...

    def score(self, columns: Mapping[str, Array]) -> F32:
        """`margin` of `inputs`."""
        ...

    def save(self, folder: Path) -> None:
        """Write plain files (JSON, npz, UBJSON) into an existing folder; never a pickle."""
        ...

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        ...
