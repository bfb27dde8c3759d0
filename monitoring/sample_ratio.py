"""Do users fall into the arms in the planned shares?  One likelihood ratio for the experiment tier and for the A/B read-out.

Each user's arm is an independent draw, so the null is exact; the alternative mixes Dirichlets around the plan, from shifts of
0.16 to 0.005.  The ratio is a martingale under the plan, so it may be looked at as often as one likes: it ever reaches
1 / alpha with a chance of at most alpha (Ville 1939; Johari et al. 2022, "Always valid inference").  Counts are users, never
rows, which come many to a user.  Pure.
"""

from math import log

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln

F64 = npt.NDArray[np.float64]

PRECISION = (10.0, 100.0, 1000.0, 10_000.0)  # of the Dirichlets around the plan that the alternative mixes


def log_dirichlet(counts: F64, weights: F64) -> F64:
    """Log probability of one order of `counts` [..., arms] under Dirichlet(weights)-multinomial: [...]."""
    n, total = counts.sum(axis=-1), weights.sum(axis=-1)
    arms = (gammaln(counts + weights) - gammaln(weights)).sum(axis=-1)
    return np.asarray(gammaln(total) - gammaln(n + total) + arms)


def log_planned(counts: F64, plan: F64) -> F64:
    """Log probability of one order of `counts` [..., arms] under the shares `plan` [arms]: [...]."""
    return np.asarray(np.sum(counts * np.log(np.clip(plan, 1e-12, 1)), axis=-1))


def log_shifted(counts: F64, plan: F64) -> F64:
    """The same under each of the shifted alternatives: [len(PRECISION), ...]."""
    return np.array([log_dirichlet(counts, np.clip(plan, 1e-6, 1) * precision) for precision in PRECISION])


def log10_evidence(counts: F64, plan: F64) -> F64:
    """log10 of the likelihood ratio of the mixture over the plan, for `counts` [..., arms] of distinct users so far: [...]."""
    ratios = log_shifted(counts, plan) - log_planned(counts, plan)
    return np.asarray((np.logaddexp.reduce(ratios, axis=0) - log(len(PRECISION))) / log(10))
