"""Bugs of training: exports with holes or flipped labels, a correction left out, a model that learns from its own choices."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from infra.clock import DAY_US
from monitoring.bugs.clicks import impression_of, without
from monitoring.bugs.entry import Bug, Scene
from monitoring.bugs.rows import hit, ids, put, words
from monitoring.bugs.wrapped import Wrapped
from serving.scorer import ScoringArtefact

_SALT = 0x5452  # plus the entry's number


def uncorrected(artefact: ScoringArtefact, dropped: float, scene: Scene) -> ScoringArtefact:
    """The artefact as it scores without the correction for a share `dropped` of negatives: s + log(1 / (1 - dropped))."""
    shift = np.float32(-np.log1p(-dropped))
    return Wrapped(artefact, lambda columns, s: s + shift) if dropped else artefact


def less_than_it_thinks(clicks: pa.Table, share: float, scene: Scene) -> pa.Table:
    """Clicks less a hashed `share` of those on impressions that were shown in random order."""
    at = impression_of(clicks, scene)
    randomised = pc.fill_null(scene.tables["impressions"]["randomised"], False).to_numpy()
    there = (at >= 0) & randomised[at] if len(randomised) else at >= 0
    return without(clicks, np.where(there, share, 0.0), _SALT + 2, scene)


def day_cut_short(rows: pa.Table, share: float, scene: Scene) -> pa.Table:
    """Training rows without the last `share` of the last training day."""
    train, at = words(rows, "part") == "train", ids(rows, "time_us")
    last = at[train].max() // DAY_US if train.any() else -1
    gone = train & (at // DAY_US == last) & (at % DAY_US >= (1 - share) * DAY_US)
    return rows.filter(pa.array(~gone)) if gone.any() else rows


def classes_swapped(rows: pa.Table, share: float, scene: Scene) -> pa.Table:
    """Training rows with the label of a hashed `share` flipped."""
    return put(rows, {"label": 1 - ids(rows, "label")}, hit(ids(rows, "row_id"), _SALT + 4, share, scene))


TRAININGS = (
    Bug(
        code="TRAIN01",
        name="downsampling-uncorrected",
        bug_class="uncorrected-downsampling",
        stage="model",
        tables=("model",),
        subject="prediction",
        also=("model",),
        story=(
            "To save time a part of the impressions without a click is left out of training. The registered model has the "
            "correction in its intercept; the exported one that serves has not, and promises too many clicks by one over the "
            "share kept."
        ),
        looks_like=(
            "Ranking and AUC are untouched, every p is too high by one factor. Scoring the logged features again with the "
            "declared model gives the same logits less a constant."
        ),
        doses={"strong": 0.9, "mild": 0.1, "trace": 0.005},
        dose_means="share of negatives that were left out (strong: odds times 10)",
        inject=uncorrected,
    ),
    Bug(
        code="TRAIN02",
        name="learns-from-its-own-choices",
        bug_class="feedback-loop",
        stage="market",
        tables=("clicks",),
        subject="prediction",
        also=("randomised", "clicks"),
        story=(
            "The model is retrained, week after week, on what it chose itself. Ads it overrates are shown, calibrated on what "
            "was shown, and overrated again; ads it would not show it no longer knows. Modelled by what that does to a log: "
            "the retrained model is registered and rescoring agrees, on its own choices it is calibrated, and where a request "
            "was answered in random order, people click less than it promises."
        ),
        looks_like=(
            "All usual figures are fine, being taken from the model's own choices. Only the randomised requests, one in ten or "
            "fewer, fall short of their predictions."
        ),
        doses={"strong": 0.8, "mild": 0.4, "trace": 0.05},
        dose_means="by how much p is too high on randomised requests, as a share of p",
        inject=less_than_it_thinks,
        # With one request in ten randomised a shift d there is seen as well as one of d x sqrt(1/10) in all of them.
        calibration_shift={"strong": 0.25, "mild": 0.126, "trace": 0.016},
    ),
    Bug(
        code="TRAIN03",
        name="day-cut-short",
        bug_class="partial-training-day",
        stage="training",
        tables=("training",),
        subject="rows",
        also=("time_us",),
        story=(
            "The export starts by the clock rather than when the day is complete. The last training day ends in the afternoon."
        ),
        looks_like="The last training day has fewer rows than the lake has impressions, none of them in its last hours.",
        doses={"strong": 0.5, "mild": 1 / 24, "trace": 0.005},
        dose_means="share of the day that is missing at its end (mild: one hour)",
        inject=day_cut_short,
    ),
    Bug(
        code="TRAIN04",
        name="class-index-swapped",
        bug_class="partial-training-day",
        stage="training",
        tables=("training",),
        subject="label",
        also=("rows",),
        story=(
            "A label encoder sorts its classes by frequency, so no click becomes 1. In a part of the files, or in all of them."
        ),
        looks_like=(
            "More clicks in the export than in the lake; with all of it swapped, features predict backwards: AUC below 0.5."
        ),
        doses={"strong": 1.0, "mild": 0.05, "trace": 0.005},
        dose_means="share of rows with the label flipped",
        inject=classes_swapped,
    ),
)
