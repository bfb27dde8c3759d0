"""From rows to an artefact: encoder, b(slot), model, calibration, in this order.  Pure; called by training flows, drills and
tests."""

from dataclasses import dataclass

import numpy as np

from infra.clock import day_name
from models.artefact import Artefact
from models.calibrate import fit_calibrator
from models.contract import Dataset, FeatureSpec, FitReport
from models.encode import Encoder
from models.family import FAMILIES, TrainedModel, family
from models.position import PositionBias, learn_position

__all__ = ["FAMILIES", "Trained", "train_family"]


@dataclass(frozen=True, slots=True)
class Trained:
    """What training made, and how it went."""

    artefact: Artefact
    fit_report: FitReport


def train_family(
    name: str,
    train: Dataset,
    valid: Dataset,
    calibrate: Dataset,
    spec: FeatureSpec,
    seed: int,
    position: PositionBias | None = None,
    *,
    warm_start: Artefact | None = None,
    encoder: Encoder | None = None,
    service: str = "ctr_full",
    entities: tuple[str, ...] = ("user", "ad", "campaign", "placement"),
) -> Trained:
    """Train family `name` on `train`, stop early on `valid`, calibrate on `calibrate` (later days) together with `valid`.

    Give `position` and `encoder` where several families are trained on the same rows: both are learned once.  With
    `warm_start` the model continues from an older artefact of the same family and keeps its encoder, grown by new
    categories.  Raises ValueError for rows that can't teach a click model: a part that is empty, or without clicks or
    without non-clicks.
    """
    for part, data in (("training", train), ("validation", valid), ("calibration", calibrate)):
        clicks = int(data.label.sum())
        if not 0 < clicks < len(data):
            raise ValueError(
                f"{part} rows: {len(data)} with {clicks} clicks; a model needs both clicks and non-clicks. "
                "Use more days or a larger size, and check that labels are mature"
            )
    if encoder is None:
        encoder = Encoder.learn(train.columns, spec) if warm_start is None else warm_start.encoder
    if position is None:
        position = learn_position(train, encoder, seed=seed)
    model: TrainedModel = family(name)(encoder)
    offsets = (position.offset(train.slot), position.offset(valid.slot))
    report = model.fit(train, valid, offsets, seed=seed, warm_start=None if warm_start is None else warm_start.model)
    # One day's luck moves the click rate by some 5%, so the validation days help: the fit took only its stopping time from
    # them.
    late = (valid, calibrate)
    calibrator = fit_calibrator(
        np.concatenate([model.score(part.columns) for part in late]),
        np.concatenate([part.label for part in late]),
        np.concatenate([position.offset(part.slot) for part in late]),
    )
    days = (day_name(int(train.time_us.min())), day_name(int(train.time_us.max())))
    return Trained(Artefact(model, position, calibrator, service, entities, days, seed, model.configuration()), report)
