"""Bodies of POST /v1/rollout/changes as msgspec structs: what may change, and the transition that each is.  Used by
`serving.rollout_routes`, and by `serving.document` to describe them."""

from typing import Annotated

import msgspec

from infra.clock import SystemClock
from serving import rollout as transitions
from serving.rollout import Arm, Experiment, Rollout, Transition

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=100, description="Who decides, for the audit log.")]
Why = Annotated[str, msgspec.Meta(min_length=1, max_length=500, description="The reason, for the audit log.")]
Hash = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{16}$", description="The artefact's hash, whole.")]
Expected = Annotated[
    int | None,
    msgspec.Meta(description="Number of the document that was decided on: the change is refused where another came first."),
]


class Change(msgspec.Struct, forbid_unknown_fields=True, tag_field="change", kw_only=True):
    """What all changes have."""

    who: Name
    why: Why
    expected: Expected = None

    @property
    def newcomers(self) -> tuple[str, ...]:
        """Models that would get traffic."""
        return ()


class _OfOne(Change, kw_only=True):
    artefact: Hash

    @property
    def newcomers(self) -> tuple[str, ...]:
        """See `Change`."""
        return (self.artefact,)


class Promote(_OfOne, tag="promote", kw_only=True):
    """The artefact becomes champion."""

    @property
    def transition(self) -> Transition:
        """What it does to the document."""
        return lambda now: transitions.promote(now, self.artefact)


class Rollback(Change, tag="rollback", kw_only=True):
    """The champion before answers again; `serving.rollout_store.rollback` knows which that was."""


class StartCanary(_OfOne, tag="canary", kw_only=True):
    """The artefact answers a share of the users; of the canary that runs, the share changes."""

    share: Annotated[float, msgspec.Meta(gt=0, le=transitions.MOST_SHARE)]

    @property
    def transition(self) -> Transition:
        """See `Promote`."""
        return lambda now: transitions.start_canary(now, self.artefact, self.share, SystemClock().now_us())


class EndCanary(Change, tag="end canary", kw_only=True):
    """Its users go back to their arms."""

    @property
    def transition(self) -> Transition:
        """See `Promote`."""
        return transitions.end_canary


class AddShadow(_OfOne, tag="shadow", kw_only=True):
    """The artefact scores every request and answers none."""

    @property
    def transition(self) -> Transition:
        """See `Promote`."""
        return lambda now: transitions.add_shadow(now, self.artefact)


class DropShadow(_OfOne, tag="unshadow", kw_only=True):
    """It scores no more."""

    @property
    def newcomers(self) -> tuple[str, ...]:
        """See `Change`: a damaged one can be dropped."""
        return ()

    @property
    def transition(self) -> Transition:
        """See `Promote`."""
        return lambda now: transitions.drop_shadow(now, self.artefact)


class StartExperiment(Change, tag="experiment", kw_only=True):
    """The users are shared among the arms."""

    salt: Annotated[str, msgspec.Meta(min_length=1, max_length=100, description="The experiment's name.")]
    arms: Annotated[list[Arm], msgspec.Meta(min_length=2, max_length=20)]

    @property
    def newcomers(self) -> tuple[str, ...]:
        """See `Change`."""
        return self._experiment.artefacts

    @property
    def transition(self) -> Transition:
        """See `Promote`."""
        return lambda now: transitions.start_experiment(now, self._experiment)

    @property
    def _experiment(self) -> Experiment:
        return Experiment(self.salt, tuple(self.arms))


class EndExperiment(Change, tag="end experiment", kw_only=True):
    """Back to the A/A test."""

    @property
    def transition(self) -> Transition:
        """See `Promote`."""
        return transitions.end_experiment


AnyChange = Promote | Rollback | StartCanary | EndCanary | AddShadow | DropShadow | StartExperiment | EndExperiment


class RolloutAnswer(msgspec.Struct):
    """Answer of /v1/rollout: the document, and the share of users that each arm gets."""

    rollout: Rollout
    plan: dict[str, float]
