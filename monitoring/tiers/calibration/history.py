"""The last weeks in sums, window by window: since when a shift speaks, and the ratios since then.

What a finding's evidence is made of; judging is the tier's.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]

KEPT = 21 * 24  # windows


@dataclass(slots=True)
class Past:
    """One window in sums, bias taken out: what ratios since an onset are made of."""

    hour: float
    start_us: int
    clicks: float
    expected: float
    old: float
    old_expected: float
    lagged: float
    lagged_expected: float
    impressions: int
    sum_p: float
    top_users: float
    by_slice: F64
    odds: F64  # usual log odds of a click being the slice's


class History:
    """Windows in order of time, the newest last."""

    def __init__(self) -> None:
        self._past: deque[Past] = deque(maxlen=KEPT)

    def __iter__(self) -> Iterator[Past]:
        return iter(self._past)

    @property
    def newest(self) -> Past:
        """The window added last."""
        return self._past[-1]

    def add(self, window: Past) -> None:
        """Take in the next window."""
        self._past.append(window)

    def onset(self, step: float, of: F64) -> float:
        """Hour since which clicks and expectations `of` the last windows [windows, 2] speak loudest for that log ratio."""
        speaks = of[:, 0] * step - of[:, 1] * np.expm1(step)  # Poisson log likelihood ratios
        loudest = len(of) - 1 - int(np.argmax(np.cumsum(speaks[::-1])))
        return self._past[len(self._past) - len(of) + loudest].hour

    def since(self, hour: float) -> list[Past]:
        """Windows that began at an hour or later; the newest where there is none."""
        return [p for p in self._past if p.hour >= hour] or [self.newest]

    def ratios(self, since: float, now: float, usual_p: float) -> dict[str, float]:
        """Clicks over expected clicks from an hour until `now`, of all and by age, and how far the mean of p has moved."""
        past = self.since(since)
        clicks, expected = sum(p.clicks for p in past), sum(p.expected for p in past)
        old, old_expected = sum(p.old for p in past), sum(p.old_expected for p in past)
        shown, sum_p = sum(p.impressions for p in past), sum(p.sum_p for p in past)
        found = {
            "ratio": clicks / max(expected, 1e-9), "clicks": clicks, "expected": expected, "hours": now - since,
            "p_change": (sum_p / max(shown, 1)) / max(usual_p, 1e-12),
        }  # fmt: skip
        if old_expected > 0:
            found |= {"ratio_young": (clicks - old) / max(expected - old_expected, 1e-9), "ratio_old": old / old_expected}
        return found
