"""Made-up tests: users with habits who come on some days, in two arms with a known difference."""

import numpy as np

from monitoring.experiment.user_days import UserDays


def users(n: int, looks: int, seed: int, lift: float = 0.0, once: bool = False) -> tuple[UserDays, np.ndarray]:
    """(days, arm) of n users over `looks` + 1 days; users of arm 1 click (1 + `lift`) times as often.

    Activity and click rates differ widely between users and stay theirs; half are there from the start.  With `once` each
    user comes on one day and never again: observations as the theory has them."""
    rng = np.random.default_rng((11, seed))
    arm = (rng.random(n) < 0.5).astype(np.int64)
    start = np.where(rng.random(n) < 0.5, 0, rng.integers(0, looks + 1, n))
    there = np.arange(looks + 1) >= start[:, None]
    if once:
        there = np.arange(looks + 1) == rng.integers(0, looks + 1, n)[:, None]
    requests = rng.poisson(rng.gamma(0.8, 1.5, n)[:, None], (n, looks + 1)) * there
    chance = rng.beta(2.0, 28.0, n) * np.where(arm == 1, 1 + lift, 1.0)
    clicks = rng.binomial(4 * requests, np.minimum(chance, 1.0)[:, None])
    return UserDays(np.arange(n), requests.astype(float), 4.0 * requests, clicks.astype(float)), arm
