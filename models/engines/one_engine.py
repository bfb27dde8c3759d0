"""An artefact that one engine computes, to compare engines: for `models.engines.int8` and `clickproof answer engines`."""

import copy
from dataclasses import replace

from models.artefact import Artefact
from models.engines.choice import Choice
from models.engines.engine import Engine, HasEngines


def computed_by(artefact: Artefact, engine: Engine) -> Artefact:
    """The same artefact with the same hash, computed by one engine whatever the batch; the one given stays as it is."""
    model = copy.copy(artefact.model)
    if not isinstance(model, HasEngines):
        raise TypeError(f"a {artefact.family} model has no engines to choose from")
    model.use_engines(Choice((engine,), (), f"{engine.name}, as asked"))
    return replace(artefact, model=model)
