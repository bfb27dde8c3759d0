"""How many standard errors wide an interval must be so that it may be looked at every day.

The normal mixture of Robbins 1970, as an asymptotic confidence sequence (Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas 2024,
"Time-uniform central limit theory and asymptotic confidence sequences"; the mixture SPRT of Johari et al. 2022, "Always valid
inference", has the same boundary): a Brownian motion B ever leaves

    |B(v)| < sqrt(v) * sqrt((1 + 1 / q) * log((1 + q) / alpha^2)),  q = rho^2 v

with a chance of at most alpha.  Sequences are made for observations that come once.  A user of a test acts day after day, and
a clock that counts users or rows then runs wrong (Ankargren, Frånberg, Schultzberg 2023, "The peeking problem 2.0").  The clock
here is v(t), the variance of the sum over users of their residuals up to day t.  Where a user's later residual goes with the
earlier one (who is keen stays keen), the covariance of the sum between two days is at least v of the earlier, which is that
of B(v); so the sum leaves a boundary on either side at most as often as B(v) does (Slepian 1962).  New users are the case of
equality.  Users who make up tomorrow for what they did today would break it.  Pure.
"""

from functools import cache
from math import log
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]

ALPHA = 0.05
FIXED = NormalDist().inv_cdf(1 - ALPHA / 2)  # standard errors of an interval that is looked at once


@cache
def tightest(alpha: float) -> float:
    """The q at which the boundary is fewest standard errors wide: the solution of q = log(1 + q) - 2 log(alpha)."""
    q = 1.0
    for _ in range(100):  # a contraction: the derivative of the right side is 1 / (1 + q)
        q = log(1 + q) - 2 * log(alpha)
    return q


def planned(first: F64, look: npt.NDArray[np.integer] | int, looks: int) -> F64:
    """The information at which to be tightest, in a test of so many looks whose first (number `look`, from 0) has `first`.

    As if every day brought as much as the first; a user who is always the same brings more (up to looks^2 times the first)."""
    return np.asarray(first * looks / (np.asarray(look) + 1.0))


def width(information: F64, planned: F64, alpha: float = ALPHA) -> F64:
    """Standard errors from the estimate to either end of the interval, where it is tightest at `planned` information.

    `planned` must be known before the estimate is: any number does, a wrong one only costs width.
    """
    q = tightest(alpha) * np.asarray(information, np.float64) / planned
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.sqrt((1 + 1 / q) * np.log((1 + q) / alpha**2)))
