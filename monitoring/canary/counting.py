"""From what the two logs say to the counts of both arms: the guard's bookkeeping.  Pure; `pipelines.canary_watch` feeds it.

Requests count at once.  A shown ad counts when its label is due, LABEL_US after it was shown, with a click if one came within
that time: in both arms at the same age, so that clicks which take long are missing in both alike.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from monitoring.canary.counts import Counts, nothing, of_labels, of_requests

I64 = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]

LABEL_US = 10 * 60 * 1_000_000  # most clicks come within minutes of the impression; the guard can't wait for the last ones


class Answered(NamedTuple):
    """What the prediction log says of one request."""

    arm: str
    answered_by: str  # an artefact's hash, or what stood in for it
    user_id: int
    time_us: int
    took_us: int
    impression_id: I64  # [k] shown ads
    p: F32  # [k]


class _Shown(NamedTuple):
    """Shown ads [m] of one arm that wait for their labels."""

    impression_id: I64
    user_id: I64
    time_us: I64
    p: F32

    @classmethod
    def joined(cls, parts: "Sequence[_Shown]") -> "_Shown":
        """One behind the other."""
        return cls(
            np.concatenate([part.impression_id for part in parts]),
            np.concatenate([part.user_id for part in parts]),
            np.concatenate([part.time_us for part in parts]),
            np.concatenate([part.p for part in parts]),
        )

    def of(self, chosen: npt.NDArray[np.bool_]) -> "_Shown":
        """Some of them."""
        return _Shown(self.impression_id[chosen], self.user_id[chosen], self.time_us[chosen], self.p[chosen])


class Counting:
    """Both arms of one canary at one share, from now on."""

    def __init__(self, canary: str, artefact: str, champions: Collection[str], champion: str) -> None:
        """`canary` and `champions` are arms; `artefact` and `champion` who should answer them."""
        self._expected = {canary: artefact, **dict.fromkeys(champions, champion)}
        self._canary = canary
        self._counts = {True: nothing(), False: nothing()}  # by whether it is the canary
        self._waiting: dict[bool, list[_Shown]] = {True: [], False: []}
        self._clicked: dict[int, int] = {}  # impression -> time of its first click
        self.now_us = 0  # by the log

    @property
    def canary(self) -> Counts:
        """Counted so far."""
        return self._counts[True]

    @property
    def champion(self) -> Counts:
        """Counted so far, of all arms that the champion answers."""
        return self._counts[False]

    def answered(self, requests: Iterable[Answered]) -> None:
        """Requests in the order of the log.  Those answered by another model, as just before a change, count for nobody; those
        that no model answered, as errors."""
        mine: dict[bool, list[Answered]] = {True: [], False: []}
        failed = {True: 0, False: 0}
        for request in requests:
            self.now_us = max(self.now_us, request.time_us)
            expected = self._expected.get(request.arm)
            if expected is None:
                continue
            if request.answered_by == expected:
                mine[request.arm == self._canary].append(request)
            elif not _is_hash(request.answered_by):
                failed[request.arm == self._canary] += 1
        for canary, found in mine.items():
            seconds = np.array([request.took_us for request in found]) / 1e6
            self._counts[canary] += of_requests(seconds, failed[canary])
            if found:
                self._waiting[canary].append(_shown(found))

    def clicked(self, clicks: Iterable[tuple[int, int]]) -> None:
        """(impression, time of the click, us) each."""
        for impression, time_us in clicks:
            self._clicked[impression] = min(time_us, self._clicked.get(impression, time_us))

    def label(self, now_us: int = 0) -> None:
        """Count the shown ads whose labels are due at `now_us`, or by what the log says that it is."""
        self.now_us = max(self.now_us, now_us)
        until_us = self.now_us - LABEL_US
        for canary, waiting in self._waiting.items():
            if not waiting:
                continue
            pending = _Shown.joined(waiting)
            due = pending.time_us <= until_us
            self._waiting[canary] = [pending.of(~due)]
            shown = pending.of(due)
            if len(shown.p):
                never = np.iinfo(np.int64).max
                at_us = np.array([self._clicked.get(one, never) for one in shown.impression_id.tolist()], np.int64)
                in_time = (at_us != never) & (at_us - np.where(at_us == never, 0, shown.time_us) <= LABEL_US)
                self._counts[canary] += of_labels(shown.user_id, shown.p.astype(np.float64), in_time)
        self._clicked = {one: at for one, at in self._clicked.items() if at > until_us - LABEL_US}


def _shown(requests: list[Answered]) -> _Shown:
    counts = [len(request.p) for request in requests]
    return _Shown(
        np.concatenate([request.impression_id for request in requests]),
        np.repeat(np.array([request.user_id for request in requests], np.int64), counts),
        np.repeat(np.array([request.time_us for request in requests], np.int64), counts),
        np.concatenate([request.p for request in requests]),
    )


def _is_hash(name: str) -> bool:
    """Whether a name is an artefact's, not that of what stands in for one."""
    return len(name) == 16 and all(letter in "0123456789abcdef" for letter in name)
