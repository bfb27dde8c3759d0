"""Worlds of other sizes and seeds, made in a temporary folder for one answer: events, lake and features, without Prefect."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.home import Home
from infra.settings import Settings
from pipelines.ingest import ingest_all
from pipelines.materialize import materialize_all
from pipelines.sources.contract import SourceSpec
from pipelines.sources.registry import source_of


@contextmanager
def temporary_world(chosen: Settings, size: str, seed: int) -> Iterator[tuple[Home, SourceSpec]]:
    """The history of a world of that size and seed with its features, gone when the block ends."""
    folder = chosen.base().branches
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".world-", dir=folder) as root:
        there = chosen.model_copy(update={"source": "world", "size": size, "seed": seed, "home": Path(root)})
        source, home = source_of(there), there.base()
        source.deliver(home, progress=False)
        ingest_all(home, source.spec, progress=False)
        materialize_all(home, source.spec, progress=False)
        yield home, source.spec
