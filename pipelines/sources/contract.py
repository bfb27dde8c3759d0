"""What a source of events declares, and what an environment can do.

A *source* delivers raw event files into `home.landing`, laid out by stream and day of arrival, in the shapes of
`features.schemas.STREAMS`.  An *environment* is a source that also reacts: what is shown changes what comes back.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from features.catalogue import Entity
from infra.home import Home


@dataclass(frozen=True, slots=True)
class Split:
    """Whole days from the first day with data: the first ones only feed features; then train, valid, calibrate, test."""

    features: int
    train: int
    valid: int
    calibrate: int
    test: int


@dataclass(frozen=True, slots=True)
class SourceSpec:
    """What a data set has.  Views whose entity is missing are skipped, and reports say so."""

    name: str
    entities: tuple[Entity, ...]
    context: tuple[
        str, ...
    ]  # context columns on every impression, from features.catalogue.CONTEXT or the source's own (strings)
    streams: tuple[str, ...]  # which of features.schemas.STREAMS it delivers
    split: Split
    first_day_us: int
    days: int
    truth: bool  # whether true click probabilities exist


class Source(Protocol):
    """Where events come from."""

    spec: SourceSpec

    def deliver(self, home: Home, progress: bool = True) -> dict[str, int]:
        """Write all of the source's files into `home.landing` (and truth into `home.truth`); rows written by stream.

        Doing it again writes the same bytes; a part written before an interruption is completed."""
        ...


@dataclass(frozen=True, slots=True)
class Requests:
    """n requests with k candidate ads each, in time order."""

    request_id: npt.NDArray[np.int64]  # [n]
    time_us: npt.NDArray[np.int64]  # [n]
    user_id: npt.NDArray[np.int64]  # [n]
    context: dict[str, npt.NDArray[np.generic]]  # name -> [n]
    candidates: npt.NDArray[np.int64]  # [n, k] ad ids
    bids: npt.NDArray[np.float32]  # [n, k]

    def __len__(self) -> int:
        return len(self.request_id)


@dataclass(frozen=True, slots=True)
class Slates:
    """What a policy decided to show for n requests: `slots` ads each, top first."""

    requests: Requests
    shown: npt.NDArray[np.int64]  # [n, slots] indexes into candidates
    propensity: npt.NDArray[np.float32]  # [n, slots]
    randomised: npt.NDArray[np.bool_]  # [n]
    policy: str


@dataclass(frozen=True, slots=True)
class Response:
    """What came of slates: tables as in features.schemas, and the truth (impression_id, p_true) that only evaluation opens."""

    requests: pa.Table
    impressions: pa.Table
    clicks: pa.Table
    truth: pa.Table


class Environment(Protocol):
    """An ad market that answers back: history and live traffic are this interface driven by different policies."""

    def requests(self, until_us: int) -> Iterator[Requests]:
        """Requests from where the environment stands up to `until_us`, in chunks of at most an hour, in time order.

        Each chunk must be answered by `respond` before the next is drawn: who comes back depends on what was shown."""
        ...

    def respond(self, slates: Slates) -> Response:
        """Show the slates: impressions, clicks with the times they will arrive, and the truth behind them."""
        ...
