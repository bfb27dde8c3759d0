"""From the rollout document to what answers: a home's models, loaded and warm, and loaded again when the document changes.

`Follower.load` makes the service that the endpoint begins with; `Follower.renew`, called every moment in a thread of its own,
the one that takes its place.  Models are tried (`serving.admission`) and warmed before they answer, while the service before
goes on; what a rollback would bring back stays loaded.  A model that may not answer is left out, and its users get the
champion; a champion that may not answer changes nothing.
"""

import gc
import logging
from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple, cast

import numpy as np

from features.batch import FeatureSource
from features.catalogue import Entity
from features.online import OnlineSource
from infra.clock import Clock
from infra.home import Home
from infra.settings import Settings
from models.artefact import Artefact, load
from models.engines.choice import use_fastest
from models.logit_rows import finite
from serving import rollout_audit, rollout_store
from serving.admission import Probe, examine, probe
from serving.messages import ModelAnswer, context_kinds, context_names
from serving.policy import Policy, policy_of
from serving.prediction_log import PredictionLog
from serving.rank_handler import Service
from serving.rollout import Rollout, Router, plan, without
from serving.scorer import RankRequest, Scorer, candidate_rows, fetch

WARM_UP_ROWS = 20
NOT_YET = ("this server has loaded no champion yet that it could be compared with; try again shortly",)

_log = logging.getLogger("clickproof.serving")


class _Loaded(NamedTuple):
    """A model that may answer."""

    artefact: Artefact
    engine: str  # what computes it, and why


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a model of the document gets no traffic."""

    artefact: str
    reasons: tuple[str, ...]


class Follower:
    """The models of a home as its rollout document wants them.  One thread at a time."""

    def __init__(self, home: Home, settings: Settings, clock: Clock, *, background: bool = False) -> None:
        """With `background`, ads are loaded in the background instead of by the request that finds them old: for servers whose
        clock runs as fast as time does."""
        self._home, self._settings, self._clock, self._background = home, settings, clock, background
        self._policy: Policy = policy_of(settings.epsilon)
        self._models: dict[str, _Loaded] = {}
        self._stamp: object = ()
        self._now: Service | None = None
        self.rollout: Rollout | None = None  # that is served
        self.refusals: tuple[Refusal, ...] = ()

    def load(self) -> Service:
        """The service of the document as it is.  Raises ExplainedError without a champion, ArtefactError for a damaged one."""
        stamp, rollout = rollout_store.stamp(self._home), rollout_store.read(self._home)
        champion = self._loaded(load(self._home.artefacts, rollout.champion, threads=self._settings.threads))
        entities, context = cast(tuple[Entity, ...], champion.artefact.entities), context_names(champion.artefact.spec.names)
        source = OnlineSource(self._home, entities, context, champion.artefact.service, degrade=True)
        try:
            warm_up(source, champion.artefact, self._clock)
            self._models = {rollout.champion: champion}
            served, refusals = self._admitted(rollout, champion.artefact, source)
            log = PredictionLog(self._home)
        except BaseException:
            source.close()
            raise
        scorer = Scorer(source, champion.artefact, self._policy, Router(served), log, self._clock)
        if self._background:
            source.keep_fresh()
        self._stamp = stamp
        _log.info(
            "serving %s model %s with policy %s, %d thread(s), on %s; log %s",
            champion.artefact.family, rollout.champion, self._policy.name, self._settings.threads, self._clock, log.path,
        )  # fmt: skip
        _log.info("engine: %s", champion.engine)
        return self._serving(scorer, served, refusals)

    def renew(self) -> Service | None:
        """The service after a change of the document; None where there was none, or where the one before has to go on.

        Raises what reading the document or trying its models raises: OSError, RolloutError, a store's errors.  The next call
        tries again."""
        stamp = rollout_store.stamp(self._home)
        if stamp == self._stamp or self._now is None or self.rollout is None:
            return None
        rollout = rollout_store.read(self._home)
        found = None if rollout == self.rollout else self._changed(rollout, self.rollout.champion, self._now.scorer)
        self._stamp = stamp
        return found

    @property
    def answering(self) -> list[tuple[str, str, str]]:
        """Hash, encoder's hash and family of each model that answers, the champion first."""
        names = {} if self.rollout is None else dict.fromkeys((self.rollout.champion, *Router(self.rollout).artefacts.values()))
        return [(name, (model := self._models[name].artefact).encoder_hash, model.family) for name in names]

    def tried(self, name: str) -> tuple[str, ...]:
        """Why a model may not get traffic; nothing where it may.  Changes nothing, and may be called from any thread."""
        if self._now is None or self.rollout is None:
            return NOT_YET
        champion = self._models[self.rollout.champion].artefact
        return examine(self._home.artefacts, name, self._probe(champion, self._now.scorer.source)).reasons

    def _changed(self, rollout: Rollout, before: str, scorer: Scorer) -> Service | None:
        """The service of another document; None where its champion is refused, and the one before goes on."""
        if rollout.champion not in self._models:
            refusal = self._tried(rollout.champion, self._probe(self._models[before].artefact, scorer.source), scorer.source)
            if refusal is not None:
                self.refusals = (refusal,)
                return None
        return self._serving(scorer, *self._admitted(rollout, self._models[rollout.champion].artefact, scorer.source))

    def _serving(self, scorer: Scorer, served: Rollout, refusals: tuple[Refusal, ...]) -> Service:
        """A scorer with all models of the document in their places."""
        router = Router(served)
        champion = self._models[served.champion]
        others = {arm: self._models[name].artefact for arm, name in router.artefacts.items() if name != served.champion}
        scorer = scorer.swapped(champion.artefact, router, others, log_all=bool(served.shadows))
        source = scorer.source
        assert isinstance(source, OnlineSource), "load made it"
        gc.collect()
        gc.freeze()  # what is loaded now stays: the collector need not look at it again and again
        self.rollout, self.refusals = served, refusals
        self._keep({*served.artefacts, *_to_come_back(self._home)})
        about = describe(champion, source.context, self._policy, served)
        self._now = Service(scorer, context_kinds(source.context), about)
        _log.info("rollout %d: champion %s, arms %s", served.number, served.champion, ", ".join(plan(served)))
        return self._now

    def _admitted(self, rollout: Rollout, champion: Artefact, source: FeatureSource) -> tuple[Rollout, tuple[Refusal, ...]]:
        """The document with those of its models that may answer, all of them loaded; and why the others may not.

        Shadows are not loaded: another process scores with them."""
        wanted = [name for name in rollout.artefacts if name not in self._models and name not in rollout.shadows]
        asked = self._probe(champion, source) if wanted else None
        refused = [self._tried(name, asked, source) for name in wanted if asked is not None]
        refusals = tuple(refusal for refusal in refused if refusal is not None)
        for name in _to_come_back(self._home):
            if name not in self._models:
                self._tried(name, asked or self._probe(champion, source), source)
        return without(rollout, [refusal.artefact for refusal in refusals]), refusals

    def _tried(self, name: str, asked: Probe, source: FeatureSource) -> Refusal | None:
        """Load a model and try it; None where it may answer, and is ready to."""
        found = examine(self._home.artefacts, name, asked, self._settings.threads)
        if found.artefact is None:
            _log.error("%s gets no traffic: %s", name, "; ".join(found.reasons))
            return Refusal(name, found.reasons)
        self._models[name] = self._loaded(found.artefact)
        warm_up(source, found.artefact, self._clock)
        return None

    def _loaded(self, artefact: Artefact) -> _Loaded:
        return _Loaded(artefact, use_fastest(artefact.model))

    def _probe(self, champion: Artefact, source: FeatureSource) -> Probe:
        return probe(champion, source, self._clock.now_us())

    def _keep(self, names: Collection[str]) -> None:
        self._models = {name: model for name, model in self._models.items() if name in names}


