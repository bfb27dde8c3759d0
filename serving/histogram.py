"""A histogram of durations as plain numbers: cheap to change, easy to add up.  For `serving.metrics` and what it watches."""

from bisect import bisect_left
from itertools import accumulate

import msgspec

# Seconds.  The fast end resolves a stage of the scorer, the slow end one that waits for a store or a disk.
BUCKETS = (2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1.0, 2.5)
_BUCKETS_NS = tuple(int(seconds * 1e9) for seconds in BUCKETS)
_NAMES = (*map(str, BUCKETS), "+Inf")


class Times(msgspec.Struct, array_like=True):
    """Counts by bucket, and the sum."""

    counts: list[int]
    total_ns: int = 0

    @classmethod
    def none(cls) -> "Times":
        """Of nothing yet."""
        return cls([0] * len(_NAMES))

    def add(self, ns: int) -> None:
        """One more."""
        self.counts[bisect_left(_BUCKETS_NS, ns)] += 1
        self.total_ns += ns

    def plus(self, other: "Times", sign: int = 1) -> "Times":
        """Both together; with sign -1, what came after the other."""
        counts = [a + sign * b for a, b in zip(self.counts, other.counts, strict=True)]
        return Times(counts, self.total_ns + sign * other.total_ns)

    def family(self) -> tuple[list[tuple[str, float]], float]:
        """(cumulative counts by bucket, sum in seconds), as Prometheus has them."""
        return list(zip(_NAMES, map(float, accumulate(self.counts)), strict=True)), self.total_ns / 1e9
