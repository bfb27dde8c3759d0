"""What is known of users from before the test, taken out of their residuals (CUPED; Deng, Xu, Kohavi, Walker 2013).

Users differ far more than arms do, and they differed before: a slope on each user's residual of the days before removes what
it foretells, and with it the imbalance that the draw of arms happened to leave.  It was there before the test, so no arm had a
part in it, and it changes nothing on average.  Pure.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from monitoring.experiment.user_days import Totals, UserDays

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]


def known(before: UserDays, totals: Callable[[UserDays], Totals], user: I64) -> F64:
    """Of each user [u] the residual x - R y of a metric in the days before; 0 of those who were not there."""
    x, y = (each[:, -1] for each in totals(before))
    rest = x - x.sum() / y.sum() * y
    at = np.minimum(np.searchsorted(before.user, user), len(before.user) - 1)
    return np.where(before.user[at] == user, rest[at], 0.0)


def adjusted(x: F64, y: F64, z: F64) -> F64:
    """Numerators [u, t] without what `z` [u] foretells of x - R y; over all users their sum stays what it was."""
    inside = y > 0
    with np.errstate(divide="ignore", invalid="ignore"):
        rest = x - x.sum(axis=0) / y.sum(axis=0) * y
        centred = np.where(inside, z[:, None] - (z[:, None] * inside).sum(axis=0) / inside.sum(axis=0), 0.0)
        slope = (rest * centred).sum(axis=0) / (centred**2).sum(axis=0)
    return np.asarray(x - np.where(np.isfinite(slope), slope, 0.0) * centred)
