"""What the guard of a canary knows of an arm: requests, errors, latencies, and how predictions did, by bucket of users.

Sums that only grow, so that whoever answers requests adds to them and a look costs nothing.  Count both arms over the same
time at one share, and begin anew when the share changes: then whatever moves all users moves both arms alike.
"""

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from features.ids import text_id, uniform

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

# Users by hash.  A user keeps to an arm, so what users differ by does not average out with their rows; how much buckets of
# users scatter says how much it is.
BUCKETS = 32
EDGES_S = tuple(1e-4 * 2 ** (i / 4) for i in range(65))  # upper ends of latency bins: 0.1 ms to 6.6 s, 19% apart
_SALT = text_id("canary guard")
_LEAST_P = 1e-9  # log loss of a p of 0 or 1


@dataclass(frozen=True, slots=True)
class Counts:
    """One arm.  Arrays are float64: bins [66] by the time that requests took, and buckets [32] by user."""

    requests: int
    errors: int  # of the requests: not answered, or answered by a fallback
    latency: F64  # [66] requests by time taken, the last bin above all of EDGES_S
    impressions: F64  # [32] shown ads whose label is due, at the same age in both arms
    clicks: F64  # [32] of these
    sum_p: F64  # [32]
    log_loss: F64  # [32] sums, nats

    def __add__(self, more: "Counts") -> "Counts":
        return Counts(*(getattr(self, field.name) + getattr(more, field.name) for field in fields(self)))


def nothing() -> Counts:
    """An arm at its start."""
    bins, buckets = np.zeros(len(EDGES_S) + 1), np.zeros(BUCKETS)
    return Counts(0, 0, bins, buckets, buckets, buckets, buckets)


def of_requests(seconds: F64, failed: int = 0) -> Counts:
    """Requests answered within `seconds` [n] each, and `failed` ones besides."""
    binned = np.bincount(np.searchsorted(EDGES_S, seconds), minlength=len(EDGES_S) + 1).astype(np.float64)
    empty = np.zeros(BUCKETS)
    return Counts(len(seconds) + failed, failed, binned, empty, empty, empty, empty)


def of_labels(user_id: I64, p: F64, clicked: npt.NDArray[np.bool_]) -> Counts:
    """Shown ads [n] whose label is due: their user, the p that was logged, whether they were clicked.

    A label is due once the impression is as old as the wait for clicks; earlier for clicked ones would favour clicks.
    """
    at = bucket_of(user_id)
    likelihood = np.where(clicked, p, 1.0 - p)
    loss = -np.log(np.clip(likelihood, _LEAST_P, None))

    def by_bucket(values: F64) -> F64:
        return np.bincount(at, values, minlength=BUCKETS).astype(np.float64)

    sums = (by_bucket(values) for values in (np.ones(len(p)), clicked.astype(np.float64), p, loss))
    return Counts(0, 0, np.zeros(len(EDGES_S) + 1), *sums)


def bucket_of(user_id: I64) -> I64:
    """The bucket of each user [n]."""
    return (uniform(_SALT, user_id) * BUCKETS).astype(np.int64)
