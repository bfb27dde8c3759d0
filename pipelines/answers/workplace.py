"""A branch to measure on: whatever an answer serves, breaks or trains there is gone afterwards and the home stays as it was."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from features.batch import I64, Array, RequestBatch
from features.catalogue import View
from features.ids import uniform
from features.sources import Stamps
from infra import branch
from infra.clock import DAY_US
from infra.errors import ExplainedError
from infra.home import Home
from infra.settings import Settings
from models.contract import Dataset
from pipelines.ingest import ingest_all
from pipelines.materialize import materialize_all
from pipelines.sources.contract import Source
from pipelines.training import Parts

SALT = 0x414E53


@contextmanager
def workplace(home: Home, name: str) -> Iterator[Home]:
    """A branch of the home, dropped at the end."""
    made = branch.create(home, f"answer-{name}-{os.getpid()}")
    try:
        yield made
    finally:
        branch.drop(made)


def asked_for(parts: Parts, data: Dataset) -> RequestBatch:
    """The requests behind some rows of a training set, in their order: to look their features up in another way."""
    asked = parts.requests
    order = np.argsort(asked.row_id)
    return take(asked, order[np.searchsorted(asked.row_id, data.row_id, sorter=order)])


def take(asked: RequestBatch, rows: I64) -> RequestBatch:
    """Some of the requests."""
    context = {name: values[rows] for name, values in asked.context.items()}
    return RequestBatch(asked.row_id[rows], asked.time_us[rows], asked.user_id[rows], asked.ad_id[rows], context)


def with_columns(data: Dataset, columns: Mapping[str, Array]) -> Dataset:
    """The same rows with features that were looked up in another way."""
    return replace(data, columns=columns)


def some_users(data: Dataset, most: int) -> Dataset:
    """The rows of a hashed share of the users, about `most` rows; all of them where there are fewer."""
    return data.take(uniform(data.group, SALT) < most / max(len(data), 1))


def later(delays_us: dict[str, int]) -> Stamps:
    """Rows of the views named come that much later than they did."""

    def stamps(view: View, available_us: I64, event_us: I64) -> tuple[I64, I64]:
        return available_us + delays_us.get(view.name, 0), event_us

    return stamps


def times(chosen: Settings, count: int) -> int:
    """How often to repeat a measurement: a tenth of `count` at size tiny, which is for tests."""
    return max(count // 10, 1) if chosen.size == "tiny" else count


def go_on(work: Home, source: Source, days: int) -> None:
    """Let the world of a branch go on for some days under the legacy ranker, ingest and materialise them.

    Raises ExplainedError for a source that is a finished log."""
    from pipelines.sources.world.legacy import LegacyRanker
    from pipelines.sources.world.source import WorldSource

    if not isinstance(source, WorldSource):
        raise ExplainedError(
            f"this answer needs a world that goes on for {days} more days; {source.spec.name} is a finished log"
        )
    world = source.resume(work)
    source.extend(work, LegacyRanker.of(world), world.now_us + days * DAY_US, progress=False)
    ingest_all(work, source.spec, progress=False)
    materialize_all(work, source.spec, progress=False)
