"""Which ads are candidates for a request, and what they bid.  Called by the market for each chunk of requests.

Stands for the targeting and budget stages that come before ranking: it knows budgets, not users.
"""

import numpy as np
import numpy.typing as npt

from features.ids import mix, uniform
from pipelines.sources.world.inventory import Inventory
from pipelines.sources.world.luck import Kind

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]


def inclusion(weight: F64, k: int) -> F64:
    """Probabilities [a] that sum to k, in proportion to `weight` [a] and at most 1; needs k <= a.

    What is over 1 is handed to the rest, again and again until nothing is over.
    """
    share = np.zeros(len(weight))
    capped = np.zeros(len(weight), bool)
    while True:
        rest = weight[~capped]
        share[~capped] = rest * ((k - capped.sum()) / rest.sum()) if len(rest) else 1.0
        over = ~capped & (share > 1.0)
        if not over.any():
            return np.where(capped, 1.0, share)
        capped |= over


def candidates(seed: int, ads: Inventory, hour_us: int, request_id: I64, k: int) -> I64:
    """[n, k] indexes of different ads for n requests of the hour that starts at `hour_us`; fewer columns if fewer ads run.

    Systematic sampling (Madow 1949): one uniform number a request walks through the live ads, which are shuffled every hour, in
    steps of 1 on the scale of their inclusion probabilities; none of these is above 1, so no ad is met twice.
    """
    live = ads.live(hour_us)
    if not len(live):
        raise ValueError(f"no ad runs at {hour_us} us: the market's inventory is too small for its campaigns' lives")
    k = min(k, len(live))
    live = live[np.argsort(mix(seed, Kind.ORDER, hour_us, live), kind="stable")]
    edges = np.cumsum(inclusion(ads.budget[live].astype(np.float64), k))
    # Rounding in the sum must not make a step reach past the last ad.
    edges *= k / edges[-1]
    points = uniform(seed, Kind.CANDIDATES, request_id)[:, None] + np.arange(k)
    return live[np.minimum(np.searchsorted(edges, points, side="right"), len(live) - 1)]


def bids(seed: int, ads: Inventory, request_id: I64, candidate: I64) -> F32:
    """[n, k] bids: the ad's usual bid within 20%."""
    luck = uniform(seed, Kind.BID, request_id[:, None], candidate)
    return (ads.bid[candidate] * (0.8 + 0.4 * luck)).astype(np.float32)
