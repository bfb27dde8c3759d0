"""What to score with when the model can't: the last of the stated steps stale features -> priors -> popularity.

Called by `serving.scorer`; such answers are marked, counted and logged under this module's name instead of a model's.
"""

from collections.abc import Mapping

import numpy as np

from features.batch import F32, Array

NAME = "popularity"  # in the log and in answers, where a model's hash stands otherwise
RATE = "ad_ctr"  # the smoothed click rate of each ad, which lies in the process
UNKNOWN = 0.01  # where no candidate's rate is known
LIMITS = 1e-4, 0.5


def popularity(columns: Mapping[str, Array], n: int) -> F32:
    """The logit of each candidate's own click rate [n]; of an unknown ad, of the candidates' median rate."""
    rates = columns[RATE].astype(np.float64) if RATE in columns else np.full(n, np.nan)
    known = rates[np.isfinite(rates)]
    rates = np.where(np.isfinite(rates), rates, np.median(known) if len(known) else UNKNOWN)
    rates = np.clip(rates, *LIMITS)
    return np.log(rates / (1 - rates)).astype(np.float32)
