"""The endpoint's parts with a place for a fault: feature source, artefact, assignment, and the scorer made of them.

Each wraps the production part and is told nothing else; with no fault it hands through what that part says.  Composed by
`pipelines.live.endpoint`, never in production.
"""

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from features.batch import F32, Array, FeatureBatch, FeatureSource, RequestBatch
from features.ids import derived_id
from features.schemas import TIME
from features.sources import logged_column
from infra.clock import Clock
from monitoring.bugs.entry import Stage
from pipelines.live.injection import Fault, Injection
from pipelines.windows import feature_arrays
from serving.assignment import Assignment
from serving.rollout import A_A, assignment
from serving.scorer import Answer, RankRequest, Scorer, ScoringArtefact

# What the rows of the request that is being answered are called.
_rows: ContextVar[pa.Table] = ContextVar("rows")
# The simulated time that a request was sent with; the drill's middleware sets it.
asked_at_us: ContextVar[int | None] = ContextVar("asked_at_us", default=None)


class DrillClock:
    """The time that a drill's request brings, otherwise the server's own."""

    def __init__(self, inner: Clock) -> None:
        self._inner = inner

    def now_us(self) -> int:
        """See `Clock`."""
        at_us = asked_at_us.get()
        return self._inner.now_us() if at_us is None else at_us


def through(fault: Fault, stage: Stage, columns: Mapping[str, Array]) -> Mapping[str, Array]:
    """Feature columns [n] of the request that is being answered, as they leave `features` or `input`.

    Raises ValueError where a bug gives back another number of rows: a request's candidates can be changed, not dropped."""
    if fault.at(stage, "features") is None:
        return columns
    rows = _rows.get()
    for name, values in feature_arrays(columns).items():
        rows = rows.append_column(name[2:], values)
    out = fault.rows(stage, "features", rows)
    if out.num_rows != rows.num_rows:
        raise ValueError(f"stage {stage}: a bug made {out.num_rows} rows of {rows.num_rows} candidates")
    return {name: logged_column(out[name]) for name in columns}


class WrappedSource:
    """A feature source whose answers pass the stage `features`, on their way to the model and to the log."""

    def __init__(self, inner: FeatureSource, fault: Fault) -> None:
        self._inner, self._fault = inner, fault

    def fetch(self, requests: RequestBatch) -> FeatureBatch:
        """See `FeatureSource`."""
        batch = self._inner.fetch(requests)
        if self._fault.at("features", "features") is None:
            return batch
        own = {"user_id": requests.user_id, "ad_id": requests.ad_id, **requests.context}
        return FeatureBatch(through(self._fault, "features", {**own, **batch.columns}), batch.views)


class WrappedArtefact:
    """An artefact whose input passes the stage `input`: the log keeps what was right."""

    def __init__(self, inner: ScoringArtefact, fault: Fault) -> None:
        self._inner, self._fault = inner, fault

    @property
    def hash(self) -> str:
        """What the inner model declares to be."""
        return self._inner.hash

    @property
    def encoder_hash(self) -> str:
        """What the inner model declares to use."""
        return self._inner.encoder_hash

    def score(self, columns: Mapping[str, Array]) -> F32:
        """See `ScoringArtefact`."""
        return self._inner.score(through(self._fault, "input", columns))

    def probability(self, s: F32, slot: npt.NDArray[np.integer]) -> npt.NDArray[np.floating]:
        """See `ScoringArtefact`."""
        return self._inner.probability(s, slot)


@dataclass(frozen=True, slots=True)
class WrappedAssignment(Assignment):
    """An experiment whose assignments pass the stage `assignment`."""

    fault: Fault = field(default_factory=Fault)

    def arm(self, user_id: int, request_id: int) -> str:
        """See `Assignment`."""
        planned = Assignment.arm(self, user_id, request_id)
        if self.fault.at("assignment", "assignment") is None:
            return planned
        rows = pa.table({"request_id": [request_id], "user_id": [user_id], "arm": [planned]})
        out: list[Any] = self.fault.rows("assignment", "assignment", rows)["arm"].to_pylist()
        if not out:
            raise ConnectionError("the request was lost on its way to its arm")  # answered with 503, and not logged
        return str(out[0])


class WrappedScorer(Scorer):
    """The production scorer, made of wrapped parts; a bug of the stage `model` swaps the model that it loaded."""

    def __init__(self, real: Scorer, fault: Fault) -> None:
        between = assignment(A_A)  # a drill is of the champion, whatever else the home tries
        arms = WrappedAssignment(between.salt, between.arms, between.weights, fault)
        source = WrappedSource(real.source, fault)
        super().__init__(source, real.artefact, real.policy, arms, real.log, DrillClock(real.clock))
        self._real, self._fault = real.artefact, fault
        self.begin(None)

    def begin(self, injection: Injection | None) -> None:
        """A fault begins, or the last one ends."""
        self._fault.now = injection
        loaded: ScoringArtefact = self._real
        if injection is not None and injection.bug.stage == "model":
            loaded = injection.bug.inject(self._real, injection.dose, injection.scene("model", {}, self._fault.artefacts))
        self._put(WrappedArtefact(loaded, self._fault), self.arms, {})

    def rank(self, request: RankRequest) -> Answer:
        """See `Scorer`."""
        if self._fault.now is None:
            return super().rank(request)
        n = len(request.ad_id)
        request_id = request.request_id or 0
        at_us = self.clock.now_us() if request.time_us is None else request.time_us
        rows = pa.table(
            {
                "impression_id": derived_id(request_id, np.arange(n)),
                "request_id": np.full(n, request_id),
                "event_timestamp": pa.array(np.full(n, at_us)).cast(TIME),
            }
        )
        known = _rows.set(rows)
        try:
            return super().rank(request)
        finally:
            _rows.reset(known)
