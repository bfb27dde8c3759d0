"""What an arm of a test may serve: the champion, a model of the registry, or the ranker that was there before any model.

A policy (`pipelines.sources.history.Policy`) turns requests into slates; a model becomes one with the serving room's own
parts, many requests at once.
"""

import numpy as np
import numpy.typing as npt

from features.batch import FeatureSource, RequestBatch
from infra.errors import ExplainedError
from infra.home import Home
from models.artefact import Artefact, load
from models.registry import Registry
from pipelines.live.ask import slates
from pipelines.sources.contract import Requests, Slates
from pipelines.sources.history import Policy
from serving.assignment import Assignment
from serving.champion import champion
from serving.messages import context_names
from serving.policy import policy_of
from serving.scorer import fetch

LEGACY = "legacy"
PLAINEST = ("logistic", "xgboost")  # the challenger where none is named: a cheaper model; another where that serves


def artefact_of(home: Home, name: str) -> Artefact:
    """The model that `champion`, a family or a hash (or how it begins) names in a home; a family's newest.

    Raises ExplainedError with the names there are."""
    if name == "champion":
        return champion(home)
    hashes = list(dict.fromkeys(version.hash for version in reversed(Registry.of(home).versions())))
    for found in hashes:
        if found.startswith(name):
            return load(home.artefacts, found)
    by_family = {artefact.family: artefact for artefact in (load(home.artefacts, found) for found in reversed(hashes))}
    if name not in by_family:
        there = ", ".join(["champion", LEGACY, *by_family, *hashes])
        raise ExplainedError(f"no model {name!r} in {home.root}; an arm can serve one of: {there}")
    return by_family[name]


def challenger(home: Home) -> str:
    """Whom the champion meets where nobody says it."""
    return next(family for family in PLAINEST if family != champion(home).family)


class Model:
    """A model as a policy, over a feature source."""

    def __init__(self, artefact: Artefact, source: FeatureSource, epsilon: float, slots: int) -> None:
        self._artefact, self._source, self._slots = artefact, source, slots
        self._policy = policy_of(epsilon)
        self._context = context_names(artefact.spec.names)

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
        s = self._artefact.score(fetch(self._source, pairs).columns).reshape(n, k)
        chosen = [self._policy.choose(int(request), row, self._slots) for request, row in zip(asked.request_id, s, strict=True)]
        shown, propensity = [one.shown for one in chosen], [one.propensity for one in chosen]
        return slates(asked, shown, propensity, [one.randomised for one in chosen], self._policy.name)


class Split:
    """A policy that answers each user with the policy of the user's arm."""

    def __init__(self, assignment: Assignment, policies: tuple[Policy, ...]) -> None:
        self._assignment, self._policies = assignment, policies

    def __call__(self, asked: Requests) -> Slates:
        arm = self._assignment.arms_of(asked.user_id)
        order, answers = [], []
        for number, policy in enumerate(self._policies):
            rows = np.flatnonzero(arm == number)
            if len(rows):
                order.append(rows)
                answers.append(policy(_some(asked, rows)))
        back = np.argsort(np.concatenate(order))
        shown, propensity, randomised = (
            np.concatenate([getattr(answer, name) for answer in answers])[back]
            for name in ("shown", "propensity", "randomised")
        )
        return Slates(asked, shown, propensity, randomised, "experiment")


def _some(asked: Requests, rows: npt.NDArray[np.int64]) -> Requests:
    context = {name: values[rows] for name, values in asked.context.items()}
    return Requests(
        asked.request_id[rows], asked.time_us[rows], asked.user_id[rows], context, asked.candidates[rows], asked.bids[rows]
    )
