"""What is counted of a window: parts.  Each part is a sum over rows, so hours add up to days.

Forms: `share` counts rows (k of n; deff says how many rows move together), `mean` sums values (k of n, q the sum of
squares), `rare` counts owners (how many users, ads or requests the hits are worth), for things that hardly ever happen.
Called by the counters, which make parts, and by the forecast and the naming, which judge them.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

Form = Literal["share", "mean", "rare"]

# Kinds of parts and the part of their column's budget that each kind has.  What a bug does sharply (nulls, zeros, a broken
# invariant) has as much as the many bins together.
BUDGET = {
    "bin": 2.0, "category": 3.0, "null": 1.0, "zero": 1.0, "mode": 1.0, "new": 1.0, "far-low": 1.0, "far-high": 1.0,
    "mean": 1.5, "distinct": 1.0, "top": 1.0, "grid": 1.0, "cast": 1.0, "apart": 2.0, "map": 2.0, "clock": 3.0,
    "novel": 2.0, "heavy": 2.0, "residual-bin": 2.0, "residual-mean": 2.0, "residual-spread": 2.0,
}  # fmt: skip

USER_HOURS = 4.0  # a long evening; ads and campaigns go on for days


@dataclass(frozen=True, slots=True)
class Part:
    """One number of a window."""

    subject: str  # a feature without its prefix, "prediction", "item", "user"
    kind: str  # a key of BUDGET
    label: str  # which of its kind: "0.1 to 0.5", "value US"
    form: Form
    family: str
    up_only: bool = False

    # Hours in a row in which one owner alone may be a hit, again and again: an ad for as long as it runs.
    lasts: float = 1.0

    @property
    def by_owner(self) -> bool:
        """Whether hits are owners: few hits are then few things."""
        return self.form == "rare" or self.kind in ("distinct", "top", "grid", "cast")


def lasts(owner: str) -> float:
    """Hours that an owner of that key may go on."""
    return {"": 1.0, "request": 1.0, "user": USER_HOURS, "f_user_id": USER_HOURS}.get(owner, np.inf)
