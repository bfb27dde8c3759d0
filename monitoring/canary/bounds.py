"""Bounds that hold at every look, however often one looks: the arithmetic of the guard.  Pure.

For a rate, the beta mixture of Robbins (1970, "Statistical methods related to the law of the iterated logarithm"): with chance
1 - alpha no look ever has the true rate outside.  For a mean of many, Robbins' normal mixture with an estimated variance: the
asymptotic confidence sequence of Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas (2024, "Time-uniform central limit theory and
asymptotic confidence sequences").
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, log, log1p, sqrt

import numpy as np
import numpy.typing as npt
from scipy.special import betaln

F64 = npt.NDArray[np.float64]

STEPS = 50  # of a bisection: to 1e-15


@dataclass(frozen=True, slots=True)
class Bounds:
    """An estimate with bounds; nothing is known of it where they are infinite."""

    value: float
    low: float
    high: float

    def minus(self, other: "Bounds") -> "Bounds":
        """Of the difference, each bound erring as often as both do."""
        return Bounds(self.value - other.value, self.low - other.high, self.high - other.low)


def rate(count: float, of: float, alpha: float) -> Bounds:
    """Bounds of the chance behind `count` of `of`, wrong at any look ever with a chance of at most `alpha`."""
    if of <= 0:
        return Bounds(0.0, 0.0, 1.0)
    limit = log(1 / alpha) - float(betaln(count + 0.5, of - count + 0.5) - betaln(0.5, 0.5))

    def beyond(q: float) -> bool:  # whether q is ruled out
        return -count * log(max(q, 1e-300)) - (of - count) * log1p(-min(q, 1 - 1e-16)) > limit

    seen = count / of
    low = 0.0 if count == 0 else _edge(beyond, seen, 0.0)
    high = 1.0 if count == of else _edge(beyond, seen, 1.0)
    return Bounds(seen, low, high)


def mean(value: float, variance: float, scale: float, alpha: float) -> Bounds:
    """Bounds of what `value` estimates with that variance, wrong at any look ever with a chance of about `alpha`.

    They are tightest while their width is about `scale`.
    """
    if not 0 < variance < inf:
        return Bounds(value, -inf, inf)
    known = scale**2 / variance
    radius = sqrt(variance * (1 + 1 / known) * (2 * log(1 / alpha) + log1p(known)))
    return Bounds(value, value - radius, value + radius)


def dispersion(seen: F64, expected: F64) -> float:
    """How many times the variance of independent clicks the clicks of buckets have: Pearson's chi-squared over its degrees of
    freedom (McCullagh, Nelder 1989, "Generalized Linear Models", 4.5), `expected` scaled to add up to `seen`."""
    there = expected > 0
    if there.sum() < 2 or seen[there].sum() <= 0:
        return 1.0
    fair = expected[there] * (seen[there].sum() / expected[there].sum())
    return float(np.sum(np.square(seen[there] - fair) / fair) / (there.sum() - 1))


def _edge(beyond: Callable[[float], bool], inside: float, outside: float) -> float:
    """Where `beyond` begins to hold between `inside` and `outside`, on the outer side."""
    for _ in range(STEPS):
        middle = (inside + outside) / 2
        if beyond(middle):
            outside = middle
        else:
            inside = middle
    return outside
