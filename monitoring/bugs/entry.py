"""What a bug is: where it enters, what it does to the rows there, and which answer is the right one.

The interface for bugs from outside the tree too (`clickproof gauntlet --bugs DIR`): a Python file in DIR with a tuple `BUGS`.
`inject` is pure: rows in, rows out.  The runner hands it only rows that come into being after the onset, in chunks of any size
(an hour's, or one request's), so its luck must hang on ids and `scene.seed` (`features.ids.uniform`), never on row order.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa

# Where a bug can enter, in the order of the one path, and the tables whose rows `inject` gets there.
#
# traffic    the world's requests before anybody answers them; the world itself reacts to what they become.
#            `requests`: request_id, event_timestamp, user_id, context columns.  `candidates`: request_id, ad_id, one row a
#            candidate; scene.tables["new_ads"] holds ad_id of ads that nobody has shown yet.
# market     what users really do.  `clicks`: features.schemas.CLICKS; scene.tables["impressions"]: the chunk's impressions with
#            the column p_true (of everything shown, clicked or not).
# events     what is delivered to ingestion.  `requests`, `impressions`, `clicks` as in features.schemas, by arrival.
# labels     clicks that ingestion accepted, on their way into the label join.  `clicks`.
# feature    rows of a view on their way to disk, offline and online alike.  Table: the view's name.
# store      rows of a view on their way into the online store only; the offline copy is right.  Table: the view's name; rows
#            may be changed, dropped, or given a later available_at.
# features   what the endpoint fetched, on its way to model and log.  `features`: impression_id, request_id, event_timestamp,
#            then every feature by name.
# input      the same rows between the log and the model: the log is right, the model sees something else.  `features`.
# model      the model that scores.  `rows` is the artefact (score, probability, hash, encoder_hash; see
#            serving.scorer.ScoringArtefact), and so is what `inject` returns; scene.artefacts holds others by name: the
#            families trained, and `previous`.
# log        rows of the prediction log after scoring.  `predictions`: features.schemas.PREDICTIONS and f_NAME.
# assignment which arm a request belongs to.  `assignment`: request_id, user_id, arm.
# training   the export that a model is to be trained on.  `training`: row_id, time_us, group (user), slot, label, part
#            (train, valid, calibrate, test), features by name.  Judged at the gate, as are `feature` bugs whose class is.
Stage = Literal[
    "traffic", "market", "events", "labels", "feature", "store", "features", "input", "model", "log", "assignment", "training"
]


@dataclass(frozen=True, slots=True)
class Scene:
    """What surrounds the rows that a bug gets."""

    table: str  # which of the bug's tables the rows are of
    seed: int  # drawn by the runner
    onset_us: int = 0
    tables: Mapping[str, pa.Table] = field(default_factory=dict)  # to look at: see the stages above
    artefacts: Mapping[str, Any] = field(default_factory=dict)


Inject = Callable[[Any, float, Scene], Any]  # (rows, dose, scene) -> rows


@dataclass(frozen=True, slots=True)
class Bug:
    """One production bug."""

    code: str  # stable: SKEW03
    name: str  # slug: unit-change-price
    bug_class: str  # a slug of monitoring.classes: what the first hypothesis should say
    stage: Stage
    tables: tuple[str, ...]  # whose rows `inject` rewrites
    subject: str  # what is guilty: a column, "prediction", "clicks", an arm, "split", ...
    story: str
    looks_like: str
    doses: Mapping[str, float]  # strong, mild, trace -> the number that `inject` gets
    dose_means: str  # what the number is: "share of rows", "factor", "hours"
    inject: Inject
    # Relative shift of clicks over sum of p by intensity, where the bug shows in calibration alone: decides whether a cell lies
    # below the statistical floor of (4 / d)^2 clicks.
    calibration_shift: Mapping[str, float] = field(default_factory=dict)
    also: tuple[str, ...] = ()  # subjects that are as right as `subject`: all columns that the bug touches
    also_classes: tuple[str, ...] = ()  # classes that nobody could tell from `bug_class` by the evidence; few, with a reason

    def dose(self, intensity: str) -> float:
        """The number behind an intensity's name; KeyError names those there are."""
        if intensity not in self.doses:
            raise KeyError(f"{self.code} has no intensity {intensity!r}; there are {', '.join(self.doses)}")
        return self.doses[intensity]
