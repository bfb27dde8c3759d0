"""What the endpoint counts and times, for Prometheus.  Used by `serving.app` and the doors of POST /v1/rank.

A request changes plain lists and dictionaries; `serving.exposition` makes Prometheus' families of them when somebody scrapes.
The client library's own objects lock and label on each change, which for a dozen series a request costs more than decoding it.
Label values come from fixed sets (routes, stages, views, arms, models, status codes), never from a request, so the series are
bounded.  What others count anyway (the feature source, the logs) is not counted again, but read there: see `watch`.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from features.online import OnlineSource
from infra.clock import Clock
from serving.counts import TIMED, Answers, Counts
from serving.exposition import Seen, families
from serving.gauges import Gauges, Model, Told, disk_free_bytes, process
from serving.scorer import Answer
from serving.segment_log import LogCounts, SegmentLog

ROUTES = ("rank", "events", "rollout", "other")
_CACHE = {"hits": "hit", "misses": "miss"}


class ServingMetrics(Collector):
    """One an app, so that several apps can live in one process."""

    def __init__(
        self, others: Callable[[], Sequence[Told]] = tuple, before: Counts | None = None, number: int = 0, workers: int = 1
    ) -> None:
        """Of worker `number` among `workers`.  `others` gives what the others told; `before` is what this one counted before it
        was started again."""
        self.counts = before or Counts()
        self.number = number
        self._others, self._workers = others, workers
        self._stages = [self.counts.stages[name] for name in TIMED]
        self._champion: Model | None = None
        self._others_held: tuple[Model, ...] = ()
        self._rollout = self._refused = self._sent_back = 0
        self._shadows_behind_s: Callable[[], float] = float
        self._clock: Clock | None = None
        self._reading = threading.Lock()  # of what is read elsewhere: here it is, with what was read there before
        self._sources: dict[OnlineSource, Counter[str]] = {}
        self._logs: dict[str, tuple[SegmentLog, LogCounts]] = {}
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def loaded(self, model: str, encoder: str, family: str, arms: Mapping[str, str]) -> None:
        """A champion is ready to answer; `arms` says which model answers each arm."""
        self._champion = model, encoder, family
        for each in arms.items():
            self.counts.answers.setdefault(each, Answers())

    def rollout(
        self,
        number: int,
        others: Sequence[Model] = (),
        refused: int = 0,
        sent_back: int = 0,
        shadows_behind_s: Callable[[], float] = float,
    ) -> None:
        """The rollout document that is gone by now, the models beside its champion that answer, how many of its models may not,
        how many canaries of this home were sent back so far, and how late its shadows are."""
        self._shadows_behind_s = shadows_behind_s
        self._rollout, self._others_held, self._refused, self._sent_back = number, tuple(others), refused, sent_back

    def watch(self, sources: Iterable[OnlineSource], clock: Clock) -> None:
        """From now on features come from these.  Their ages are told, by this clock; what they count is counted."""
        with self._reading:
            self._read()  # a last time from those that go
            before = self._sources
            self._sources = {source: before[source] if source in before else _counted(source) for source in sources}
            self._clock = clock
            for source in self._sources:
                for view in source.views:
                    for kind in ("missing", "stale"):
                        self.counts.rows.setdefault((view.name, kind), 0)
                        self.counts.fallbacks.setdefault((view.name, kind), 0)

    def watch_log(self, name: str, log: SegmentLog) -> None:
        """From now on "predictions" or "events" go there.  Watching it again changes nothing."""
        with self._reading:
            self._read()
            if name not in self._logs or self._logs[name][0] is not log:
                self._logs[name] = log, LogCounts()

    def now(self) -> Told:
        """What this process counted, and how it stands."""
        with self._reading:
            self._read()
            sources, logs = list(self._sources), {name: log for name, (log, _) in self._logs.items()}
        gauges = Gauges(
            models=() if self._champion is None else tuple(dict.fromkeys((self._champion, *self._others_held))),
            rollout=self._rollout,
            refused=self._refused,
            sent_back=self._sent_back,
            shadows_behind_s=self._shadows_behind_s(),
            unsynced_s={name: log.unsynced_s() for name, log in logs.items()},
            disk_free_bytes=disk_free_bytes(logs["predictions"].path.parent) if "predictions" in logs else None,
            process=process(),
        )
        if self._clock is not None:
            now_us = self._clock.now_us()
            for source in sources:
                gauges.ages_s |= source.ages_s(now_us)
                gauges.max_ages_s |= {v.name: float(v.max_age_s) for v in source.views if v.max_age_s is not None}
        return Told(self.number, self.counts, gauges)

    def _read(self) -> None:
        """Count what was counted elsewhere since the last time."""
        for source, before in self._sources.items():
            found = _counted(source)
            for name, count in (found - before).items():
                place, key = _place(self.counts, name)
                _count(place, key, count)
            self._sources[source] = found
        for name, (log, earlier) in self._logs.items():
            after = LogCounts().plus(log.counts)
            self.counts.logs[name] = self.counts.logs[name].plus(after.plus(earlier, -1))
            self._logs[name] = log, after

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
        given = counts.answers.get((answer.arm, answer.model))
        if given is None:
            given = counts.answers[answer.arm, answer.model] = Answers()
        p = answer.p.tolist()
        given.slates += 1
        given.ads += len(p)
        given.clicks += sum(p)
        plain = counts.plain
        plain["candidates"] += len(answer.s)
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
        told = [self.now(), *self._others()]
        counts = Counts()
        for one in told:
            counts = counts.plus(one.counts)
        return families(Seen(counts, [one for one in told if one.gauges.fresh], self._workers))

    def text(self) -> bytes:
        """All series in Prometheus' text format."""
        return generate_latest(self.registry)


def _count(counts: dict[Any, int], key: Any, by: int = 1) -> None:
    counts[key] = counts.get(key, 0) + by


def _counted(source: OnlineSource) -> Counter[str]:
    """Everything that a source counted so far."""
    return Counter(source.counts) + Counter(source.users.counts)


def _place(counts: Counts, name: str) -> tuple[dict[Any, int], Any]:
    """Where something that a source counts is counted: "hits", "misses", "store.ERROR", "refresh.failed", "VIEW.missing"."""
    if name in _CACHE:
        return counts.cache, _CACHE[name]
    first, _, last = name.partition(".")
    if first == "refresh":
        return counts.store, first
    return (counts.store, last) if first == "store" else (counts.rows, (first, last))
