"""What refutes a residual: the model that is declared, asked again, gives a sample the very predictions that were logged.

The learned prediction is then what is off, an approximation that has met rows unlike those it knows: a new campaign moves every
row of a category past a split nobody had crossed.  Called by the tier.
"""

import numpy as np
import pyarrow.compute as pc

from monitoring.tiers.replay import asked_again
from monitoring.tiers.rescoring import logit
from monitoring.window import Window

LEAST = 100  # rows asked again: of a fault in 3% of the rows 95 in 100 such samples show one or more
KNOWN = 0.9  # of them must have an answer
SAME = 1e-3  # logits


def rescored_the_same(window: Window, models: frozenset[str]) -> bool:
    """Whether a window's predictions are the declared model's, and that is one of `models`, those that the reference knows."""
    if window.rescored is None or "model" not in window.log.column_names:
        return False
    if not set(pc.unique(window.log["model"]).to_pylist()) <= models:
        return False
    _, logged, given = asked_again(window.log, window.rescored)
    answered = ~np.isnan(given)
    if len(given) < LEAST or answered.mean() < KNOWN:
        return False
    return bool((np.abs(logit(logged[answered]) - logit(given[answered])) <= SAME).all())