def _to_come_back(home: Home) -> list[str]:
    """The champion that a rollback would bring back."""
    last = rollout_audit.to_take_back(rollout_store.history(home))
    return [last.before.champion] if last is not None and last.before is not None else []


def warm_up(source: FeatureSource, artefact: Artefact, clock: Clock) -> None:
    """One request of someone unknown, not logged: the first real one should not pay for imports, compiled loops, caches and
    allocations."""
    kinds = context_kinds(context_names(artefact.spec.names))
    context: dict[str, str | int] = {name: "" if kind == "string" else -1 for name, kind in kinds.items()}
    request = RankRequest(user_id=-1, ad_id=np.arange(WARM_UP_ROWS), slots=1, context=context)
    batch = fetch(source, candidate_rows(request, clock.now_us()))
    p = artefact.probability(artefact.score(batch.columns), np.zeros(WARM_UP_ROWS, np.int64))
    finite(p.astype(np.float32))


def describe(champion: _Loaded, context: tuple[str, ...], policy: Policy, rollout: Rollout) -> ModelAnswer:
    """What GET /v1/model says."""
    artefact, spec = champion.artefact, champion.artefact.spec
    return ModelAnswer(
        artefact.hash,
        artefact.encoder_hash,
        artefact.family,
        {"categorical": list(spec.categorical), "numeric": list(spec.numeric), "sequence": list(spec.sequence)},
        {name: "string" if kind == "string" else "integer" for name, kind in context_kinds(context).items()},
        policy.name,
        dict(plan(rollout)),
        champion.engine,
        rollout.number,
        {arm: name for arm, name in Router(rollout).artefacts.items() if name != rollout.champion},
        list(rollout.shadows),
    )
