"""Rates of arms and their difference, with the variance that comes from users.

A rate is a ratio of totals, R = sum of x / sum of y over an arm's users, so its error is that of the sum of x - R y over
independent users (the delta method; Deng, Knoblich, Lu 2018, "Applying the delta method in metric analytics").  All of it
follows from six sums by arm, so that thousands of splits of one log cost a matrix product.  Pure.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Sums:
    """Of g groups of users at t looks, each [g, t]."""

    users: F64  # who have anything in the denominator
    x: F64
    y: F64
    xx: F64
    xy: F64
    yy: F64

    @classmethod
    def of(cls, x: F64, y: F64, groups: npt.NDArray[np.generic]) -> "Sums":
        """From users' numerators and denominators [u, t] and who belongs to which group [g, u] (0 or 1)."""
        member = groups.astype(np.float64)
        return cls(*(member @ each for each in ((y > 0).astype(np.float64), x, y, x * x, x * y, y * y)))

    def without(self, some: "Sums") -> "Sums":
        """The sums of those who are not in `some`."""
        return Sums(*(getattr(self, name) - getattr(some, name) for name in self.__slots__))


@dataclass(frozen=True, slots=True)
class Rate:
    """A rate, its standard error and its denominator, each [g, t]; not finite where there is nothing to divide by."""

    value: F64
    error: F64
    weight: F64


def rate(sums: Sums) -> Rate:
    """The rate of each group at each look."""
    with np.errstate(divide="ignore", invalid="ignore"):
        value = sums.x / sums.y
        squares = sums.xx - 2 * value * sums.xy + value**2 * sums.yy
        error = np.sqrt(np.maximum(squares, 0.0) * sums.users / (sums.users - 1)) / sums.y
    return Rate(value, error, sums.y)


@dataclass(frozen=True, slots=True)
class Difference:
    """b minus a, each [g, t]."""

    value: F64
    error: F64
    information: F64  # variance of the sum over users behind `value`: it grows as users come and as they act


def difference(a: Rate, b: Rate) -> Difference:
    """The difference of two arms' rates; their users are others, so their errors are independent."""
    error = np.hypot(a.error, b.error)
    with np.errstate(divide="ignore", invalid="ignore"):
        weight = a.weight * b.weight / (a.weight + b.weight)
    return Difference(b.value - a.value, error, (weight * error) ** 2)


def lift(a: Rate, b: Rate, width: F64) -> tuple[F64, F64, F64]:
    """(value, low, high) of b / a - 1: the lifts at which b - (1 + lift) a is within `width` of its standard errors of 0.

    Fieller 1954.  It holds 0 exactly where the difference's interval does.  Where b's own interval reaches 0, low is -1; where
    a's does, high is infinite.  Rates must not be negative.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        near, far = a.value**2 - (width * a.error) ** 2, b.value**2 - (width * b.error) ** 2
        product = a.value * b.value
        outer = product + np.sqrt(np.maximum(product**2 - near * far, 0.0))
        low, high = np.where(far > 0, far / outer, 0.0), np.where(near > 0, outer / near, np.inf)
        return b.value / a.value - 1, low - 1, high - 1
