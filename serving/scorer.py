"""The one path: request -> features -> encode -> model -> calibrate -> policy -> slate -> prediction log.

REST (`serving.app`) and in-process callers use `Scorer.rank`; the batch scorer (`serving.batch`) uses `score_rows`, the same
features and model without a slate.  A `Scorer` holds no state besides what it was given; another model is another `Scorer`.
"""

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from time import monotonic, perf_counter_ns
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from features.batch import (
    F32,
    I64,
    Array,
    Degraded,
    FeatureBatch,
    FeatureSource,
    OneRequest,
    RequestBatch,
    ViewStates,
)
from features.blocks import Blocks
from features.ids import derived_id_one, text_id
from features.online import OnlineSource
from infra.clock import Clock
from models.artefact import Artefact
from models.logit_rows import finite
from serving.fallback import NAME as POPULARITY
from serving.fallback import popularity
from serving.logged_features import logged_features, logged_rows
from serving.marks import Marks, marks
from serving.policy import Policy, Slate
from serving.prediction_log import PredictionLog, Record, pack

STAGES = ("fetch", "encode", "score", "calibrate", "policy", "log")

_log = logging.getLogger("clickproof.serving")


class ScoringArtefact(Protocol):
    """What serving needs of a model version (`models.artefact.Artefact` is one): pure functions of feature columns."""

    @property
    def hash(self) -> str: ...

    @property
    def encoder_hash(self) -> str: ...

    def score(self, columns: Mapping[str, Array]) -> F32:
        """s [n]: calibrated logit of a click, without position."""
        ...

    def probability(self, s: F32, slot: npt.NDArray[np.integer]) -> npt.NDArray[np.floating]:
        """p [n]: click probability at each row's slot, sigmoid(s + b(slot))."""
        ...


class Arms(Protocol):
    """Who gets which arm: an experiment (`serving.assignment.Assignment`), or a whole rollout (`serving.rollout.Router`)."""

    def arm(self, user_id: int, request_id: int) -> str:
        """The arm of a user; of someone unknown (user_id -1), of the request."""
        ...


@dataclass(frozen=True, slots=True)
class RankRequest:
    """Which of n candidate ads to show a user, and in which order."""

    user_id: int  # -1: unknown
    ad_id: I64  # [n], distinct
    slots: int  # ads to show at most
    context: Mapping[str, str | int]
    bid: F32 | None = None  # [n]
    request_id: int | None = None  # None: the scorer makes one
    time_us: int | None = None  # None: the scorer's clock says


class Answer(NamedTuple):
    """A slate and everything that led to it.  Arrays of n are by candidate, arrays of k by slot, top first."""

    request_id: int
    time_us: int
    arm: str
    model: str  # the artefact's hash, or what stood in for it
    slate: Slate
    s: F32  # [n]
    p: F32  # [k] at the slot given
    features: FeatureBatch
    marks: Marks
    stage_ns: tuple[int, ...]  # how long each of STAGES took


class _Model(NamedTuple):
    """A model version with its hashes, computed once: an artefact does not change."""

    artefact: ScoringArtefact
    hash: str
    encoder: str


class _Begun(NamedTuple):
    """A request with its arm, the arm's model and its features."""

    request: RankRequest
    request_id: int
    time_us: int
    arm: str
    model: _Model
    batch: FeatureBatch
    fetch_ns: int


class _Scored(NamedTuple):
    """Scores of a request, what gave them, and how long encoding, model and calibration took: of requests that were scored
    together, each has its share of `step_ns` and the whole of `call_ns`, which its caller waited for."""

    s: F32
    model: str
    encoder: str
    degraded: Degraded
    step_ns: tuple[int, ...]
    call_ns: int


