"""The trial of a model on a home's own rows before people give it traffic.  Called by `clickproof rollout`."""

from contextlib import closing
from typing import cast

from features.catalogue import Entity
from features.online import OnlineSource
from infra.errors import ExplainedError
from infra.home import Home
from infra.settings import Settings
from models.artefact import ArtefactError, load
from serving.admission import examine, probe
from serving.messages import context_names
from serving.rollout import Rollout
from serving.serve import server_clock


def admit(home: Home, chosen: Settings, now: Rollout, name: str) -> None:
    """Raises ExplainedError with the reasons where a model may not get traffic."""
    try:
        champion = load(home.artefacts, now.champion)
    except ArtefactError as error:
        raise ExplainedError(
            f"the champion is damaged, so nothing can be compared with it: {error}; "
            "clickproof rollout rollback --why TEXT goes back to the one before"
        ) from None
    entities, context = cast(tuple[Entity, ...], champion.entities), context_names(champion.spec.names)
    with closing(OnlineSource(home, entities, context, champion.service)) as source:
        asked = probe(champion, source, server_clock(home, chosen).now_us())
    found = examine(home.artefacts, name, asked)
    if found.reasons:
        raise ExplainedError(f"{name} gets no traffic: {'; '.join(found.reasons)}")
