"""A few days of the simulated market, small enough to go through the whole pipeline in seconds.  Used by tests of seams."""

from infra.home import Home
from pipelines.ingest import ingest_all
from pipelines.materialize import materialize_all
from pipelines.sources.contract import Split
from pipelines.sources.world.config import WorldConfig
from pipelines.sources.world.source import WorldSource

SOURCE = WorldSource(WorldConfig("tiny", 1, 6, 1500, 300, 60, Split(1, 1, 1, 1, 1)))
SPEC = SOURCE.spec


def fill(home: Home) -> Home:
    """Land, ingest and materialise the market in a home."""
    SOURCE.deliver(home, progress=False)
    return bring_in(home)


def bring_in(home: Home) -> Home:
    """Ingest and materialise what landed in a home."""
    ingest_all(home, SPEC, progress=False)
    materialize_all(home, SPEC, progress=False)
    return home
