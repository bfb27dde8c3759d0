"""What changes as the market goes on: where it stands, what users saw lately, and their mood.  Owned by the market.

Its size is that of the population: it doesn't grow with the days.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from features.schemas import CATEGORIES
from infra.clock import DAY_US
from pipelines.sources.world.truth import FATIGUE_HALF_LIFE_US

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

MEMORY = 0.85  # of yesterday's mood that is left today
USUAL = 0.16  # the interest that users are used to: about what the legacy ranker shows, so that its history is in balance
REACTION = 2.0  # mood per unit of interest above the usual


@dataclass(slots=True)
class Memory:
    """State of a market of u users.  All of it is saved and restored as plain arrays."""

    now_us: int
    day_us: int  # start of the day that mood and exposure refer to
    exposure: F32  # [u, CATEGORIES] ads seen, each weighted 2^((time - day_us) / half-life)
    mood: F64  # [u] log of how much more often the user comes
    relevance: F64  # [u] sum of the interest of today's ads
    shown: F64  # [u] today's ads

    @classmethod
    def blank(cls, users: int, start_us: int) -> "Memory":
        """The state of a market that opens at `start_us`."""
        zero = np.zeros(users)
        return cls(start_us, start_us, np.zeros((users, CATEGORIES), np.float32), zero, zero.copy(), zero.copy())

    def turn_day(self) -> None:
        """Go to the next day: what was seen today decides how much users like to come back."""
        lesson = np.divide(self.relevance - USUAL * self.shown, self.shown, out=np.zeros_like(self.shown), where=self.shown > 0)
        self.mood = np.clip(MEMORY * self.mood + (1 - MEMORY) * REACTION * lesson, -1.0, 1.0)
        self.relevance[:] = 0.0
        self.shown[:] = 0.0
        self.exposure *= np.float32(2.0 ** (-DAY_US / FATIGUE_HALF_LIFE_US))
        self.day_us += DAY_US

    def saw(self, user: I64, category: I64, request_row: I64, time_us: I64) -> F64:
        """Record n ads shown, in time order; returns what each had been preceded by: float64 [n].

        That is the decayed number of ads of the category that the user had seen before the request.

        The count is exact within the chunk too: an ad counts for every later request, not for its own.
        """
        key = user * CATEGORIES + category
        order = np.lexsort((request_row, key))
        ordered_key, row = key[order], request_row[order]
        age = (time_us[order] - self.day_us) / FATIGUE_HALF_LIFE_US
        weight = np.exp2(age)
        before = np.cumsum(weight) - weight  # of all keys; the sum at the key's and the request's first row matters
        new_key = np.ones(len(key), bool)
        new_key[1:] = ordered_key[1:] != ordered_key[:-1]
        new_request = new_key.copy()
        new_request[1:] |= row[1:] != row[:-1]
        at = np.arange(len(key))
        key_start = np.maximum.accumulate(np.where(new_key, at, 0))
        request_start = np.maximum.accumulate(np.where(new_request, at, 0))
        flat = self.exposure.reshape(-1)
        seen = np.empty(len(key))
        seen[order] = (flat[ordered_key] + before[request_start] - before[key_start]) * np.exp2(-age)
        np.add.at(flat, ordered_key, weight.astype(np.float32))
        return seen

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """The whole state as arrays by name."""
        clock = np.array([self.now_us, self.day_us], np.int64)
        return {
            "clock": clock,
            "exposure": self.exposure.copy(),
            "mood": self.mood.copy(),
            "relevance": self.relevance.copy(),
            "shown": self.shown.copy(),
        }

    @classmethod
    def of(cls, arrays: dict[str, npt.NDArray[np.generic]]) -> "Memory":
        """The state that `arrays` gave."""
        clock = arrays["clock"]
        return cls(
            int(clock[0]),
            int(clock[1]),
            np.array(arrays["exposure"], np.float32),
            np.array(arrays["mood"], np.float64),
            np.array(arrays["relevance"], np.float64),
            np.array(arrays["shown"], np.float64),
        )
