"""Which arm of an experiment a user is in: sticky, because it is a hash of (salt, user) and nothing else.

Called by `serving.scorer` for every request, whether or not anything is shown, so that the experiment's statistics can check
that the arms have the sizes they should have.
"""

from bisect import bisect_right
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from features.ids import text_id, uniform, uniform_one


@dataclass(frozen=True, slots=True)
class Assignment:
    """An experiment: its salt, and the arms with the shares of users they should get."""

    salt: str
    arms: tuple[str, ...] = ("control",)
    weights: tuple[float, ...] = (1.0,)
    _salt_id: int = field(init=False, repr=False)
    _edges: tuple[float, ...] = field(init=False, repr=False)  # upper end of each arm but the last, in [0, 1]

    def __post_init__(self) -> None:
        if not self.arms or len(self.arms) != len(self.weights) or len(set(self.arms)) != len(self.arms):
            raise ValueError(f"an experiment needs distinct arms with one weight each, not {self.arms} with {self.weights}")
        if min(self.weights) < 0 or not np.isfinite(sum(self.weights)) or sum(self.weights) <= 0:
            raise ValueError(f"weights of arms must not be negative and must not all be zero: {self.weights}")
        edges = np.cumsum(self.weights)[:-1] / sum(self.weights)
        object.__setattr__(self, "_salt_id", text_id(self.salt))
        object.__setattr__(self, "_edges", tuple(float(edge) for edge in edges))

    def arm(self, user_id: int, request_id: int) -> str:
        """The arm of a user.  Someone unknown (user_id -1) can't be recognised and is assigned request by request."""
        if len(self.arms) == 1:
            return self.arms[0]
        return self.arms[bisect_right(self._edges, luck(self._salt_id, user_id, request_id))]

    def arms_of(self, user_id: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Indexes into `arms` of many known users: [n] int64, equal to `arm` one by one."""
        return np.searchsorted(np.asarray(self._edges), uniform(self._salt_id, user_id), side="right").astype(np.int64)


def luck(salt_id: int, user_id: int, request_id: int) -> float:
    """The luck in [0, 1) of a user under a salt; of someone unknown (user_id -1), of the request."""
    return uniform_one(salt_id, user_id) if user_id >= 0 else uniform_one(salt_id, -1, request_id)
