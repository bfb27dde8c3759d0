"""Whether clicks concentrate on few users: bots, or one person with a script.

Given the p of what a user was shown, users' clicks are close to independent; a robot clicks many times as often.  Every window
gives an e-value for "a small part of the users click several times as often as predicted" (a sparse mixture: Donoho, Jin 2004,
"Higher criticism for detecting sparse heterogeneous mixtures"), and those run through a Shiryaev-Roberts sum.  Who was
suspicious before is likelier one of them in the next window: that is known beforehand, so each factor's mean stays 1.  Other
users without a click are charged by a bound, so that only clicking users are looked up.  Called by the tier's streams.
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
FADE_H = 12.0  # what an hour showed of a user counts for so long
SUSPICIOUS, MOST_SUSPECTS = 1.0, 2000
SURE = 0.5  # nobody is called a robot with more certainty than this beforehand


@dataclass(slots=True)
class Concentration:
    """A Shiryaev-Roberts sum over windows."""

    pairs: float = 2.0  # sum of k(k-1) over users and windows; the start is a prior of that worth
    exposed: float = 2.0  # sum of squared expectations
    log: F64 = field(default_factory=lambda: np.full((len(PARTS), len(TIMES)), -np.inf))
    climb: F64 = field(default_factory=lambda: np.zeros((len(PARTS), len(TIMES))))
    since: F64 = field(default_factory=lambda: np.zeros((len(PARTS), len(TIMES))))
    suspects: I64 = field(default_factory=lambda: np.empty(0, np.int64))  # keys, sorted
    score: F64 = field(default_factory=lambda: np.zeros((0, len(TIMES))))  # log likelihood ratio of being one, faded

    @property
    def variance(self) -> float:
        """Relative variance of users' rates, as learned."""
        return max(self.pairs / self.exposed - 1.0, LEAST_VARIANCE)

    def see(self, users: I64, clicks: F64, expected: F64, total: float, hour: float, hours: float) -> None:
        """Weigh a window.

        `users` (sorted keys) are those with a click, and suspects; their `clicks` and what was `expected` of them [users];
        `total` is what was expected of everybody.
        """
        size = 1 / self.variance
        rest = max(total - float(expected.sum()), 0.0)
        mean = np.maximum(expected, 1e-4 * (clicks > 0))
        # The onset is where the running sum of log factors was lowest (CUSUM), which a sum over starts does not tell.
        fresh = self.climb <= 0
        self.since, self.climb = np.where(fresh, hour, self.since), np.where(fresh, 0.0, self.climb)
        before = self.log.copy()
        self.log = np.logaddexp(self.log, np.log(hours))
        score = np.zeros((len(users), len(TIMES)))
        if len(self.suspects) and len(users):
            place = np.minimum(np.searchsorted(self.suspects, users), len(self.suspects) - 1)
            score = np.where((self.suspects[place] == users)[:, None], self.score[place], 0.0)
        score = score * np.exp(-hours / FADE_H)
        for j, times in enumerate(TIMES):
            ratio = clicks * np.log(times) + (clicks + size) * np.log((mean + size) / (times * mean + size))
            for i, part in enumerate(PARTS):
                # log(1 - part * min(1, (times - 1) x)) >= -part (times - 1) x / (1 - part)
                charge = part * (times - 1) * rest / (1 - part)
                mine = np.minimum(part * np.exp(np.minimum(score[:, j], 50.0)), SURE)
                self.log[i, j] += float(np.logaddexp(np.log1p(-mine), np.log(mine) + ratio).sum()) - charge
            score[:, j] = np.maximum(score[:, j] + ratio, 0.0)
        self.climb += self.log - np.logaddexp(before, np.log(hours))
        self._suspect(users, score, hours)

    def _suspect(self, users: I64, score: F64, hours: float) -> None:
        away = ~np.isin(self.suspects, users)
        keys = np.concatenate([users, self.suspects[away]])
        scores = np.concatenate([score, self.score[away] * np.exp(-hours / FADE_H)])
        worst = scores.max(axis=1, initial=0.0)
        kept = np.flatnonzero(worst > SUSPICIOUS)
        kept = kept[np.argsort(-worst[kept])[:MOST_SUSPECTS]]
        kept = kept[np.argsort(keys[kept])]
        self.suspects, self.score = keys[kept], scores[kept]

    def learn(self, clicks: F64, squares: float) -> None:
        """Take in how often users clicked twice: `clicks` [users], and the sum of squared expectations of all users."""
        self.pairs = 0.995 * self.pairs + float((clicks * (clicks - 1)).sum())
        self.exposed = 0.995 * self.exposed + squares

    def evidence(self) -> float:
        """Log of the statistic (hours), a mixture over parts and times with equal weights."""
        return float(np.logaddexp.reduce(self.log.ravel()) - np.log(self.log.size))

    def onset_hour(self) -> float:
        """Hour at which the likeliest mixture began to climb."""
        return float(self.since.ravel()[int(np.argmax(self.climb))])

    def hold(self, surplus: float) -> None:
        """Take `surplus` (nats) of evidence away."""
        self.log -= surplus

    def restart(self) -> None:
        """Drop all evidence."""
        self.log[:], self.climb[:] = -np.inf, 0.0
        self.suspects, self.score = self.suspects[:0], self.score[:0]
