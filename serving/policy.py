"""From scores to a slate: which ads are shown, in which order, and how likely that was.  Called by `serving.scorer`.

A policy is separate from the model, so that the same scores can be shown greedily, with exploration, or replayed.  Its luck
is a hash of the request id: asking again gives the same slate.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from features.ids import mix, uniform_one

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]

# Salts that keep a request's two draws independent: whether it is randomised, and the random order itself.
_EXPLORE, _ORDER = 0x45_58_50, 0x4F_52_44


class Slate(NamedTuple):
    """What a policy decided for one request of n candidates."""

    shown: I64  # [k] indexes into the candidates, top slot first; k = min(slots, n)
    propensity: F32  # [k] probability that the policy gives this slot to this candidate
    randomised: bool  # whether this request was answered in random order


class Policy(Protocol):
    """Turns the value of each candidate into an order and a propensity per slot."""

    @property
    def name(self) -> str:
        """Stands in the log beside each decision; two policies that decide differently have different names."""
        ...

    def choose(self, request_id: int, value: npt.NDArray[np.floating], slots: int) -> Slate:
        """The slate of one request; `value` [n] is what to order by, higher is better."""
        ...


@dataclass(frozen=True, slots=True)
class GreedyPolicy:
    """The best candidate first, always.  Propensities are one, so such a log says nothing about what was not shown."""

    name: str = "greedy"

    def choose(self, request_id: int, value: npt.NDArray[np.floating], slots: int) -> Slate:
        shown = greedy_order(value)[:slots]
        return Slate(shown, np.ones(len(shown), np.float32), False)


@dataclass(frozen=True, slots=True)
class EpsilonPolicy:
    """Greedy, except that a hashed share of requests is answered in a uniformly random order.

    Each of the n candidates then has probability epsilon / n at least in every slot, so inverse-propensity estimates exist
    (Horvitz and Thompson 1952); at a slot, the propensities of all candidates add up to 1.
    """

    epsilon: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.epsilon <= 1.0:
            raise ValueError(f"epsilon must lie in [0, 1], not {self.epsilon}; set CLICKPROOF_EPSILON")

    @property
    def name(self) -> str:
        return f"epsilon-{self.epsilon:g}"

    def choose(self, request_id: int, value: npt.NDArray[np.floating], slots: int) -> Slate:
        n = len(value)
        greedy = greedy_order(value)[:slots]
        randomised = uniform_one(request_id, _EXPLORE) < self.epsilon
        shown = random_order(request_id, n)[:slots] if randomised else greedy
        places = zip(shown.tolist(), greedy.tolist(), strict=True)
        by_luck, greedily = self.epsilon / n, 1.0 - self.epsilon
        propensity = [greedily + by_luck if ad == best else by_luck for ad, best in places]
        return Slate(shown, np.array(propensity, np.float32), randomised)


def greedy_order(value: npt.NDArray[np.floating]) -> I64:
    """Indexes from the highest value to the lowest; ties stay in the order of the candidates."""
    return np.argsort(-value, kind="stable")


def random_order(request_id: int, n: int) -> I64:
    """A uniformly random order of n candidates that is a function of the request id alone."""
    return np.argsort(mix(request_id, _ORDER, np.arange(n)), kind="stable")


def policy_of(epsilon: float) -> Policy:
    """The policy that the setting `epsilon` asks for."""
    return EpsilonPolicy(epsilon) if epsilon > 0 else GreedyPolicy()
