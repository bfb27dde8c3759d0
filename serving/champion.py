"""The model that a home serves: the artefact behind the registry's alias `champion`.  Used online, in batch and by benches."""

from infra.errors import ExplainedError
from infra.home import Home
from models.artefact import Artefact, load
from models.registry import alias_hash


def champion(home: Home, threads: int = 1) -> Artefact:
    """The champion, scoring with `threads` threads.

    Raises ExplainedError where the home has none yet, ArtefactError where its files are damaged.
    """
    name = alias_hash(home, "champion")
    if name is None:
        raise ExplainedError(f"{home.root} has no champion yet: `make train` (or `clickproof train`) trains and promotes one")
    return load(home.artefacts, name, threads=threads)
