"""The best that anybody could do on a calibration shift: a likelihood ratio test that knows the shift, the onset and the
world's real variance.  Pure; called by the gauntlet, whose delays are divided by this one's.

Clicks of an hour are gamma-Poisson around what the model expects: a factor of the day (everybody's ads and weather) times
luck.  Within a day the factor is integrated out, so a day's hours are one cumulative negative binomial count.  The threshold
is the average run length that the calibration tier's budget allows (Wald 1945), without its multiplicity: an oracle looks at
one stream.
"""

import numpy as np
import numpy.typing as npt
from scipy import special

from infra.clock import DAY_US
from monitoring.tiers.tier import PAGES_A_DAY, SHARE

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

THRESHOLD = float(np.log(24 / (PAGES_A_DAY * SHARE["calibration"])))  # log of the hours between false alarms


def day_variance(clicks: F64, expected: F64, hour_us: I64) -> tuple[float, float]:
    """(standing ratio of clicks to expected, variance of a day's factor around it) over clean hours [n].

    Method of moments: the variance of daily ratios less what Poisson luck alone gives.
    """
    _, day = np.unique(hour_us // DAY_US, return_inverse=True)
    total, should = np.bincount(day, clicks), np.bincount(day, expected)
    level = float(total.sum() / should.sum())
    ratio = total / (level * should)
    weight = should / should.sum()
    spread = float(np.sum(weight * np.square(ratio - 1)))
    luck = float(np.sum(weight / (level * should)))
    return level, max(spread - luck, 1e-6)


def log_likelihood(clicks: float, expected: float, variance: float) -> float:
    """log of the negative binomial probability of a count with that mean, whose rate has relative variance `variance`."""
    shape = 1 / variance
    return float(
        special.gammaln(clicks + shape)
        - special.gammaln(shape)
        - special.gammaln(clicks + 1)
        + shape * np.log(shape / (shape + expected))
        + clicks * np.log(expected / (shape + expected))
    )


def delay(clicks: F64, expected: F64, hour_us: I64, shift: float, level: float, variance: float) -> int | None:
    """How many hours from the onset the oracle needs to see clicks fall (or rise) by the factor 1 + shift; None: not in these.

    `clicks` and `expected` [n] are of the hours from the onset on; `expected` as the model says, before the shift.
    """
    whole, total, should, today = 0.0, 0.0, 0.0, -1
    for at in range(len(clicks)):
        day = int(hour_us[at] // DAY_US)
        if day != today:
            whole += _ratio(total, should, shift, variance)
            total, should, today = 0.0, 0.0, day
        total, should = total + float(clicks[at]), should + level * float(expected[at])
        if whole + _ratio(total, should, shift, variance) >= THRESHOLD:
            return at + 1
    return None


def _ratio(clicks: float, expected: float, shift: float, variance: float) -> float:
    if expected <= 0:
        return 0.0
    return log_likelihood(clicks, expected * (1 + shift), variance) - log_likelihood(clicks, expected, variance)
