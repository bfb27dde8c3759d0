"""`clickproof serve`: the endpoint with the guard of its canaries beside it."""

import logging

from infra.home import Home
from infra.settings import Settings
from pipelines.sources.registry import check
from serving import rollout_store
from serving.companions import Companion
from serving.rollout import Rollout, RolloutError, end_canary
from serving.rollout_audit import SERVER
from serving.serve import serve as answer

_log = logging.getLogger("clickproof.serving")


def unguarded(home: Home, rollout: Rollout) -> None:
    """What follows when no guard can be kept alive: the canary goes back."""
    try:
        rollout_store.change(home, SERVER, "the guard can't be kept alive", end_canary, expected=rollout.number)
    except RolloutError as error:
        _log.warning("a canary without a guard was not taken out: %s", error)


GUARD = Companion("pipelines.canary_watch", lambda rollout: rollout.canary is not None, unguarded)


def serve(chosen: Settings) -> None:
    """Answer requests until told to stop.  Raises ExplainedError where there can be no home by the settings' size and source:
    what will never be there is not waited for."""
    check(chosen.source, chosen.size)
    answer(chosen.base(), chosen, [GUARD])
