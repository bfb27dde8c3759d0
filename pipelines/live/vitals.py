"""The endpoint's pulse: its own Prometheus metrics, read once a second, as requests a second and latency quantiles.

As a monitoring system would read them; the page and nobody else uses it.
"""

import http.client
import re
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

WINDOW_S = 10.0  # what rates and quantiles are over
TIMEOUT_S = 5.0
_BUCKET = re.compile(r'^clickproof_rank_seconds_bucket\{le="([^"]+)"\} (\S+)$', re.MULTILINE)


@dataclass(slots=True)
class Vitals:
    """The last seconds of one endpoint's counters."""

    port: int
    _seen: deque[tuple[float, dict[float, float]]] = field(default_factory=deque)

    def read(self) -> None:
        """Read the counters now.  Where nobody answers in time there is no pulse, and that is what `now` says."""
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_S)
        try:
            link.request("GET", "/metrics")
            text = link.getresponse().read().decode()
        except OSError:
            self._seen.clear()
            return
        finally:
            link.close()
        self._seen.append((time.perf_counter(), {float(edge): float(count) for edge, count in _BUCKET.findall(text)}))
        while len(self._seen) > 2 and self._seen[0][0] < self._seen[-1][0] - WINDOW_S:
            self._seen.popleft()

    def now(self) -> dict[str, Any]:
        """requests_s, p50_ms, p99_ms over the last seconds; null where nothing was asked or nobody answered."""
        if len(self._seen) < 2:
            return {"requests_s": None, "p50_ms": None, "p99_ms": None}
        (then, before), (at, after) = self._seen[0], self._seen[-1]
        counts = {edge: after[edge] - before.get(edge, 0.0) for edge in after}
        total = max(counts.values(), default=0.0)
        return {"requests_s": total / (at - then), "p50_ms": _quantile(counts, 0.5), "p99_ms": _quantile(counts, 0.99)}


def _quantile(counts: dict[float, float], q: float) -> float | None:
    """A quantile in ms from cumulative buckets (seconds), linear inside a bucket, as Prometheus' histogram_quantile."""
    total = max(counts.values(), default=0.0)
    if total <= 0:
        return None
    low = below = 0.0
    for edge in sorted(counts):
        if counts[edge] >= q * total:
            inside = (q * total - below) / max(counts[edge] - below, 1e-12)
            return 1000 * (low + (edge - low) * inside) if edge != float("inf") else 1000 * low
        low, below = edge, counts[edge]
    return 1000 * low
