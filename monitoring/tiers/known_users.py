"""Which arm was each user first seen in?  The memory behind the experiment tier's stickiness and first-seen counts.  Pure."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]

MOST = 2_000_000  # users remembered: 24 MB


@dataclass(slots=True)
class KnownUsers:
    """Hashed users, ascending, with the code of their arm."""

    users: U64 = field(default_factory=lambda: np.zeros(0, np.uint64))
    arms: I64 = field(default_factory=lambda: np.zeros(0, np.int64))

    def arms_of(self, users: U64) -> I64:
        """Arm codes [n] of users, -1 of those never seen."""
        if not len(self.users):
            return np.full(len(users), -1, np.int64)
        place = np.minimum(np.searchsorted(self.users, users), len(self.users) - 1)
        return np.where(self.users[place] == users, self.arms[place], -1)

    def add(self, users: U64, arms: I64) -> None:
        """Remember users [n], distinct and none of them known."""
        if len(self.users) + len(users) > MOST:
            return
        place = np.searchsorted(self.users, np.sort(users))
        order = np.argsort(users, kind="stable")
        self.users = np.insert(self.users, place, users[order])
        self.arms = np.insert(self.arms, place, arms[order])
