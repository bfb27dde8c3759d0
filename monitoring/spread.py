"""How much a daily number moves by itself: a scale that is learned from days, not from the binomial formula.

Rows of one day share users, ads and weather, so the variance between days exceeds the binomial one by a factor that differs
from column to column.  Few days are known, so each column's factor is shrunk towards its family's: the moderated t
statistic of Smyth (2004, "Linear models and empirical Bayes methods for assessing differential expression in microarray
experiments").  Called by the distribution tier and by the leakage audit.
"""

import numpy as np
import numpy.typing as npt
from scipy import optimize, special, stats

F64 = npt.NDArray[np.float64]

# Heavy tails by construction: however alike a family's columns look, no t distribution with more freedom than this is used
# (or than the caller's own limit).
MOST_FREEDOM = 20.0


def shrink(factor: F64, freedom: float, most: float = MOST_FREEDOM) -> tuple[F64, float]:
    """Variance factors [m], each measured with `freedom` degrees, shrunk towards their common value.

    Returns (factors [m], degrees of freedom of the shrunk factors).  Smyth's moment estimates on log factors; with few
    columns, or columns that differ by more than chance, little or nothing is borrowed.  Factors of (nearly) 0, of
    numbers that never moved, say nothing about the others and are left out of the common value.
    """
    moving = factor[factor > 0.05]
    if len(moving) < 3:
        return factor, freedom
    logs = np.log(moving) - special.digamma(freedom / 2) + np.log(freedom / 2)
    surplus = float(np.var(logs, ddof=1)) - float(special.polygamma(1, freedom / 2))
    if surplus <= 1e-6:
        return np.full_like(factor, float(np.mean(moving))), max(most, freedom)
    borrowed = 2 * float(optimize.brentq(lambda d: special.polygamma(1, d) - surplus, 1e-6, 1e8))
    prior = float(np.exp(np.mean(logs) + special.digamma(borrowed / 2) - np.log(borrowed / 2)))
    mixed = (borrowed * prior + freedom * factor) / (borrowed + freedom)
    return mixed, max(min(borrowed + freedom, most), freedom)


def two_sided_log10_p(t: F64, freedom: float) -> F64:
    """log10 of the two-sided p-value of t statistics; finite however far out."""
    return np.asarray((np.log(2.0) + stats.t.logsf(np.abs(t), freedom)) / np.log(10.0), dtype=np.float64)
