"""Every metric of /metrics: name, type, labels, help, and where its values come from.  docs/watching.md lists this table.

Names follow Prometheus' conventions (prometheus.io/docs/practices/naming): base units, `_total` for what only grows, `_info`
for what is always 1.
Over several workers counters and histograms are added up; the help of a gauge says what it is of theirs.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from serving.counts import Answers, Counts
from serving.gauges import Told
from serving.histogram import Times
from serving.segment_log import LogCounts


class Seen(NamedTuple):
    """What a scrape finds: counts of all workers together, each worker that is there, and how many there should be."""

    counts: Counts
    workers: Sequence[Told]
    wanted: int

    @property
    def ready(self) -> int:
        """Workers with a model."""
        return sum(bool(told.gauges.models) for told in self.workers)


class Family(NamedTuple):
    """One metric.  `read` gives its values by label values: a string where there is one label, a tuple where there are more."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    said: str
    read: Callable[[Seen], Mapping[Any, float | Times]]

    def metric(self, seen: Seen) -> Metric:
        """As prometheus_client prints it."""
        values = sorted((_key(key), value) for key, value in self.read(seen).items())
        if self.kind == "histogram":
            histogram = HistogramMetricFamily(self.name, self.said, labels=self.labels)
            for key, times in values:
                assert isinstance(times, Times)
                histogram.add_metric(key, *times.family())
            return histogram
        kind = CounterMetricFamily if self.kind == "counter" else GaugeMetricFamily
        family = kind(self.name, self.said, labels=self.labels)
        for key, value in values:
            assert not isinstance(value, Times)
            family.add_metric(key, value)
        return family


def _key(key: Any) -> list[str]:
    return [str(part) for part in key] if isinstance(key, tuple) else [str(key)]


def _answers(part: Callable[[Answers], float]) -> Callable[[Seen], Mapping[Any, float]]:
    return lambda seen: {key: part(found) for key, found in seen.counts.answers.items()}


def _logs(part: Callable[[LogCounts], float | Times]) -> Callable[[Seen], Mapping[Any, float | Times]]:
    return lambda seen: {name: part(found) for name, found in seen.counts.logs.items()}


def _plain(name: str) -> Callable[[Seen], Mapping[Any, float]]:
    return lambda seen: {(): seen.counts.plain[name]}


def _largest(gauge: str) -> Callable[[Seen], Mapping[Any, float]]:
    def read(seen: Seen) -> dict[str, float]:
        found: dict[str, float] = {}
        for told in seen.workers:
            for key, value in getattr(told.gauges, gauge).items():
                found[key] = max(value, found.get(key, value))
        return found

    return read


def _disk_free(seen: Seen) -> dict[Any, float]:
    free = [told.gauges.disk_free_bytes for told in seen.workers if told.gauges.disk_free_bytes is not None]
    return {(): min(free)} if free else {}


def _process(name: str) -> Callable[[Seen], Mapping[Any, float]]:
    return lambda seen: {t.number: t.gauges.process[name] for t in seen.workers if name in t.gauges.process}


def _model_workers(seen: Seen) -> dict[str, int]:
    held = [told.gauges.models for told in seen.workers]
    return {model: sum(model in {m for m, *_ in one} for one in held) for models in held for model, *_ in models}


