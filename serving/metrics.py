"""What the endpoint counts and times, for Prometheus.  Used by `serving.app` and the doors of POST /v1/rank.

A request changes plain lists and dictionaries; they become Prometheus' families when somebody scrapes.  The client library's
own objects lock and label on each change, which for a dozen series a request costs more than decoding it.  Label values come
from fixed sets (routes, stages, views, arms, models, status codes), never from a request, so the series are bounded.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from serving.scorer import STAGES, Answer

# Seconds.  The fast end resolves a stage of the scorer, the slow end one that waits for a store.
_BUCKETS = (2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1.0, 2.5)
_BUCKETS_NS = tuple(int(seconds * 1e9) for seconds in _BUCKETS)
_NAMES = (*map(str, _BUCKETS), "+Inf")
ROUTES = ("rank", "events", "rollout", "other")
SHED = ("full", "late")  # why a request was refused under overload
STEPS = ("stale features", "priors", "popularity")  # see features.batch.Degraded
PLAIN = {
    "candidates": "Candidate ads scored.",
    "unknown_users": "Requests of unknown users.",
    "unknown_ads": "Unknown candidate ads.",
    "randomised": "Requests answered in random order.",
}
TIMED = ("decode", *STAGES, "answer")


class Times(msgspec.Struct, array_like=True):
    """A histogram: counts by bucket, and the sum."""

    counts: list[int]
    total_ns: int = 0

    def add(self, ns: int) -> None:
        """One more."""
        self.counts[bisect_left(_BUCKETS_NS, ns)] += 1
        self.total_ns += ns

    def family(self) -> tuple[list[tuple[str, float]], float]:
        """(cumulative counts by bucket, sum in seconds)."""
        return list(zip(_NAMES, map(float, accumulate(self.counts)), strict=True)), self.total_ns / 1e9


def _times() -> Times:
    return Times([0] * len(_NAMES))


class Counts(msgspec.Struct):
    """Everything counted and timed: of a process, or of several added up.  Keys are label values."""

    requests: dict[tuple[str, str], int] = msgspec.field(default_factory=dict)  # route, status
    arms: dict[str, int] = msgspec.field(default_factory=dict)
    fallbacks: dict[tuple[str, str], int] = msgspec.field(default_factory=dict)  # view, kind
    degraded: dict[str, int] = msgspec.field(default_factory=lambda: dict.fromkeys(STEPS, 0))
    cache: dict[str, int] = msgspec.field(default_factory=lambda: dict.fromkeys(("hit", "miss"), 0))  # of users
    clicks: dict[str, int] = msgspec.field(default_factory=lambda: dict.fromkeys(("accepted", "duplicate"), 0))
    shed: dict[str, int] = msgspec.field(default_factory=lambda: dict.fromkeys(SHED, 0))
    plain: dict[str, int] = msgspec.field(default_factory=lambda: dict.fromkeys(PLAIN, 0))
    rank: Times = msgspec.field(default_factory=_times)
    stages: dict[str, Times] = msgspec.field(default_factory=lambda: {name: _times() for name in TIMED})

    def plus(self, other: "Counts") -> "Counts":
        """Both together."""
        stages = {name: _sum(times, other.stages[name]) for name, times in self.stages.items()}
        added = {
            name: _added(getattr(self, name), getattr(other, name))
            for name in ("requests", "arms", "fallbacks", "degraded", "cache", "clicks", "shed", "plain")
        }
        return Counts(**added, rank=_sum(self.rank, other.rank), stages=stages)


def _added(one: dict[Any, int], other: dict[Any, int]) -> dict[Any, int]:
    return {key: one.get(key, 0) + other.get(key, 0) for key in {**one, **other}}


def _sum(one: Times, other: Times) -> Times:
    return Times([a + b for a, b in zip(one.counts, other.counts, strict=True)], one.total_ns + other.total_ns)


class ServingMetrics(Collector):
    """One an app, so that several apps can live in one process."""

    def __init__(self, others: Callable[[], Counts] = Counts, before: Counts | None = None) -> None:
        """`others` gives what other workers counted; `before` is what this one counted before it was started again."""
        self.counts = before or Counts()
        self._others = others
        self._stages = [self.counts.stages[name] for name in TIMED]
        self._model: tuple[str, str, str] | None = None
        self._looked_up: Mapping[str, int] = {}
        self._before = dict(self.counts.cache)
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def loaded(self, model: str, encoder: str, family: str, arms: Sequence[str]) -> None:
        """A model is ready to serve."""
        self._model = model, encoder, family
        for arm in arms:
            self.counts.arms.setdefault(arm, 0)

    def watch(self, looked_up: Mapping[str, int]) -> None:
        """From now on users' "hits" and "misses" are counted there."""
        self._looked_up, self._before = looked_up, dict(self.counts.cache)

    def now(self) -> Counts:
        """What this process counted."""
        for outcome, name in (("hit", "hits"), ("miss", "misses")):
            self.counts.cache[outcome] = self._before.get(outcome, 0) + self._looked_up.get(name, 0)
        return self.counts

    def ended(self, route: str, status: int) -> None:
        """A request got its status code."""
        _count(self.counts.requests, (route, str(status)))

    def clicked(self, accepted: int, duplicate: int) -> None:
        """Clicks were written, or had come before."""
        self.counts.clicks["accepted"] += accepted
        self.counts.clicks["duplicate"] += duplicate

    def shed(self, why: str) -> None:
        """A request was refused because too many were waiting ("full"), or it for too long ("late")."""
        self.counts.shed[why] += 1

    def ranked(self, answer: Answer, decode_ns: int, answer_ns: int, total_ns: int) -> None:
        """A slate was answered."""
        counts = self.counts
        counts.rank.add(total_ns)
        for series, ns in zip(self._stages, (decode_ns, *answer.stage_ns, answer_ns), strict=True):
            series.add(ns)
        plain = counts.plain
        plain["candidates"] += len(answer.s)
        _count(counts.arms, answer.arm)
        if answer.slate.randomised:
            plain["randomised"] += 1
        marks = answer.marks
        if marks.degraded:
            counts.degraded[marks.degraded] += 1
        for view in marks.missing:
            _count(counts.fallbacks, (view, "missing"))
        for view in marks.stale:
            _count(counts.fallbacks, (view, "stale"))
        if not marks.user_known:
            plain["unknown_users"] += 1
        plain["unknown_ads"] += len(marks.unknown_ads)

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client: all families as they are now, of all workers together."""
        all_counts = self.now().plus(self._others())
        yield _counter("requests", "Requests by route and status.", ("route", "status"), all_counts.requests)
        rank = HistogramMetricFamily("clickproof_rank_seconds", "From the first byte of a request to its answer.")
        rank.add_metric([], *all_counts.rank.family())
        yield rank
        stages = HistogramMetricFamily("clickproof_stage_seconds", "Time by stage.", labels=["stage"])
        for name, times in all_counts.stages.items():
            stages.add_metric([name], *times.family())
        yield stages
        yield _counter("arm_requests", "Requests by experiment arm.", ("arm",), all_counts.arms)
        yield _counter("fallbacks", "Requests for which a view was missing or stale.", ("view", "kind"), all_counts.fallbacks)
        yield _counter("degraded", "Requests answered with less than they should be.", ("step",), all_counts.degraded)
        yield _counter("user_cache", "Users' rows looked for in the process, by outcome.", ("outcome",), all_counts.cache)
        yield _counter("clicks", "Clicks sent, by what became of them.", ("outcome",), all_counts.clicks)
        yield _counter("shed", "Requests refused under overload.", ("why",), all_counts.shed)
        for name, said in PLAIN.items():
            yield CounterMetricFamily(f"clickproof_{name}", said, value=all_counts.plain[name])
        yield GaugeMetricFamily("clickproof_ready", "1 once a model is loaded.", value=float(self._model is not None))
        info = GaugeMetricFamily("clickproof_model_info", "The model that is served.", labels=["model", "encoder", "family"])
        if self._model is not None:
            info.add_metric(list(self._model), 1.0)
        yield info

    def text(self) -> bytes:
        """All series in Prometheus' text format."""
        return generate_latest(self.registry)


def _count(counts: dict[Any, int], key: Any) -> None:
    counts[key] = counts.get(key, 0) + 1


def _counter(name: str, said: str, labels: tuple[str, ...], counts: Mapping[Any, int]) -> Metric:
    family = CounterMetricFamily(f"clickproof_{name}", said, labels=labels)
    for values, count in sorted(counts.items()):
        family.add_metric(list(values) if isinstance(values, tuple) else [values], count)
    return family
