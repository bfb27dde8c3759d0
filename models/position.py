"""b(slot): how much a slot by itself adds to the logit of a click.  Learned once a training set, shared by all families.

Ads that a good policy shows on top are also better ads, so the click rate by slot mixes the slot with the ad.  Two things pull
them apart: the numeric features as controls, and the requests answered in random order, where the slot says nothing about the
ad.  `models.train` calls `learn_position`; the result is the offset in every family's loss and part of the artefact.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.contract import F32, Array, Dataset
from models.encode import Encoder
from models.newton import ridge_logistic

MAX_ROWS = 400_000  # more rows add cost and no digit that matters: b's standard error is below 0.02 there
WEAK = 0.1  # ridge on slots and intercepts: keeps slots with no click finite
CONTROL = 1.0  # ridge on the controls
CONFOUNDING = 0.1  # prior standard deviation of the relevance that the controls miss, in logits a slot


@dataclass(frozen=True, slots=True)
class PositionBias:
    """b(slot) for slots 0 .. len - 1; b(0) = 0."""

    values: npt.NDArray[np.float64]

    def offset(self, slot: Array) -> F32:
        """b of each slot, float32 [n]; slots past the last one seen get the last one's value."""
        return self.values[np.minimum(np.maximum(slot, 0), len(self.values) - 1)].astype(np.float32)

    def to_json(self) -> dict[str, list[float]]:
        """For the artefact's metadata."""
        return {"values": [float(v) for v in self.values]}

    @classmethod
    def from_json(cls, fields: Mapping[str, list[float]]) -> "PositionBias":
        """What `to_json` gave."""
        return cls(np.array(fields["values"], np.float64))


def learn_position(train: Dataset, encoder: Encoder, *, seed: int = 0) -> PositionBias:
    """b(slot) from training rows (at most 400,000 of them, drawn with `seed`).

    Logistic regression of the click on slot dummies and the encoder's standardised numbers (Richardson, Dominowska, Ragno
    2007: position as a factor of its own).  Where some requests were shown in random order, the others get a second slope along
    the slots, shrunk to zero with standard deviation `CONFOUNDING`: it takes up the relevance that a policy saw and the
    controls miss, as far as the randomised rows are many enough to tell it from b.
    """
    if len(train) > MAX_ROWS:
        train = train.take(np.sort(np.random.default_rng(seed).choice(len(train), MAX_ROWS, replace=False)))
    slot = np.maximum(train.slot, 0).astype(np.int64)
    slots = int(slot.max(initial=0)) + 1
    dummies = (slot[:, None] == np.arange(1, slots)).astype(np.float32)
    encoded = encoder.encode(train.columns)
    blocks = [np.ones((len(train), 1), np.float32), dummies, encoded.numeric, encoded.missing]
    penalties = [np.full(slots, WEAK), np.full(encoder.dense, CONTROL)]
    chosen = (~train.randomised).astype(np.float32)[:, None]
    if train.randomised.any() and chosen.any():
        blocks += [chosen, chosen * slot[:, None].astype(np.float32)]
        penalties += [np.array([WEAK, CONFOUNDING**-2])]
    design, penalty = np.concatenate(blocks, axis=1), np.concatenate(penalties)
    weights = ridge_logistic(design, train.label, np.zeros(len(train), np.float32), penalty, np.zeros(len(penalty)))
    values = np.concatenate([np.zeros(1), weights[1:slots]])
    seen = np.bincount(slot, minlength=slots) > 0
    last_seen = np.maximum.accumulate(np.where(seen | (np.arange(slots) == 0), np.arange(slots), 0))
    return PositionBias(values[last_seen])