FAMILIES = (
    Family("clickproof_requests_total", "counter", ("route", "status"),
           "Requests by route (grpc: slates by gRPC; other: whatever failed elsewhere) and status.",
           lambda seen: seen.counts.requests),
    Family("clickproof_rank_seconds", "histogram", (), "From the first byte of a request for a slate to its answer.",
           lambda seen: {(): seen.counts.rank}),
    Family("clickproof_stage_seconds", "histogram", ("stage",), "Time of such a request by stage.",
           lambda seen: seen.counts.stages),
    Family("clickproof_shed_total", "counter", ("why",),
           "Requests refused under overload: too many waited to be answered in time (full), or it had for too long (late).",
           lambda seen: seen.counts.shed),
    Family("clickproof_answers_total", "counter", ("arm", "model"), "Slates by experiment arm and model version.",
           _answers(lambda found: found.slates)),
    Family("clickproof_shown_ads_total", "counter", ("arm", "model"), "Ads in those slates.",
           _answers(lambda found: found.ads)),
    Family("clickproof_predicted_clicks_total", "counter", ("arm", "model"),
           "Clicks that those ads were predicted to get: the sum of their click probabilities.",
           _answers(lambda found: found.clicks)),
    Family("clickproof_clicks_total", "counter", ("outcome",), "Clicks sent to POST /v1/events, by what became of them.",
           lambda seen: seen.counts.clicks),
    Family("clickproof_candidates_total", "counter", (), "Candidate ads scored.", _plain("candidates")),
    Family("clickproof_randomised_total", "counter", (), "Slates in random order.", _plain("randomised")),
    Family("clickproof_unknown_users_total", "counter", (), "Requests of unknown users.", _plain("unknown_users")),
    Family("clickproof_unknown_ads_total", "counter", (), "Unknown candidate ads.", _plain("unknown_ads")),
    Family("clickproof_degraded_total", "counter", ("step",),
           "Slates made with less than they should be: stale features, priors for features, popularity for the model.",
           lambda seen: seen.counts.degraded),
    Family("clickproof_fallbacks_total", "counter", ("view", "kind"),
           "Slates for which a feature view was missing or stale for some candidate.", lambda seen: seen.counts.fallbacks),
    Family("clickproof_flawed_rows_total", "counter", ("view", "kind"),
           "Candidates for which a feature view was missing or stale.", lambda seen: seen.counts.rows),
    Family("clickproof_feature_age_seconds", "gauge", ("view",),
           "Age that the view's stored data would have in a request now; the oldest of the workers'.", _largest("ages_s")),
    Family("clickproof_feature_max_age_seconds", "gauge", ("view",), "Age above which the view counts as stale.",
           _largest("max_ages_s")),
    Family("clickproof_user_cache_total", "counter", ("outcome",), "Users' rows looked for in the process, by outcome.",
           lambda seen: seen.counts.cache),
    Family("clickproof_store_failures_total", "counter", ("error",),
           "Reads of the online store that failed, by kind; refresh: of what is kept in the background.",
           lambda seen: seen.counts.store),
    Family("clickproof_ready", "gauge", (), "1 where every worker has a model.",
           lambda seen: {(): float(seen.ready == seen.wanted)}),
    Family("clickproof_workers", "gauge", (), "Processes that should answer requests.", lambda seen: {(): seen.wanted}),
    Family("clickproof_workers_ready", "gauge", (), "Processes that have a model and told so within seconds.",
           lambda seen: {(): seen.ready}),
    Family("clickproof_model_info", "gauge", ("model", "encoder", "family"), "Model versions that answer in some worker.",
           lambda seen: {model: 1 for told in seen.workers for model in told.gauges.models}),
    Family("clickproof_model_workers", "gauge", ("model",), "Workers in which this model version answers.", _model_workers),
    Family("clickproof_rollout_number", "gauge", ("worker",),
           "Number of the rollout document that the worker goes by; 0 where there is none yet.",
           lambda seen: {told.number: told.gauges.rollout for told in seen.workers}),
    Family("clickproof_models_refused", "gauge", (),
           "Models of the rollout document that may not answer, since they fail admission; the most of a worker.",
           lambda seen: {(): max((told.gauges.refused for told in seen.workers), default=0)}),
    Family("clickproof_canary_rollbacks_total", "counter", (),
           "Canaries that were sent back without anybody asking, as the audit log says; the most that a worker knows of.",
           lambda seen: {(): max((told.gauges.sent_back for told in seen.workers), default=0)}),
    Family("clickproof_shadows_behind_seconds", "gauge", (),
           "Since the scorer of shadows last had scored every answer; 0 where there is no shadow.",
           lambda seen: {(): max((told.gauges.shadows_behind_s for told in seen.workers), default=0.0)}),
    Family("clickproof_log_records_total", "counter", ("log",), "Records written to the log.", _logs(lambda log: log.records)),
    Family("clickproof_log_bytes_total", "counter", ("log",), "Bytes written to the log.", _logs(lambda log: log.bytes)),
    Family("clickproof_log_segments_total", "counter", ("log",), "Segments of the log that were opened.",
           _logs(lambda log: log.segments)),
    Family("clickproof_log_write_failures_total", "counter", ("log",),
           "Records that could not be written: no answer was given.",
           _logs(lambda log: log.write_failures)),
    Family("clickproof_log_fsync_seconds", "histogram", ("log",), "How long it took to bring a segment to the disk.",
           _logs(lambda log: log.fsync)),
    Family("clickproof_log_fsync_failures_total", "counter", ("log",),
           "Times that a segment could not be brought to the disk: a loss of power then would have cost answers.",
           _logs(lambda log: log.fsync_failures)),
    Family("clickproof_log_unsynced_seconds", "gauge", ("log",),
           "Age of the oldest record that may not be on the disk; the largest of the workers'.", _largest("unsynced_s")),
    Family("clickproof_disk_free_bytes", "gauge", (), "Room on the disk that the logs are on.",
           _disk_free),
    Family("clickproof_event_loop_lag_seconds", "histogram", (), "How late the event loop was, looked at ten times a second.",
           lambda seen: {(): seen.counts.loop}),
    Family("process_cpu_seconds_total", "counter", ("worker",), "Processor time, user and system.",
           _process("process_cpu_seconds_total")),
    Family("process_resident_memory_bytes", "gauge", ("worker",), "Memory in use (RSS).",
           _process("process_resident_memory_bytes")),
    Family("process_open_fds", "gauge", ("worker",), "Open files and sockets.", _process("process_open_fds")),
    Family("process_max_fds", "gauge", ("worker",), "How many there may be.", _process("process_max_fds")),
    Family("process_start_time_seconds", "gauge", ("worker",), "When the process started, since the epoch.",
           _process("process_start_time_seconds")),
)  # fmt: skip


def families(seen: Seen) -> Iterator[Metric]:
    """All of them."""
    for family in FAMILIES:
        yield family.metric(seen)
