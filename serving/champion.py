"""The model that a home serves: the champion of its rollout document.  Used online, in batch and by benches."""

from infra.errors import ExplainedError
from infra.home import Home
from models.artefact import Artefact, load
from serving.rollout_store import agreed_champion


def champion(home: Home, threads: int = 1) -> Artefact:
    """The champion, scoring with `threads` threads.

    Raises ExplainedError where the home has none yet or its registry names another, ArtefactError where its files are damaged.
    """
    name = agreed_champion(home)
    if name is None:
        raise ExplainedError(f"{home.root} has no champion yet: `make train` (or `clickproof train`) trains and promotes one")
    return load(home.artefacts, name, threads=threads)
