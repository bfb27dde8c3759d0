"""Canaries whose truth is known, request by request: for tests of the guard.

Users differ in how active they are and in how much they click beyond what a model knows of them, and keep to their arm: rows
are not independent.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from monitoring.canary import Counts
from monitoring.canary.counts import nothing, of_labels, of_requests

SLOTS, LEVEL = 4, -3.0
LOOK_S = 10.0


@dataclass(frozen=True)
class Model:
    """How an arm behaves: what it adds to the true logits it knows, and how it answers."""

    odds: float = 1.0  # p's odds are this many times the right ones
    noise: float = 0.1  # standard deviation of what it adds to a logit by mistake
    random: bool = False  # scores without any relation to the ad
    errors: float = 0.0005
    slow: float = 1.0  # latencies are this many times the usual


@dataclass(frozen=True)
class People:
    """Who asks."""

    users: int = 3000
    spread: float = 0.4  # standard deviation of how much they click beyond what is known, logits


def trial(
    seed: int, canary: Model, share: float = 0.1, looks: int = 40, requests: int = 400, people: People | None = None
) -> Iterator[tuple[Counts, Counts]]:
    """(canary, champion) at each look, every `requests` requests of both together."""
    rng, people = np.random.default_rng(seed), people or People()
    activity, hidden = rng.lognormal(0, 1, people.users), rng.normal(0, people.spread, people.users)
    inside = rng.random(people.users) < share
    seen = [nothing(), nothing()]
    for _ in range(looks):
        user = rng.choice(people.users, requests, p=activity / activity.sum())
        for arm, model in enumerate((canary, Model())):
            mine = user[inside[user] == (arm == 0)]
            labels = _labelled(rng, np.repeat(mine, SLOTS), model, hidden, people.spread)
            seen[arm] = seen[arm] + _answered(rng, mine, model) + labels
        yield seen[0], seen[1]


def _answered(rng: np.random.Generator, user: np.ndarray, model: Model) -> Counts:
    failed = int((rng.random(len(user)) < model.errors).sum())
    return of_requests(model.slow * rng.lognormal(np.log(3e-3), 0.5, len(user) - failed), failed)


def _labelled(rng: np.random.Generator, user: np.ndarray, model: Model, hidden: np.ndarray, spread: float) -> Counts:
    known = rng.normal(0, 0.8, len(user))
    clicked = rng.random(len(user)) < _sigmoid(LEVEL + known + hidden[user])
    score = rng.permutation(known) if model.random else known
    right = _expected(LEVEL + score, np.hypot(spread, model.noise))
    noisy = np.log(right / (1 - right)) + rng.normal(0, model.noise, len(user)) + np.log(model.odds)
    return of_labels(user.astype(np.int64), _sigmoid(noisy), clicked)


def _expected(logit: np.ndarray, spread: float) -> np.ndarray:
    """Mean of sigmoid(logit + normal with that standard deviation): Gauss-Hermite with five points."""
    at, weight = np.polynomial.hermite_e.hermegauss(5)
    return np.asarray(_sigmoid(logit[:, None] + spread * at) @ (weight / weight.sum()))


def _sigmoid(logit: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-logit)))
