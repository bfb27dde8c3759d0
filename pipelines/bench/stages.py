"""Where a request's time goes inside the server, from its own /metrics.  Pure; used by `pipelines.bench.serve`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

STAGE, WHOLE, CACHE = "clickproof_stage_seconds", "clickproof_rank_seconds", "clickproof_user_cache"
TOLERANCE = 0.1
HTTP, BACKGROUND = "HTTP", "background threads"


@dataclass(frozen=True, slots=True)
class Sums:
    """What a server has counted: since its start, or between two moments."""

    seconds: Mapping[str, float] = field(default_factory=dict)  # by stage
    count: float = 0.0  # requests ranked
    cache: Mapping[str, float] = field(default_factory=dict)  # users looked up in its cache, by outcome (hit, miss)

    def plus(self, other: "Sums", sign: int = 1) -> "Sums":
        """Both together."""
        return Sums(
            _added(self.seconds, other.seconds, sign), self.count + sign * other.count, _added(self.cache, other.cache, sign)
        )

    def since(self, before: "Sums") -> "Sums":
        """What came after `before`."""
        return self.plus(before, -1)

    @property
    def hit_rate(self) -> float | None:
        """Share of users found in the server's cache; None for a server without one."""
        looked = sum(self.cache.values())
        return round(self.cache.get("hit", 0.0) / looked, 4) if looked else None


def _added(one: Mapping[str, float], other: Mapping[str, float], sign: int) -> dict[str, float]:
    return {name: one.get(name, 0.0) + sign * other.get(name, 0.0) for name in {**one, **other}}


def sums(text: str) -> Sums:
    """What /metrics says."""
    seconds: dict[str, float] = {}
    cache: dict[str, float] = {}
    count = 0.0
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == f"{STAGE}_sum":
                seconds[sample.labels["stage"]] = sample.value
            elif sample.name == f"{WHOLE}_count":
                count = sample.value
            elif sample.name == f"{CACHE}_total":
                cache[next(iter(sample.labels.values()))] = sample.value
    return Sums(seconds, count, cache)


def budget(found: Sums, cpu_us: float, http_us: float, background_us: float) -> dict[str, Any]:
    """Microseconds of a request by stage: the server's own stages, HTTP as a server that does nothing else has it, what threads
    in the background took, and the rest.

    `found` is of a server whose stages are timed by processor time (`pipelines.bench.cpu_clock`).  `adds_up` is the share of
    the measured processor time that all these explain: within TOLERANCE of 1, or something costs time unseen.
    """
    explained = {name: s / found.count * 1e6 for name, s in found.seconds.items()} | {HTTP: http_us, BACKGROUND: background_us}
    whole = sum(explained.values())
    return {
        "us": {name: round(us, 1) for name, us in explained.items()},
        "rest": round(cpu_us - whole, 1),
        "cpu_us": round(cpu_us, 1),
        "adds_up": round(whole / cpu_us, 3),
    }


def adds_up(found: Mapping[str, Any]) -> bool:
    """Whether a budget explains the request's processor time."""
    return abs(float(found["adds_up"]) - 1) <= TOLERANCE
