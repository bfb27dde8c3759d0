"""What the endpoint counts and times, for Prometheus.  Used by `serving.app` and the doors of POST /v1/rank.

A request changes plain lists and dictionaries; they become Prometheus' families when somebody scrapes.  The client library's own
objects lock and label on each change, which for a dozen series a request costs more than decoding it.  Label values come
from fixed sets (routes, stages, views, arms, models, status codes), never from a request, so the series are bounded.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from serving.scorer import STAGES, Answer

# Seconds.  The fast end resolves a stage of the scorer, the slow end one that waits for a store.
_BUCKETS = (2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1.0, 2.5)
_BUCKETS_NS = tuple(int(seconds * 1e9) for seconds in _BUCKETS)
_NAMES = (*map(str, _BUCKETS), "+Inf")
ROUTES = ("rank", "other")
SHED = ("full", "late")  # why a request was refused under overload
TIMED = ("decode", *STAGES, "answer")


class _Times:
    """A histogram."""

    __slots__ = ("counts", "total_ns")

    def __init__(self) -> None:
        self.counts = [0] * len(_NAMES)
        self.total_ns = 0

    def add(self, ns: int) -> None:
        self.counts[bisect_left(_BUCKETS_NS, ns)] += 1
        self.total_ns += ns

    def family(self) -> tuple[list[tuple[str, float]], float]:
        """(cumulative counts by bucket, sum in seconds)."""
        return list(zip(_NAMES, map(float, accumulate(self.counts)), strict=True)), self.total_ns / 1e9


class ServingMetrics(Collector):
    """One an app, so that several apps can live in one process."""

    def __init__(self) -> None:
        self._requests: Counter[tuple[str, str]] = Counter()
        self._rank = _Times()
        self._stages = [_Times() for _ in TIMED]
        self._arms: Counter[str] = Counter()
        self._fallbacks: Counter[tuple[str, str]] = Counter()
        self._degraded: Counter[str] = Counter({"stale features": 0, "priors": 0, "popularity": 0})
        self._shed: Counter[str] = Counter(dict.fromkeys(SHED, 0))
        self._plain: Counter[str] = Counter(dict.fromkeys(("candidates", "unknown_users", "unknown_ads", "randomised"), 0))
        self._model: tuple[str, str, str] | None = None
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def loaded(self, model: str, encoder: str, family: str, arms: Sequence[str]) -> None:
        """A model is ready to serve."""
        self._model = model, encoder, family
        for arm in arms:
            self._arms[arm] += 0

    def ended(self, route: str, status: int) -> None:
        """A request got its status code."""
        self._requests[route, str(status)] += 1

    def shed(self, why: str) -> None:
        """A request was refused because too many were waiting ("full"), or it for too long ("late")."""
        self._shed[why] += 1

    def ranked(self, answer: Answer, decode_ns: int, answer_ns: int, total_ns: int) -> None:
        """A slate was answered."""
        self._rank.add(total_ns)
        for series, ns in zip(self._stages, (decode_ns, *answer.stage_ns, answer_ns), strict=True):
            series.add(ns)
        plain = self._plain
        plain["candidates"] += len(answer.s)
        self._arms[answer.arm] += 1
        if answer.slate.randomised:
            plain["randomised"] += 1
        marks = answer.marks
        if marks.degraded:
            self._degraded[marks.degraded] += 1
        for view in marks.missing:
            self._fallbacks[view, "missing"] += 1
        for view in marks.stale:
            self._fallbacks[view, "stale"] += 1
        if not marks.user_known:
            plain["unknown_users"] += 1
        plain["unknown_ads"] += len(marks.unknown_ads)

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client: all families as they are now."""
        yield _counter("requests", "Requests by route and status.", ("route", "status"), self._requests)
        rank = HistogramMetricFamily("clickproof_rank_seconds", "From the first byte of a request to its answer.")
        rank.add_metric([], *self._rank.family())
        yield rank
        stages = HistogramMetricFamily("clickproof_stage_seconds", "Time by stage.", labels=["stage"])
        for name, times in zip(TIMED, self._stages, strict=True):
            stages.add_metric([name], *times.family())
        yield stages
        yield _counter("arm_requests", "Requests by experiment arm.", ("arm",), {(arm,): n for arm, n in self._arms.items()})
        yield _counter("fallbacks", "Requests for which a view was missing or stale.", ("view", "kind"), self._fallbacks)
        yield _counter(
            "degraded", "Requests answered with less than they should be.", ("step",),
            {(step.replace(" ", "-"),): n for step, n in self._degraded.items()},
        )  # fmt: skip
        yield _counter("shed", "Requests refused under overload.", ("why",), {(why,): n for why, n in self._shed.items()})
        for name, said in (
            ("candidates", "Candidate ads scored."),
            ("unknown_users", "Requests of unknown users."),
            ("unknown_ads", "Unknown candidate ads."),
            ("randomised", "Requests answered in random order."),
        ):
            yield CounterMetricFamily(f"clickproof_{name}", said, value=self._plain[name])
        yield GaugeMetricFamily("clickproof_ready", "1 once a model is loaded.", value=float(self._model is not None))
        info = GaugeMetricFamily("clickproof_model_info", "The model that is served.", labels=["model", "encoder", "family"])
        if self._model is not None:
            info.add_metric(list(self._model), 1.0)
        yield info

    def text(self) -> bytes:
        """All series in Prometheus' text format."""
        return generate_latest(self.registry)


def _counter(name: str, said: str, labels: tuple[str, ...], counts: dict[tuple[str, ...], int] | Counter) -> Metric:
    family = CounterMetricFamily(f"clickproof_{name}", said, labels=labels)
    for values, count in sorted(counts.items()):
        family.add_metric(list(values), count)
    return family
