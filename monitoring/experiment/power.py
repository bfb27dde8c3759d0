"""How long a test must run, and what it can see: from users' days before the test, before anybody is assigned.  Pure."""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from monitoring.experiment.ratios import Sums, rate
from monitoring.experiment.sequential import FIXED, width

F64 = npt.NDArray[np.float64]

POWER = 0.8  # chance of seeing what is there


@dataclass(frozen=True, slots=True)
class Plan:
    """The smallest lift that is seen with a chance of `POWER` by the end of a test of 1 .. t days, each [t]."""

    once: F64  # looked at once, at the end
    daily: F64  # looked at every day: a lower bound of the power, since an earlier day may see it too

    def days(self, lift: float, smallest: F64) -> int | None:
        """Days until a lift is seen, by one of the two; None where the history is too short to say."""
        enough = np.flatnonzero(smallest <= lift)
        return int(enough[0]) + 1 if len(enough) else None


def plan(x: F64, y: F64, shares: tuple[float, float]) -> Plan:
    """From the numerators and denominators [u, t] of users of whom the arms are to get these shares.

    The relative error of a difference of arms with shares a and b is sqrt(1/a + 1/b) times that of everybody's rate.
    """
    everybody = rate(Sums.of(x, y, np.ones((1, len(x)))))
    value, error, weight = everybody.value[0], everybody.error[0], everybody.weight[0]
    relative = error / value * np.sqrt(sum(sum(shares) / share for share in shares))
    information = (error * weight) ** 2
    days = np.arange(1, len(relative) + 1)
    seen = NormalDist().inv_cdf(POWER)
    at_end = width(information, information[0] * days)
    return Plan((FIXED + seen) * relative, (at_end + seen) * relative)
