"""What the endpoint counts and times, for Prometheus.  Used by `serving.app`.

Labels come from fixed sets (routes, stages, views, arms, status codes), never from a request, so the number of series is
bounded.
"""

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from serving.scorer import STAGES, Answer

# Seconds.  The fast end resolves a scorer without a network, the slow end one that waits for a store.
_BUCKETS = (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1.0, 2.5)
ROUTES = ("rank", "events", "other")
_NS = 1e-9


class ServingMetrics:
    """One registry an app, so that several apps can live in one process."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._requests = Counter("clickproof_requests", "Requests by route and status.", ["route", "status"], registry=registry)
        self._seconds = Histogram(
            "clickproof_rank_seconds", "From the first byte of a body to the answer.", buckets=_BUCKETS, registry=registry
        )
        stage = Histogram("clickproof_stage_seconds", "Time by stage.", ["stage"], buckets=_BUCKETS, registry=registry)
        self._stages = [stage.labels(name) for name in ("decode", *STAGES, "encode")]
        self._candidates = Counter("clickproof_candidates", "Candidate ads scored.", registry=registry)
        self._fallbacks = Counter(
            "clickproof_fallbacks", "Requests for which a view was missing or stale.", ["view", "kind"], registry=registry
        )
        self._unknown_users = Counter("clickproof_unknown_users", "Requests of unknown users.", registry=registry)
        self._unknown_ads = Counter("clickproof_unknown_ads", "Unknown candidate ads.", registry=registry)
        self._randomised = Counter("clickproof_randomised", "Requests answered in random order.", registry=registry)
        self._arms = Counter("clickproof_arm_requests", "Requests by experiment arm.", ["arm"], registry=registry)
        self._ready = Gauge("clickproof_ready", "1 once a model is loaded.", registry=registry)
        self._model = Gauge(
            "clickproof_model_info", "The model that is served.", ["model", "encoder", "family"], registry=registry
        )

    def loaded(self, model: str, encoder: str, family: str, arms: Sequence[str]) -> None:
        """A model is ready to serve."""
        self._model.labels(model, encoder, family).set(1)
        for arm in arms:
            self._arms.labels(arm)
        self._ready.set(1)

    def ended(self, route: str, status: int) -> None:
        """A request got its status code."""
        self._requests.labels(route, str(status)).inc()

    def ranked(self, answer: Answer, decode_ns: int, encode_ns: int, total_ns: int) -> None:
        """A slate was answered."""
        self._seconds.observe(total_ns * _NS)
        for series, ns in zip(self._stages, (decode_ns, *answer.stage_ns, encode_ns), strict=True):
            series.observe(ns * _NS)
        self._candidates.inc(len(answer.s))
        self._arms.labels(answer.arm).inc()
        if answer.slate.randomised:
            self._randomised.inc()
        marks = answer.marks
        for kind, views in (("missing", marks.missing), ("stale", marks.stale)):
            for view in views:
                self._fallbacks.labels(view, kind).inc()
        if not marks.user_known:
            self._unknown_users.inc()
        if marks.unknown_ads:
            self._unknown_ads.inc(len(marks.unknown_ads))

    def text(self) -> bytes:
        """All series in Prometheus' text format."""
        return generate_latest(self.registry)
