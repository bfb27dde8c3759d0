"""The one path: request -> features -> encode -> model -> calibrate -> policy -> slate -> prediction log.

REST (`serving.app`) and in-process callers use `Scorer.rank`; the batch scorer (`serving.batch`) uses `score_rows`, the same
features and model without a slate.  A `Scorer` holds no state besides what it was given.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import count
from time import perf_counter_ns
from typing import Protocol

import numpy as np
import numpy.typing as npt

from features.batch import F32, I64, MISSING, STALE, Array, FeatureBatch, FeatureSource, OneRequest, RequestBatch, ViewStates
from features.blocks import Blocks
from features.catalogue import VIEWS
from features.ids import derived_id, text_id, uniform
from infra.clock import Clock
from serving.assignment import Assignment
from serving.policy import Policy, Slate
from serving.prediction_log import PredictionLog, Record, matrix, pack

LOGGED_SHARE = 0.01  # of the candidates that are not shown, a hashed share has its feature values logged
STAGES = ("features", "score", "policy", "log")

_ENTITY = {view.name: view.entity for view in VIEWS}
_SAMPLE = 0x4C_4F_47  # salt of the hashed share


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


@dataclass(frozen=True, slots=True)
class Marks:
    """What the answer had to do without."""

    user_known: bool
    unknown_ads: tuple[int, ...]  # candidates without any stored row
    missing: tuple[str, ...]  # views without a row for some candidate
    stale: tuple[str, ...]  # views older than they should be for some candidate


@dataclass(frozen=True, slots=True)
class Answer:
    """A slate and everything that led to it.  Arrays of n are by candidate, arrays of k by slot, top first."""

    request_id: int
    time_us: int
    arm: str
    slate: Slate
    s: F32  # [n]
    p: F32  # [k] at the slot given
    features: FeatureBatch
    marks: Marks
    stage_ns: tuple[int, ...]  # how long each of STAGES took


class Scorer:
    """FeatureSource + artefact + policy + assignment + prediction log."""

    def __init__(
        self,
        source: FeatureSource,
        artefact: ScoringArtefact,
        policy: Policy,
        assignment: Assignment,
        log: PredictionLog | None,
        clock: Clock,
    ) -> None:
        """`log` None is for scoring without serving (`score_rows`); `rank` refuses then."""
        self.source = source
        self.artefact = artefact
        self.policy = policy
        self.assignment = assignment
        self.log = log
        self.clock = clock
        self._hashes = artefact.hash, artefact.encoder_hash  # computed once: an artefact does not change
        # Ids of requests that come without one: unique because a segment's name never comes back.
        self._origin = text_id(log.path.name) if log is not None else 0
        self._count = count()

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

        Raises OSError where the log can't take the record (an answer that is not in the log must not be given) and
        FloatingPointError where a score is not finite.
        """
        if self.log is None:
            raise ValueError("this scorer was made without a prediction log; it can score rows but not answer requests")
        started = perf_counter_ns()
        time_us = self.clock.now_us() if request.time_us is None else request.time_us
        request_id = int(derived_id(self._origin, next(self._count))) if request.request_id is None else request.request_id
        batch = fetch(self.source, candidate_rows(request, time_us))
        fetched = perf_counter_ns()
        s = self.artefact.score(batch.columns)
        if not np.isfinite(s).all():
            raise FloatingPointError(f"artefact {self.artefact.hash} gave a score that is not finite for request {request_id}")
        scored = perf_counter_ns()
        slate = self.policy.choose(request_id, self._value(s, request.bid), request.slots)
        p = self.artefact.probability(s[slate.shown], np.arange(len(slate.shown))).astype(np.float32)
        arm = self.assignment.arm(request.user_id, request_id)
        chosen = perf_counter_ns()
        self.log.append(self._record(request, request_id, time_us, arm, slate, s, p, batch))
        logged = perf_counter_ns()
        stages = (fetched - started, scored - fetched, chosen - scored, logged - chosen)
        return Answer(request_id, time_us, arm, slate, s, p, batch, marks(batch, request.ad_id), stages)

    def _value(self, s: F32, bid: F32 | None) -> npt.NDArray[np.floating]:
        """What to order by: s, or the expected price of the top slot where there are bids."""
        return s if bid is None else bid * self.artefact.probability(s, np.zeros(len(s), np.int64))

    def _record(
        self, request: RankRequest, request_id: int, time_us: int, arm: str, slate: Slate, s: F32, p: F32, batch: FeatureBatch
    ) -> Record:
        n = len(s)
        logged = logged_rows(request_id, n, slate.shown)
        columns, states = Blocks.of(batch.columns), ViewStates.of(batch.views, n)
        others = {name: values if len(values) == n else np.repeat(values, n, axis=0) for name, values in columns.others.items()}
        return Record(
            request_id=request_id,
            time_us=time_us,
            user_id=request.user_id,
            policy=self.policy.name,
            randomised=slate.randomised,
            arm=arm,
            artefact=self._hashes[0],
            encoder=self._hashes[1],
            ad_id=pack(request.ad_id),
            s=pack(s),
            bid=None if request.bid is None else pack(request.bid),
            fallback_mask=pack(fallback_mask(batch, n)),
            shown=pack(slate.shown),
            p=pack(p),
            propensity=pack(slate.propensity),
            logged=pack(logged),
            numbers=matrix(columns.names.numbers, columns.numbers[logged]),
            whole=matrix(columns.names.whole, columns.whole[logged]),
            others={name: pack(values[logged]) for name, values in others.items()},
            snapshots=matrix(states.names, states.snapshot[logged]),
            ages=matrix(states.names, states.age_s[logged]),
        )


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


def fallback_mask(batch: FeatureBatch, n: int) -> npt.NDArray[np.int32]:
    """`FeatureBatch.fallback_mask` of n rows, also for a model that reads no view at all."""
    return batch.fallback_mask() if batch.views else np.zeros(n, np.int32)


def candidate_rows(request: RankRequest, time_us: int) -> OneRequest:
    """The n (request, candidate) pairs of one request; row ids count from 0."""
    return OneRequest(request.user_id, request.ad_id, time_us, request.context)


def logged_rows(request_id: int, n: int, shown: I64) -> I64:
    """Indexes of the candidates whose features are logged: the shown ones in slot order, then a hashed share of the others."""
    drawn = uniform(request_id, _SAMPLE, np.arange(n)) < LOGGED_SHARE
    drawn[shown] = False
    return np.concatenate([shown, np.flatnonzero(drawn)])


def marks(batch: FeatureBatch, ad_id: I64) -> Marks:
    """Which views were missing or stale for some candidate of one request, and who was unknown: had no row in any view.

    The rows of a request share its user, so the first row speaks for the user.
    """
    flawed = {name: state.status for name, state in batch.views.items() if state.status.any()}
    missing = {name: absent for name, status in flawed.items() if (absent := status == MISSING).any()}
    stale = tuple(name for name, status in flawed.items() if (status == STALE).any())
    users, ads = _absent(batch, missing, "user"), _absent(batch, missing, "ad")
    user_known = users is None or not users[0]
    return Marks(user_known, () if ads is None else tuple(ad_id[ads].tolist()), tuple(missing), stale)


def _absent(batch: FeatureBatch, missing: Mapping[str, Array], entity: str) -> Array | None:
    """[n] bool: rows without any view of the entity; None where no row is like that."""
    views = [name for name in batch.views if _ENTITY.get(name) == entity]
    if not views or any(name not in missing for name in views):
        return None
    return np.logical_and.reduce([missing[name] for name in views])
