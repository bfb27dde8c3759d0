"""Made-up tests: users with habits who come on some days, in two arms with a known difference."""

import numpy as np

from monitoring.experiment.user_days import UserDays


def users(n: int, looks: int, seed: int, lift: float = 0.0, once: bool = False, before: int = 0) -> tuple[UserDays, np.ndarray]:
    """(days, arm) of n users over `before` days and `looks` + 1 more; users of arm 1 click (1 + `lift`) times as often then.

    Activity and click rates differ widely between users and stay theirs; half are there from the start.  With `once` each
    user comes on one day and never again: observations as the theory has them."""
    rng = np.random.default_rng((11, seed))
    arm = (rng.random(n) < 0.5).astype(np.int64)
    day = np.arange(-before, looks + 1)
    start = np.where(rng.random(n) < 0.5, -before, rng.integers(0, looks + 1, n))
    there = day >= start[:, None]
    if once:
        there = day == rng.integers(0, looks + 1, n)[:, None]
    requests = rng.poisson(rng.gamma(0.8, 1.5, n)[:, None], there.shape) * there
    chance = rng.beta(2.0, 28.0, n)[:, None] * np.where((arm[:, None] == 1) & (day >= 0), 1 + lift, 1.0)
    clicks = rng.binomial(4 * requests, np.minimum(chance, 1.0))
    return UserDays(np.arange(n), requests.astype(float), 4.0 * requests, clicks.astype(float)), arm
