"""Worlds of size tiny, a policy without an opinion, and the columns of what they answer.  Used by tests of the world."""

import numpy as np
import pyarrow as pa

from pipelines.sources.contract import Requests, Response, Slates
from pipelines.sources.world.config import WorldConfig
from pipelines.sources.world.market import World


def tiny(seed: int = 1) -> World:
    return World(WorldConfig.of("tiny", seed))


def all_of(answers: list[Response], stream: str) -> pa.Table:
    return pa.concat_tables([getattr(answer, stream) for answer in answers])


def column(table: pa.Table, name: str) -> np.ndarray:
    values = table[name]
    if pa.types.is_timestamp(values.type):
        values = values.cast(pa.int64())
    return values.combine_chunks().to_numpy(zero_copy_only=False)


def at_random(requests: Requests) -> Slates:
    """A policy that shows the first candidates, which come in an order without meaning."""
    n, k = requests.candidates.shape
    shown = np.tile(np.arange(4), (n, 1))
    return Slates(requests, shown, np.full((n, 4), 1 / k, np.float32), np.ones(n, bool), "first")
