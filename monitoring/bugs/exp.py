"""Bugs of experiments: the arms are not what the plan says, so the comparison between them means nothing.

They need an experiment with two arms, named a and b, or control and treatment; a log without one is left as it is.
"""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from features.ids import uniform
from monitoring.bugs.entry import Bug, Scene
from monitoring.bugs.rows import Array, hit, ids, put, words

_SALT = 0x4558  # plus the entry's number

CONTROLS: Mapping[str, str] = {"a": "b", "control": "treatment"}  # control arm -> the arm that is tried out
TREATED = tuple(CONTROLS.values())


def treated_not_logged(rows: pa.Table, share: float, scene: Scene) -> pa.Table:
    """Rows of the prediction log without those of a hashed `share` of the treated arm's requests."""
    gone = np.isin(words(rows, "arm"), TREATED) & hit(ids(rows, "request_id"), _SALT + 1, share, scene)
    return rows.filter(pa.array(~gone)) if gone.any() else rows


def moved_to_treatment(rows: pa.Table, share: float, scene: Scene) -> pa.Table:
    """Assignments in which a hashed `share` of the control arm's users has the treatment."""
    arm = words(rows, "arm")
    moved = np.isin(arm, tuple(CONTROLS)) & hit(ids(rows, "user_id"), _SALT + 2, share, scene)
    return put(rows, {"arm": _other(arm)}, moved)


def drawn_anew(rows: pa.Table, share: float, scene: Scene) -> pa.Table:
    """Assignments in which a hashed `share` of users gets an arm of the two at each request, half and half."""
    arm, request = words(rows, "arm"), ids(rows, "request_id")
    changed = hit(ids(rows, "user_id"), _SALT + 3, share, scene) & (uniform(request, _SALT + 3, scene.seed, 1) < 0.5)
    return put(rows, {"arm": _other(arm)}, changed)


def _other(arm: Array) -> Array:
    """Each arm's counterpart; an arm that has none is its own."""
    pairs = {**CONTROLS, **{treatment: control for control, treatment in CONTROLS.items()}}
    names, place = np.unique(arm, return_inverse=True)
    return np.array([pairs.get(name, name) for name in names.tolist()] or [""], dtype=np.str_)[place]


_ARMS = ("arm", *CONTROLS, *TREATED)

EXPERIMENTS = (
    Bug(
        code="EXP01",
        name="treated-arm-not-logged",
        bug_class="sample-ratio-mismatch",
        stage="log",
        tables=("predictions",),
        subject="treatment",
        also=_ARMS,
        story=(
            "The tried-out arm answers a little slower, and the log's writer drops what comes after its deadline. The arm "
            "loses its slow requests, which are not like the others."
        ),
        looks_like=(
            "One arm has fewer requests than its share of users promises, at every hour; assignment itself is as planned."
        ),
        doses={"strong": 0.5, "mild": 0.1, "trace": 0.005},
        dose_means="share of the treated arm's requests that are not logged",
        inject=treated_not_logged,
        # Rows that one arm loses on the way to the log are missing rows and a missing share of the arm at once.
        also_classes=("partial-partition",),
    ),
    Bug(
        code="EXP02",
        name="assignment-biased",
        bug_class="sample-ratio-mismatch",
        stage="assignment",
        tables=("assignment",),
        subject="treatment",
        also=_ARMS,
        story=(
            "A list of users who had asked for the new version is merged into the assignment: a part of the control arm is "
            "treated."
        ),
        looks_like="The arms' shares of users leave the plan, each user stays where they are, and no request is missing.",
        doses={"strong": 0.4, "mild": 0.08, "trace": 0.005},
        dose_means="share of the control arm's users",
        inject=moved_to_treatment,
    ),
    Bug(
        code="EXP03",
        name="assignment-not-sticky",
        bug_class="sample-ratio-mismatch",
        stage="assignment",
        tables=("assignment",),
        subject="treatment",
        also=(*_ARMS, "user", "user_id"),
        story="Behind one cache the user's id is not known, and the arm is drawn again at every request.",
        looks_like="The arms' shares are as planned, but users are seen in both of them, which a hash of the user cannot do.",
        doses={"strong": 0.4, "mild": 0.05, "trace": 0.005},
        dose_means="share of users whose arm is drawn at every request",
        inject=drawn_anew,
    ),
)
