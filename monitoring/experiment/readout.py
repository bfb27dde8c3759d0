"""The read-out of a test, evening by evening, and how often the same reading calls a winner where there is none.

Called by `pipelines.experiment`.  Pure.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from monitoring.experiment.ratios import Difference, Rate, Sums, difference, lift, rate
from monitoring.experiment.sequential import FIXED, planned, width
from monitoring.sample_ratio import log10_evidence

F64 = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

LEAST_USERS = 100  # in each arm, before a sum over users is taken as normal
LEAST_EVENTS = 20  # in each arm's numerator
RATIO_ALPHA = 0.001  # a test whose arms have the wrong sizes is void, so this is not called lightly


@dataclass(frozen=True, slots=True)
class Reading:
    """One metric of one or more splits into a and b, g splits at t looks: everything [g, t]."""

    a: Rate
    b: Rate
    difference: Difference
    width: F64  # standard errors to either end of the sequential interval; infinite before there is enough to read
    readable: Bools

    def called(self, widths: F64 | float) -> Bools:
        """Looks at which an interval so many standard errors wide excludes 0."""
        with np.errstate(invalid="ignore"):
            return np.asarray(self.readable & (np.abs(self.difference.value) > widths * self.difference.error))

    def lift(self, widths: F64 | float) -> tuple[F64, F64, F64]:
        """(value, low, high) of b over a minus 1, within so many standard errors."""
        return lift(self.a, self.b, np.asarray(widths, np.float64))


def read(a: Sums, b: Sums) -> Reading:
    """Read one metric of g splits at each of t looks."""
    rates = rate(a), rate(b)
    apart = difference(*rates)
    enough = np.minimum(a.users, b.users) >= LEAST_USERS
    readable = enough & (np.minimum(a.x, b.x) >= LEAST_EVENTS) & (apart.error > 0)
    looks = readable.shape[1]
    first = readable.argmax(axis=1)
    at_first = np.take_along_axis(apart.information, first[:, None], axis=1)
    widths = width(apart.information, planned(at_first, first[:, None], looks))
    return Reading(*rates, apart, np.where(readable, widths, np.inf), readable)


def ratio_evidence(users_a: F64, users_b: F64, shares: tuple[float, float]) -> F64:
    """log10 of the evidence [...] against the planned shares in so many distinct users [...] of each arm; it may be watched.

    An alarm is anything above -log10(`RATIO_ALPHA`)."""
    return log10_evidence(np.stack([users_a, users_b], axis=-1), np.array(shares) / sum(shares))


def wrong_ratio(evidence: F64) -> Bools:
    """Where the sample ratio is not the planned one."""
    return np.asarray(evidence > -np.log10(RATIO_ALPHA))


@dataclass(frozen=True, slots=True)
class Called:
    """Of many splits without a difference: the share in which a winner was called by each look, [t]; `end`: at the last."""

    sequential: F64
    fixed: F64  # an interval for one look, looked at every day
    end: float


def false_calls(x: F64, y: F64, splits: Iterator[Bools]) -> Called:
    """How often the reading of a metric with totals [u, t] calls a winner; `splits` gives who is in b, [g, u] at a time.

    Users are split anew without being treated differently, so every call is false.  The splits are independent given the log,
    and what they estimate is the rate on this log.
    """
    everybody = Sums.of(x, y, np.ones((1, len(x))))
    sequential, fixed, end = [], [], []
    for split in splits:
        b = Sums.of(x, y, split)
        reading = read(everybody.without(b), b)
        sequential.append(np.logical_or.accumulate(reading.called(reading.width), axis=1))
        fixed.append(np.logical_or.accumulate(reading.called(FIXED), axis=1))
        end.append(reading.called(FIXED)[:, -1])
    return Called(
        np.concatenate(sequential).mean(axis=0), np.concatenate(fixed).mean(axis=0), float(np.concatenate(end).mean())
    )
