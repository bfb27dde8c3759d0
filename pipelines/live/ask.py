"""Two ways to ask for slates: the scorer's parts in the process, many requests at once, or the real endpoint over HTTP.

Both answer with what was shown, take clicks, and keep the rows of the prediction log.  Called by `pipelines.live.system`.
"""

from typing import Any, Protocol, cast

import numpy as np
import pyarrow as pa

from features.batch import Array, FeatureBatch, RequestBatch, ViewState
from features.catalogue import Entity
from features.ids import derived_id
from features.online import OnlineSource
from features.schemas import TIME
from infra.clock import HOUR_US
from infra.home import Home
from infra.settings import Settings
from pipelines.live.injection import Fault
from pipelines.plant.serving import predictions
from pipelines.sources.contract import Requests, Slates
from serving.champion import champion
from serving.messages import context_names
from serving.policy import policy_of
from serving.rollout import A_A, assignment
from serving.scorer import fetch

SLOTS = 4


class Ask(Protocol):
    """Answers requests, takes clicks, and keeps the prediction log."""

    def __call__(self, asked: Requests) -> Slates:
        """What is shown for some requests in order of time."""
        ...

    def wait(self, until_us: int) -> None:
        """Return when it is that late."""
        ...

    def clicked(self, clicks: pa.Table) -> pa.Table:
        """Send what people clicked, in order of arrival; the clicks as they were taken in: features.schemas.CLICKS."""
        ...

    def logged(self, fault: Fault) -> list[pa.Table]:
        """Rows of the prediction log since the last call, as they reach the lake; see `features.schemas.PREDICTIONS`."""
        ...


def slates(asked: Requests, shown: list[Any], propensity: list[Any], randomised: list[bool], policy: str) -> Slates:
    """Answers of n requests, each as long as it came, as one `Slates`: a slot without an ad is -1."""
    n = len(asked)
    places = np.full((n, SLOTS), -1, np.int64)
    chances = np.zeros((n, SLOTS), np.float32)
    for at, (ads, chance) in enumerate(zip(shown, propensity, strict=True)):
        places[at, : len(ads)] = ads
        chances[at, : len(ads)] = chance
    return Slates(asked, places, chances, np.array(randomised, bool), policy)


class InProcess:
    """The champion of a home on its online store, asked as fast as it goes: it shows and logs what the endpoint would."""

    def __init__(self, home: Home, chosen: Settings) -> None:
        self._artefact = champion(home, chosen.threads)
        self._context = context_names(self._artefact.spec.names)
        entities = cast(tuple[Entity, ...], self._artefact.entities)
        self._source = OnlineSource(home, entities, self._context, self._artefact.service)
        self._policy = policy_of(chosen.epsilon)
        self._assignment = assignment(A_A)
        self._rows: list[pa.Table] = []
        self._batches: list[FeatureBatch] = []
        self._now_us = 0

    def __call__(self, asked: Requests) -> Slates:
        n, k = asked.candidates.shape
        who = np.repeat(np.arange(n), k)
        pairs = RequestBatch(
            np.arange(n * k),
            asked.time_us[who],
            asked.user_id[who],
            asked.candidates.reshape(-1),
            {name: asked.context[name][who] for name in self._context},
        )
        batch = fetch(self._source, pairs)
        s = self._artefact.score(batch.columns).reshape(n, k)
        chosen = [self._policy.choose(int(request), row, SLOTS) for request, row in zip(asked.request_id, s, strict=True)]
        made = slates(
            asked, [c.shown for c in chosen], [c.propensity for c in chosen], [c.randomised for c in chosen], self._policy.name
        )
        row, slot = np.nonzero(made.shown >= 0)
        self._rows.append(_shown(made, row, slot))
        self._batches.append(_take(batch, row * k + made.shown[row, slot]))
        return made

    def wait(self, until_us: int) -> None:
        """Time costs nothing here."""
        self._now_us = until_us

    def clicked(self, clicks: pa.Table) -> pa.Table:
        """See `Ask`: nobody else is here to send them to."""
        return clicks

    def logged(self, fault: Fault) -> list[pa.Table]:
        """See `Ask`; an hour's rows at its end."""
        if self._now_us % HOUR_US or not self._rows:
            return []
        rows, batch = pa.concat_tables(self._rows), _together(self._batches)
        self._rows, self._batches = [], []
        return [fault.rows("log", "predictions", predictions(rows, batch, self._artefact, self._assignment))]

    def close(self) -> None:
        """Close the store."""
        self._source.close()


def _shown(made: Slates, row: Array, slot: Array) -> pa.Table:
    """What the log says of shown ads beside scores, arm and features."""
    asked = made.requests
    return pa.table(
        {
            "request_id": asked.request_id[row],
            "impression_id": derived_id(asked.request_id[row], slot),
            "event_timestamp": pa.array(asked.time_us[row]).cast(TIME),
            "user_id": asked.user_id[row],
            "ad_id": asked.candidates[row, made.shown[row, slot]],
            "slot": slot,
            "n_candidates": np.full(len(row), asked.candidates.shape[1]),
            "bid": pa.nulls(len(row), pa.float32()),
            "propensity": made.propensity[row, slot],
            "policy": pa.repeat(pa.scalar(made.policy), len(row)),
            "randomised": made.randomised[row],
        }
    )


def _take(batch: FeatureBatch, at: Array) -> FeatureBatch:
    columns = {name: values[at] for name, values in batch.columns.items()}
    views = {name: ViewState(v.snapshot[at], v.age_s[at], v.status[at]) for name, v in batch.views.items()}
    return FeatureBatch(columns, views)


def _together(batches: list[FeatureBatch]) -> FeatureBatch:
    """Batches of one model, one behind the other."""
    views = {}
    for name in batches[0].views:
        states = [batch.views[name] for batch in batches]
        views[name] = ViewState(*(np.concatenate([getattr(s, f) for s in states]) for f in ("snapshot", "age_s", "status")))
    columns = {name: np.concatenate([batch.columns[name] for batch in batches]) for name in batches[0].columns}
    return FeatureBatch(columns, views)
