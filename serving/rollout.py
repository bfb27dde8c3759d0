"""Who answers requests, as one small document: champion, shadows, canary, experiment; how it may change; who gets whom.

A model goes shadow -> canary -> A/B test -> champion and is at one of these at a time.  Everything here is pure.
`serving.rollout_store` keeps the document; `clickproof rollout`, the gates and the guard change it by the transitions; the
endpoint routes by it.  Refusals are `RolloutError` and say what to do.
"""

import re
from collections.abc import Callable, Collection, Mapping

import msgspec
from msgspec.structs import replace

from features.ids import text_id
from infra.errors import ExplainedError
from serving.assignment import Assignment, luck

CANARY = "canary"  # the arm that the log shows for requests that a canary answered
MOST_SHARE = 0.5  # of requests to a canary: it is judged against at least as many of the champion's
_HASH = re.compile(r"[0-9a-f]{16}")
_ARM = re.compile(r"[a-z0-9][a-z0-9_.-]{0,31}")


class RolloutError(ExplainedError, ValueError):
    """A document or a change that makes no sense; the message names the field and says what to do."""


class Canary(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A model that answers a small share of the users, on trial."""

    artefact: str
    share: float  # of users, chosen by a hash: raising it keeps those who are in
    since_us: int  # when it began, by the machine's clock

    def __post_init__(self) -> None:
        _check_hash("canary.artefact", self.artefact)
        if not 0 < self.share <= MOST_SHARE:
            raise RolloutError(
                f"canary.share is {self.share:g}; it must be above 0 and at most {MOST_SHARE:g} (0.05 is a usual start)"
            )


class Arm(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of an experiment's users."""

    name: str
    artefact: str | None = None  # None: whoever is champion
    weight: float = 1.0  # its share is this over the sum of all arms'

    def __post_init__(self) -> None:
        if not _ARM.fullmatch(self.name) or self.name == CANARY:
            raise RolloutError(
                f"an arm can't be called {self.name!r}: use up to 32 small letters, digits, dots, dashes, underscores, "
                f"and not {CANARY!r}"
            )
        if self.artefact is not None:
            _check_hash(f"arm {self.name}: artefact", self.artefact)
        if not 0 < self.weight < float("inf"):
            raise RolloutError(f"arm {self.name}: weight is {self.weight:g}; it must be above 0 (leave out an arm for nobody)")


class Experiment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Arms that share all users whom no canary takes."""

    salt: str  # of the hash that assigns users; an experiment with a salt of its own deals them anew
    arms: tuple[Arm, ...]

    def __post_init__(self) -> None:
        if not self.salt:
            raise RolloutError("experiment.salt is empty; use the experiment's name")
        names = [arm.name for arm in self.arms]
        if len(names) < 2 or len(set(names)) < len(names):
            raise RolloutError(f"experiment.arms are {names}; there must be two or more, each with a name of its own")

    @property
    def artefacts(self) -> tuple[str, ...]:
        """Those that are compared with the champion; none in an A/A test."""
        return tuple(dict.fromkeys(arm.artefact for arm in self.arms if arm.artefact is not None))


# Both arms get the champion, so that assignment, its log and its checks are in use before and between A/B tests.
A_A = Experiment("base", (Arm("a", None, 0.5), Arm("b", None, 0.5)))


class Rollout(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The document."""

    number: int  # of the change that made it
    champion: str
    shadows: tuple[str, ...] = ()  # score every request, answer none
    canary: Canary | None = None
    experiment: Experiment = A_A

    def __post_init__(self) -> None:
        if self.number < 0:
            raise RolloutError(f"number is {self.number}; changes are counted from 1")
        _check_hash("champion", self.champion)
        for shadow in self.shadows:
            _check_hash("shadows", shadow)
        at: dict[str, str] = {}
        for place, artefact in self._places():
            if artefact in at:
                raise RolloutError(f"{place} is {artefact}, which is {at[artefact]} already: a model is at one stage at a time")
            at[artefact] = place

    def _places(self) -> list[tuple[str, str]]:
        canary = [("canary", self.canary.artefact)] if self.canary else []
        arms = [("an arm of the experiment", artefact) for artefact in self.experiment.artefacts]
        return [("champion", self.champion), *canary, *arms, *(("a shadow", shadow) for shadow in self.shadows)]

    @property
    def artefacts(self) -> tuple[str, ...]:
        """Every model that must be loaded, the champion first, the shadows last."""
        return tuple(artefact for _, artefact in self._places())


Transition = Callable[[Rollout], Rollout]


def encode(rollout: Rollout) -> bytes:
    """The document as JSON for people and programs."""
    return msgspec.json.format(msgspec.json.encode(rollout), indent=1) + b"\n"


def decode(text: bytes) -> Rollout:
    """What `encode` wrote.  RolloutError names the field that is wrong, missing or unknown."""
    try:
        return msgspec.json.decode(text, type=Rollout)
    except msgspec.DecodeError as error:  # also of a wrong type or value
        message, _, path = str(error).partition(" - at `$.")
        raise RolloutError(f"{path.rstrip('`')}: {message}" if path else message) from None


def promote(rollout: Rollout, artefact: str | None = None) -> Rollout:
    """The canary, or the artefact named, becomes champion.

    Canary and A/B test end with that, because both compared with a champion that is no more."""
    if artefact is None and rollout.canary is None:
        raise RolloutError("there is no canary to promote; name the artefact: clickproof rollout promote HASH --why TEXT")
    chosen = artefact or (rollout.canary.artefact if rollout.canary else "")
    if chosen == rollout.champion:
        raise RolloutError(f"{chosen} is champion already; there is nothing to promote")
    return _crowned(rollout, chosen)


def rollback(rollout: Rollout, artefact: str) -> Rollout:
    """An earlier champion answers again; canary and A/B test end, as with a promotion."""
    if artefact == rollout.champion:
        raise RolloutError(f"{artefact} is champion already; there is nothing to roll back")
    return _crowned(rollout, artefact)


def start_canary(rollout: Rollout, artefact: str, share: float, since_us: int) -> Rollout:
    """Let an artefact answer a share of the users; of the canary that runs, change the share."""
    _refuse_champion(rollout, artefact, "a canary is compared with the champion")
    if artefact in rollout.experiment.artefacts:
        raise RolloutError(f"{artefact} is in an A/B test; end that first: clickproof rollout experiment --end --why TEXT")
    now = rollout.canary
    if now is None:
        return replace(rollout, canary=Canary(artefact, share, since_us), shadows=_without(rollout.shadows, artefact))
    if now.artefact != artefact:
        raise RolloutError(
            f"{now.artefact} is the canary and there is one at a time; take it on (clickproof rollout promote --why TEXT) "
            "or out (clickproof rollout canary --end --why TEXT) first"
        )
    if now.share == share:
        raise RolloutError(f"{artefact} is the canary with a share of {share:g} already; name another --share")
    return replace(rollout, canary=Canary(artefact, share, now.since_us))


def end_canary(rollout: Rollout) -> Rollout:
    """Its users go back to their arms."""
    if rollout.canary is None:
        raise RolloutError("there is no canary to end; clickproof rollout show tells what there is")
    return replace(rollout, canary=None)


def add_shadow(rollout: Rollout, artefact: str) -> Rollout:
    """Let an artefact score every request without answering any."""
    _refuse_champion(rollout, artefact, "a shadow is compared with the champion")
    places = {there: place for place, there in rollout._places()}
    if artefact in places:
        raise RolloutError(f"{artefact} is {places[artefact]} already; a model is at one stage at a time")
    return replace(rollout, shadows=(*rollout.shadows, artefact))


def drop_shadow(rollout: Rollout, artefact: str) -> Rollout:
    """Stop scoring with a shadow."""
    if artefact not in rollout.shadows:
        there = ", ".join(rollout.shadows) or "none"
        raise RolloutError(f"{artefact} is no shadow; there are: {there}")
    return replace(rollout, shadows=_without(rollout.shadows, artefact))


def start_experiment(rollout: Rollout, experiment: Experiment) -> Rollout:
    """Share the users among the arms; a canary or shadow that is one of them moves on from there."""
    if rollout.experiment.artefacts:
        raise RolloutError(
            f"the A/B test {rollout.experiment.salt!r} runs; end it first: clickproof rollout experiment --end --why TEXT"
        )
    if experiment.salt == rollout.experiment.salt:
        raise RolloutError(f"the salt {experiment.salt!r} is in use; with another one the arms are not last time's users again")
    for artefact in experiment.artefacts:
        _refuse_champion(rollout, artefact, "an arm without an artefact gets the champion")
    canary = None if rollout.canary and rollout.canary.artefact in experiment.artefacts else rollout.canary
    return replace(rollout, canary=canary, experiment=experiment, shadows=_without(rollout.shadows, *experiment.artefacts))


def end_experiment(rollout: Rollout) -> Rollout:
    """Back to the A/A test."""
    if rollout.experiment == A_A:
        raise RolloutError("there is no experiment to end, only the A/A test that runs between experiments")
    return replace(rollout, experiment=A_A)


def without(rollout: Rollout, artefacts: Collection[str]) -> Rollout:
    """The document as if these had never been given traffic.  Raises RolloutError where the champion is among them."""
    if rollout.champion in artefacts:
        raise RolloutError(f"{rollout.champion} is the champion; there must be one")
    canary = None if rollout.canary and rollout.canary.artefact in artefacts else rollout.canary
    experiment = A_A if set(rollout.experiment.artefacts) & set(artefacts) else rollout.experiment
    return replace(rollout, canary=canary, experiment=experiment, shadows=_without(rollout.shadows, *artefacts))


def plan(rollout: Rollout) -> Mapping[str, float]:
    """Arm -> planned share of the known users, adding up to 1: for monitors."""
    taken = rollout.canary.share if rollout.canary else 0.0
    planned = {arm: (1 - taken) * share for arm, share in shares(rollout.experiment).items()}
    return planned | ({CANARY: taken} if rollout.canary else {})


def shares(experiment: Experiment) -> dict[str, float]:
    """Arm -> planned share of the experiment's users, adding up to 1."""
    total = sum(arm.weight for arm in experiment.arms)
    return {arm.name: arm.weight / total for arm in experiment.arms}


def changes(before: Rollout | None, after: Rollout) -> tuple[str, ...]:
    """What differs between two documents, in words."""
    if before is None:
        return (f"champion {after.champion}",)
    said = []
    if before.champion != after.champion:
        said.append(f"champion {before.champion} -> {after.champion}")
    if before.canary != after.canary:
        said.append(_canary_change(before.canary, after.canary))
    if before.experiment != after.experiment:
        said.append(f"experiment {before.experiment.salt} -> {after.experiment.salt} ({arms_text(after.experiment)})")
    said += [f"shadow {shadow} added" for shadow in after.shadows if shadow not in before.shadows]
    said += [f"shadow {shadow} dropped" for shadow in before.shadows if shadow not in after.shadows]
    return tuple(said)


def arms_text(experiment: Experiment) -> str:
    """The arms in words."""
    return ", ".join(f"{arm.name} {arm.weight:g} {arm.artefact or 'champion'}" for arm in experiment.arms)


def assignment(experiment: Experiment) -> Assignment:
    """Who is in which arm."""
    arms = experiment.arms
    return Assignment(experiment.salt, tuple(arm.name for arm in arms), tuple(arm.weight for arm in arms))


class Router:
    """One document made ready for the path of every request: `serving.scorer.Arms`."""

    __slots__ = ("_assignment", "_salt_id", "_share", "artefacts", "rollout")

    def __init__(self, rollout: Rollout) -> None:
        experiment, canary = rollout.experiment, rollout.canary
        self.rollout = rollout
        self.artefacts = {arm.name: arm.artefact or rollout.champion for arm in experiment.arms}  # arm -> who answers it
        if canary:
            self.artefacts[CANARY] = canary.artefact
        self._assignment = assignment(experiment)
        self._share = canary.share if canary else 0.0
        # A salt of the artefact's own: the next canary is not tried on the same people again.
        self._salt_id = text_id(f"canary {canary.artefact}") if canary else 0

    def arm(self, user_id: int, request_id: int) -> str:
        """The arm of a request: the same for a user whatever the request; of someone unknown (-1) by request."""
        if self._share and luck(self._salt_id, user_id, request_id) < self._share:
            return CANARY
        return self._assignment.arm(user_id, request_id)


def _crowned(rollout: Rollout, artefact: str) -> Rollout:
    between = rollout.experiment if not rollout.experiment.artefacts else A_A
    shadows = _without(rollout.shadows, artefact)
    return replace(rollout, champion=artefact, canary=None, experiment=between, shadows=shadows)


def _canary_change(before: Canary | None, after: Canary | None) -> str:
    if after is None:
        return f"canary {before.artefact if before else ''} ended"
    if before is not None and before.artefact == after.artefact:
        return f"canary {after.artefact} share {before.share:g} -> {after.share:g}"
    return f"canary {after.artefact} began with a share of {after.share:g}"


def _without(shadows: tuple[str, ...], *artefacts: str) -> tuple[str, ...]:
    return tuple(shadow for shadow in shadows if shadow not in artefacts)


def _refuse_champion(rollout: Rollout, artefact: str, reason: str) -> None:
    if artefact == rollout.champion:
        raise RolloutError(f"{artefact} is the champion; {reason}")


def _check_hash(field: str, value: str) -> None:
    if not _HASH.fullmatch(value):
        raise RolloutError(
            f"{field} is {value!r}; an artefact is named by its sixteen hex digits, as folders in artefacts/ are"
        )
