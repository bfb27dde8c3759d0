"""Whether clicks concentrate on few users: bots, or one person with a script.

Given the p of what a user was shown, users' clicks are close to independent; a robot clicks many times as often.  Every window
gives an e-value for "a small part of the users click several times as often as predicted" (a sparse mixture: Donoho, Jin 2004,
"Higher criticism for detecting sparse heterogeneous mixtures"), and those run through a Shiryaev-Roberts sum.  Users without
a click are charged by a bound, so only clicking users are looked up.  Called by the calibration tier.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

PARTS = (0.0003, 0.003, 0.03)  # of users that are robots
TIMES = (5.0, 25.0)  # clicks over prediction
# Users differ by more than p says: relative variance of a user's rate, at least.  Our worlds show none (the counts are Poisson
# to within 10%); people in real logs share devices and come back.
LEAST_VARIANCE = 0.3


@dataclass(slots=True)
class Concentration:
    """A Shiryaev-Roberts sum over windows."""

    pairs: float = 1.0  # sum of k(k-1) over users and windows, worth `exposed` of prior
    exposed: float = 2.0  # sum of squared expectations
    log: F64 = field(default_factory=lambda: np.full((len(PARTS), len(TIMES)), -np.inf))
    since: F64 = field(default_factory=lambda: np.zeros((len(PARTS), len(TIMES))))

    @property
    def variance(self) -> float:
        """Relative variance of users' rates, as learned."""
        return max(self.pairs / self.exposed - 1.0, LEAST_VARIANCE)

    def see(self, clicks: F64, expected: F64, total: float, hour: float, hours: float) -> None:
        """Weigh a window: `clicks` (>= 1) of each clicking user [users], what was expected of them, and of all users."""
        size = 1 / self.variance
        rest = max(total - float(expected.sum()), 0.0)
        mean = np.maximum(expected, 1e-4)
        fresh = np.log(hours) >= self.log  # a new start beats what came before it
        self.since = np.where(fresh, hour, self.since)
        self.log = np.logaddexp(self.log, np.log(hours))
        for j, times in enumerate(TIMES):
            ratio = clicks * np.log(times) + (clicks + size) * np.log((mean + size) / (times * mean + size))
            for i, part in enumerate(PARTS):
                # log(1 - part * min(1, (times - 1) x)) >= -part (times - 1) x / (1 - part)
                charge = part * (times - 1) * rest / (1 - part)
                self.log[i, j] += float(np.logaddexp(np.log1p(-part), np.log(part) + ratio).sum()) - charge

    def learn(self, clicks: F64, squares: float) -> None:
        """Take in how often users clicked twice: `clicks` [users], and the sum of squared expectations of all users."""
        self.pairs = 0.995 * self.pairs + float((clicks * (clicks - 1)).sum())
        self.exposed = 0.995 * self.exposed + squares

    def evidence(self) -> float:
        """Log of the statistic (hours), a mixture over parts and times with equal weights."""
        return float(np.logaddexp.reduce(self.log.ravel()) - np.log(self.log.size))

    def onset_hour(self) -> float:
        """Hour of the start that the statistic mostly stems from."""
        return float(self.since.ravel()[int(np.argmax(self.log))])

    def hold(self, surplus: float) -> None:
        """Take `surplus` (nats) of evidence away."""
        self.log -= surplus

    def restart(self) -> None:
        """Drop all evidence."""
        self.log[:] = -np.inf
