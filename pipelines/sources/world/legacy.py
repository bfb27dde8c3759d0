"""The ranker that was there before any model: it writes the history that models learn from.

Popularity as somebody once estimated it, a bonus for the page's topic and for the interest the user declared, a nod to the
bid; and one request in ten answered in random order, so that no propensity is zero.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from features.ids import mix, uniform
from pipelines.sources.contract import Requests, Slates
from pipelines.sources.world.luck import Kind, normal
from pipelines.sources.world.market import World

EPSILON = 0.1


@dataclass(frozen=True, slots=True)
class LegacyRanker:
    """A policy: requests in, slates out.  `epsilon` is the share of requests in random order."""

    seed: int
    slots: int
    popularity: npt.NDArray[np.float32]  # [ads]
    category: npt.NDArray[np.int16]  # [ads]
    declared: npt.NDArray[np.int16]  # [users]
    epsilon: float = EPSILON
    name: str = "legacy"

    @classmethod
    def of(cls, world: World, epsilon: float = EPSILON) -> "LegacyRanker":
        """The legacy ranker of a world: its popularity is the ads' quality seen through noise of the same size."""
        ads, seed = world.inventory, world.config.seed
        noise = 0.45 * normal(seed, Kind.LEGACY_NOISE, np.arange(len(ads)))
        popularity = (ads.quality + noise).astype(np.float32)
        return cls(seed, world.config.slots, popularity, ads.category, world.population.declared, epsilon)

    def __call__(self, requests: Requests) -> Slates:
        """Slates for n requests; the propensity is the chance that this ad stands at this slot, over both ways of ordering."""
        k = requests.candidates.shape[1]
        ad = requests.candidates - 1
        category = self.category[ad]
        score = self.popularity[ad] + np.float32(0.15) * np.log(requests.bids)
        score += np.float32(0.6) * (category == requests.context["page_topic"][:, None])
        score += np.float32(0.5) * (category == self.declared[requests.user_id - 1][:, None])
        slots = min(self.slots, k)
        greedy = np.argsort(-score, axis=1, kind="stable")[:, :slots]
        randomised = uniform(self.seed, Kind.RANDOMISE, requests.request_id) < self.epsilon
        keys = mix(self.seed, Kind.RANDOM_ORDER, requests.request_id[randomised][:, None], requests.candidates[randomised])
        shown = greedy.copy()
        shown[randomised] = np.argsort(keys, axis=1, kind="stable")[:, :slots]
        propensity = (1 - self.epsilon) * (shown == greedy) + self.epsilon / k
        return Slates(requests, shown, propensity.astype(np.float32), randomised, self.name)