class Scorer:
    """FeatureSource + artefacts + policy + arms + prediction log."""

    def __init__(
        self,
        source: FeatureSource,
        artefact: ScoringArtefact,
        policy: Policy,
        arms: Arms,
        log: PredictionLog | None,
        clock: Clock,
    ) -> None:
        """`log` None is for scoring without serving (`score_rows`); `rank` refuses then."""
        self.source = source
        self.policy = policy
        self.log = log
        self.clock = clock
        self.log_all = False  # whether the features of every candidate are logged: for shadows
        self._put(artefact, arms, {})
        # Ids of requests that come without one: unique because a segment's name never comes back.
        self._origin = text_id(log.path.name) if log is not None else 0
        self._count = count()
        self._said = 0.0

    def _put(self, artefact: ScoringArtefact, arms: Arms, others: Mapping[str, ScoringArtefact]) -> None:
        self.artefact, self.arms = artefact, arms
        self._model = _Model(artefact, artefact.hash, artefact.encoder_hash)
        self._others = {arm: _Model(other, other.hash, other.encoder_hash) for arm, other in others.items()}

    def swapped(
        self, artefact: ScoringArtefact, arms: Arms, others: Mapping[str, ScoringArtefact], log_all: bool = False
    ) -> "Scorer":
        """A scorer with other models: `others` for the arms named, `artefact` for everybody else.  Source, policy, log and the
        counting of requests are shared with this one, which goes on answering for whoever holds it."""
        after = copy.copy(self)
        after._put(artefact, arms, others)
        after.log_all = log_all
        return after

    def close(self) -> None:
        """Close the log and, where it has one, the store."""
        if self.log is not None:
            self.log.close()
        if isinstance(self.source, OnlineSource):
            self.source.close()

    def new_id(self) -> int:
        """The id of a request that comes without one."""
        return derived_id_one(self._origin, next(self._count))

    def score_rows(self, rows: RequestBatch, slot: npt.NDArray[np.integer]) -> tuple[F32, F32, FeatureBatch]:
        """(s, p, features) of n rows: p is the click probability at each row's own slot."""
        batch = fetch(self.source, rows)
        return *self.score_features(batch, slot), batch

    def score_features(self, batch: FeatureBatch, slot: npt.NDArray[np.integer]) -> tuple[F32, F32]:
        """(s, p) of n rows whose features are there already."""
        s = self.artefact.score(batch.columns)
        return s, self.artefact.probability(s, slot).astype(np.float32)

    def rank(self, request: RankRequest) -> Answer:
        """Score the candidates, choose the slate, write the log; only then is there an answer.

        Raises OSError where the log can't take the record: an answer that is not in the log must not be given.
        """
        begun = self._begin(request)
        return self._finish(begun, self._score(begun.model, begun.batch, len(request.ad_id)))

    def rank_many(self, requests: Sequence[RankRequest]) -> list[Answer]:
        """`rank` of several requests with one call of the model: where a call costs more than a few rows do, this pays."""
        if len(requests) == 1:
            return [self.rank(requests[0])]
        begun = [self._begin(request) for request in requests]
        answers: dict[int, Answer] = {}
        for model in dict.fromkeys(one.model.hash for one in begun):
            mine = [at for at, one in enumerate(begun) if one.model.hash == model]
            answers |= zip(mine, self._rank_together([begun[at] for at in mine]), strict=True)
        return [answers[at] for at in range(len(requests))]

    def _rank_together(self, begun: "Sequence[_Begun]") -> list[Answer]:
        """The answers to requests of one model."""
        started, counts = perf_counter_ns(), [len(one.request.ad_id) for one in begun]
        together = FeatureBatch(Blocks.joined([Blocks.of(one.batch.columns) for one in begun]), {})
        joined_ns = perf_counter_ns() - started
        scored = self._score(begun[0].model, together, sum(counts))
        encode_ns, *others_ns = scored.step_ns
        scored = scored._replace(step_ns=(encode_ns + joined_ns, *others_ns), call_ns=scored.call_ns + joined_ns)
        answers, low = [], 0
        for one, rows in zip(begun, counts, strict=True):
            part = scored.s[low : low + rows]
            share = tuple(ns * rows // sum(counts) for ns in scored.step_ns)
            answers.append(self._finish(one, scored._replace(s=part, step_ns=share)))
            low += rows
        return answers

    def _begin(self, request: RankRequest) -> "_Begun":
        """Find arm, model and features."""
        if self.log is None:
            raise ValueError("this scorer was made without a prediction log; it can score rows but not answer requests")
        started = perf_counter_ns()
        time_us = self.clock.now_us() if request.time_us is None else request.time_us
        request_id = self.new_id() if request.request_id is None else request.request_id
        arm = self.arms.arm(request.user_id, request_id)
        model = self._others.get(arm, self._model)
        batch = fetch(self.source, candidate_rows(request, time_us))
        return _Begun(request, request_id, time_us, arm, model, batch, perf_counter_ns() - started)

    def _finish(self, begun: "_Begun", scored: "_Scored") -> Answer:
        """Choose the slate and write the log."""
        assert self.log is not None, "_begin refuses"
        request, batch, after = begun.request, begun.batch, perf_counter_ns()
        slate, p, scored = self._chosen(begun, scored)
        chosen = perf_counter_ns()
        states = ViewStates.of(batch.views, len(scored.s))
        took_ns = begun.fetch_ns + scored.call_ns + chosen - after
        self.log.append(self._record(begun, slate, scored, p, states, took_ns))
        stages = (begun.fetch_ns, *scored.step_ns, chosen - after, perf_counter_ns() - chosen)
        told = marks(states, request.ad_id, scored.degraded or batch.degraded)
        return Answer(begun.request_id, begun.time_us, begun.arm, scored.model, slate, scored.s, p, batch, told, stages)

    def _chosen(self, begun: "_Begun", scored: "_Scored") -> "tuple[Slate, F32, _Scored]":
        """The slate, p of what it shows, and the scores that it is made of: popularity's where the model's can't be used."""
        request = begun.request
        try:
            value = _value(begun.model.artefact, scored.s, request.bid)
            slate = self.policy.choose(begun.request_id, value, request.slots)
            slots = np.arange(len(slate.shown))
            p = begun.model.artefact.probability(scored.s[slate.shown], slots).astype(np.float32)
            if not finite(p):
                raise FloatingPointError("a probability is not finite")
            return slate, p, scored
        except Exception:  # noqa: BLE001 - see `_score`
            self._say_once(f"model {begun.model.hash} failed; answering by popularity")
        scored = self._by_popularity(begun.batch, len(request.ad_id), scored.step_ns)
        value = scored.s if request.bid is None else scored.s + np.log(np.maximum(request.bid, 1e-9))
        slate = self.policy.choose(begun.request_id, value, request.slots)
        return slate, (1 / (1 + np.exp(-scored.s[slate.shown]))).astype(np.float32), scored

    def _score(self, chosen: "_Model", batch: FeatureBatch, n: int) -> "_Scored":
        """s of n rows by the model, or by popularity where the model fails or gives what isn't a number."""
        model, started = chosen.artefact, perf_counter_ns()
        try:
            if isinstance(model, Artefact):  # a whole one tells its steps apart; one wrapped for a drill is one step
                inputs = model.inputs(batch.columns)
                encoded = perf_counter_ns()
                margin = model.margin(inputs)
                ran = perf_counter_ns()
                s = model.calibrator.apply(margin)
            else:
                encoded = started
                s = model.score(batch.columns)
                ran = perf_counter_ns()
            if not finite(s):
                raise FloatingPointError("a score is not finite")
            ended = perf_counter_ns()
            steps = encoded - started, ran - encoded, ended - ran
            return _Scored(s, chosen.hash, chosen.encoder, "", steps, ended - started)
        except Exception:  # noqa: BLE001 - whatever is wrong with a model, its callers need an order of ads
            self._say_once(f"model {chosen.hash} failed; answering by popularity")
        return self._by_popularity(batch, n, (0, perf_counter_ns() - started, 0))

    def _by_popularity(self, batch: FeatureBatch, n: int, step_ns: tuple[int, ...]) -> "_Scored":
        return _Scored(popularity(batch.columns, n), POPULARITY, POPULARITY, "popularity", step_ns, sum(step_ns))

    def _say_once(self, message: str) -> None:
        """Log the exception being handled, at most once a second: a broken model breaks for every request."""
        now = monotonic()
        if now - self._said > 1.0:
            self._said = now
            _log.exception(message)

    def _record(self, begun: "_Begun", slate: Slate, scored: _Scored, p: F32, states: ViewStates, took_ns: int) -> Record:
        request, n = begun.request, len(scored.s)
        logged = logged_rows(begun.request_id, n, slate.shown)
        sampled = len(logged)
        if self.log_all:
            logged = np.concatenate([logged, np.setdiff1d(np.arange(n), logged)])
        return Record(
            request_id=begun.request_id,
            time_us=begun.time_us,
            user_id=request.user_id,
            policy=self.policy.name,
            randomised=slate.randomised,
            arm=begun.arm,
            artefact=scored.model,
            encoder=scored.encoder,
            took_us=took_ns // 1000,
            ad_id=pack(request.ad_id),
            s=pack(scored.s),
            bid=None if request.bid is None else pack(request.bid),
            fallback_mask=pack(states.mask()),
            shown=pack(slate.shown),
            p=pack(p),
            propensity=pack(slate.propensity),
            logged=pack(logged),
            sampled=sampled,
            **logged_features(Blocks.of(begun.batch.columns), states, logged),
        )


def _value(artefact: ScoringArtefact, s: F32, bid: F32 | None) -> npt.NDArray[np.floating]:
    """What to order by: s, or the expected price of the top slot where there are bids."""
    return s if bid is None else bid * artefact.probability(s, np.zeros(len(s), np.int64))


def fetch(source: FeatureSource, rows: RequestBatch) -> FeatureBatch:
    """Features of rows, with the request's own columns among them wherever the source left them out.

    Raises ValueError where the source answers with another number of rows than it was asked for.
    """
    batch = source.fetch(rows)
    if isinstance(batch.columns, Blocks):  # whole, and as long as they should be, by construction
        if len(batch.columns.numbers) != len(rows):
            raise ValueError(f"{type(source).__name__} answered {len(batch.columns.numbers)} rows for {len(rows)}")
        return batch
    own = {"user_id": rows.user_id, "ad_id": rows.ad_id, **rows.context}
    columns = {**own, **batch.columns}
    for name, values in columns.items():
        if len(values) != len(rows):
            raise ValueError(f"{type(source).__name__} answered {len(values)} values of {name} for {len(rows)} rows")
    return replace(batch, columns=columns)


def candidate_rows(request: RankRequest, time_us: int) -> OneRequest:
    """The n (request, candidate) pairs of one request; row ids count from 0."""
    return OneRequest(request.user_id, request.ad_id, time_us, request.context)
