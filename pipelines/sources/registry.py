"""Names of sources and how each is made.  Called by every command that needs to know where events come from."""

from pathlib import Path

from infra.errors import ExplainedError
from infra.settings import Settings
from pipelines.sources.contract import Source

SOURCES = ("world", "open-bandit")


def source(name: str, size: str, seed: int, data: Path | None) -> Source:
    """The source of that name.  `size` and `seed` are the simulated world's; `data` is the folder (or archive) of real data.

    Raises ExplainedError for a name, size or folder that doesn't exist, naming those that do.
    """
    check(name, size)
    if name == "world":
        from pipelines.sources.world.config import WorldConfig
        from pipelines.sources.world.source import WorldSource

        return WorldSource(WorldConfig.of(size, seed))
    from pipelines.sources.open_bandit import OpenBandit

    return OpenBandit(data)


def check(name: str, size: str) -> None:
    """Raises ExplainedError for a source, or a size of the simulated world, that doesn't exist, naming those that do."""
    if name not in SOURCES:
        raise ExplainedError(f"no source {name!r}; there are {', '.join(SOURCES)}")
    if name == "world":
        from pipelines.sources.world.config import WorldConfig

        WorldConfig.of(size, seed=0)


def source_of(chosen: Settings) -> Source:
    """The source that the settings name."""
    return source(chosen.source, chosen.size, chosen.seed, chosen.data)
