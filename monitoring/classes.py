"""The classes of production bugs: what an incident can be called.  Diagnosis ranks them, runbooks and the gauntlet list them.

`unlabelled` says whether labels are needed to see one: yes (visible without), partly, replay (only by recomputing), no.
`judged` says where: at the gate before training, or live on the prediction log.
"""

from dataclasses import dataclass
from typing import Literal

from infra.errors import ExplainedError


@dataclass(frozen=True, slots=True)
class BugClass:
    """One class."""

    number: int
    slug: str
    title: str
    judged: Literal["gate", "live"]
    unlabelled: Literal["yes", "partly", "replay", "no"]


CLASSES: tuple[BugClass, ...] = (
    BugClass(1, "post-click-feature", "a feature written after the click", "gate", "replay"),
    BugClass(2, "point-in-time-violation", "rows from the future in the join", "gate", "replay"),
    BugClass(3, "target-encoding", "target encoding without out-of-fold", "gate", "partly"),
    BugClass(4, "split-duplicates", "the same rows on both sides of the split", "gate", "yes"),
    BugClass(5, "group-leak", "the same user on both sides of a random split", "gate", "no"),
    BugClass(6, "target-derived-column", "a column made from the target", "gate", "no"),
    BugClass(7, "default-value-skew", "look-ups miss and defaults are served", "live", "yes"),
    BugClass(8, "unit-change", "another unit for some rows", "live", "yes"),
    BugClass(9, "category-reencoding", "category ids permuted or swapped", "live", "yes"),
    BugClass(10, "stale-features", "yesterday's feature values", "live", "yes"),
    BugClass(11, "time-zone-shift", "the hour differs from the timestamp", "live", "yes"),
    BugClass(12, "cast-or-rounding", "fewer distinct values in serving", "live", "yes"),
    BugClass(13, "imputation-difference", "null here, zero there", "live", "yes"),
    BugClass(14, "feature-order", "feature order or transform version differs", "live", "yes"),
    BugClass(15, "covariate-shift", "the mix of traffic changes", "live", "yes"),
    BugClass(16, "new-ad-wave", "a wave of ads nobody knows yet", "live", "yes"),
    BugClass(17, "prior-shift", "the base rate moves", "live", "no"),
    BugClass(18, "concept-drift", "the relation changes in a slice", "live", "no"),
    BugClass(19, "seasonal-drift", "slow drift", "live", "partly"),
    BugClass(20, "lost-clicks", "clicks lost before the label join", "live", "no"),
    BugClass(21, "duplicated-events", "events delivered twice under one id", "live", "yes"),
    BugClass(22, "late-events", "clicks arrive late: young impressions look negative", "live", "no"),
    BugClass(23, "bots", "clicks concentrate on few users", "live", "partly"),
    BugClass(24, "null-spike", "nulls rise in a feature", "live", "yes"),
    BugClass(25, "partial-partition", "hours of events are missing", "live", "yes"),
    BugClass(26, "schema-change", "the contract is broken: schema, enum or clock", "live", "yes"),
    BugClass(27, "uncorrected-downsampling", "negative downsampling is not corrected", "live", "replay"),
    BugClass(28, "wrong-model-version", "the declared model is not what scored", "live", "yes"),
    BugClass(29, "constant-fallback", "a constant instead of a prediction", "live", "yes"),
    BugClass(30, "quantisation", "a damaged model with few distinct predictions", "live", "yes"),
    BugClass(31, "sample-ratio-mismatch", "arms are not as planned", "live", "yes"),
    BugClass(32, "feedback-loop", "training on what the model chose itself", "live", "no"),
    BugClass(33, "partial-training-day", "a training day is cut, or the classes are swapped", "gate", "partly"),
)


def bug_class(slug: str) -> BugClass:
    """The class of that slug; ExplainedError lists what there is."""
    for candidate in CLASSES:
        if candidate.slug == slug:
            return candidate
    raise ExplainedError(f"no bug class {slug!r}; there are {', '.join(c.slug for c in CLASSES)}")
