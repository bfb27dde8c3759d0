"""What each user did on each day of a test, and the metrics that are made of it: the input of every other file here.

The user is what was assigned to an arm, so the user is what is counted: rows of one user are not independent.  A metric is a
ratio of two totals of a user's, both counted from the user's first day in the test to the day of the look.  Nobody is left out
by what an arm did to him: a user is in the test from the first visit on, which no arm had a part in.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class UserDays:
    """u users on d + 1 days in a row: the looks of a test are the evenings of the first d, the last day says who came back."""

    user: I64  # [u] distinct ids, ascending
    requests: F64  # [u, d + 1] pages opened
    impressions: F64  # [u, d + 1] ads shown on them
    clicks: F64  # [u, d + 1] clicks on those ads, whenever they came; or what the world expects of them

    @property
    def looks(self) -> int:
        """How often the test can be read: d."""
        return self.requests.shape[1] - 1

    def part(self, first: int, last: int, users: npt.NDArray[np.bool_] | slice = slice(None)) -> "UserDays":
        """The days [first, last) of some users, whether or not they were there."""
        kept = (each[users, first:last] for each in (self.requests, self.impressions, self.clicks))
        return UserDays(self.user[users], *kept)

    def entered(self) -> npt.NDArray[np.bool_]:
        """[u, d] who has been there on some day up to the look's."""
        return np.maximum.accumulate(self.requests > 0, axis=1)[:, :-1]


def user_days(days: int, request_user: I64, request_day: I64, shown_user: I64, shown_day: I64, clicked: F64) -> UserDays:
    """Totals by user and day of requests [n] and impressions [m], whose days are 0 .. `days` - 1.

    `clicked` [m] is 0 or 1, or a probability.  Users without a request are left out, with what was shown to them."""
    user = np.unique(request_user)
    shape = len(user), days

    def total(who: I64, day: I64, weight: F64 | None = None) -> F64:
        return np.bincount(who * days + day, weight, minlength=len(user) * days).reshape(shape).astype(np.float64)

    row = np.searchsorted(user, shown_user)
    known = row < len(user)
    known[known] = user[row[known]] == shown_user[known]
    row, day = row[known], shown_day[known]
    requests = total(np.searchsorted(user, request_user), request_day)
    return UserDays(user, requests, total(row, day), total(row, day, clicked[known].astype(np.float64)))


Totals = tuple[F64, F64]  # numerator and denominator [u, d], of each user up to each look


def _ctr(days: UserDays) -> Totals:
    return days.clicks.cumsum(axis=1)[:, :-1], days.impressions.cumsum(axis=1)[:, :-1]


def _engagement(days: UserDays) -> Totals:
    return days.requests.cumsum(axis=1)[:, :-1], days.entered().cumsum(axis=1).astype(np.float64)


def _next_day(days: UserDays) -> Totals:
    there = days.requests > 0
    back = there[:, :-1] & there[:, 1:]
    return back.cumsum(axis=1).astype(np.float64), there[:, :-1].cumsum(axis=1).astype(np.float64)


METRICS: dict[str, Callable[[UserDays], Totals]] = {
    "ctr": _ctr,  # clicks an impression
    "engagement": _engagement,  # pages a user and day since the user's first
    "next-day return": _next_day,  # share of a user's active days that are followed by another
}
