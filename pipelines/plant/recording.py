"""The world goes on and somebody takes notes: every day's answers by day of event, and where the world stood before it.

Landing keeps events by day of arrival, as production does.  A bug in the market or in traffic needs them by the moment they
happened, with the clicks still to come; and to answer differently from some hour on the world must be put back to that day's
morning.  Called when a plant is made.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from infra.clock import DAY_US
from infra.home import Home
from pipelines.plant import files
from pipelines.sources.contract import Requests, Response, Slates
from pipelines.sources.history import Arrays, land_days, load_state
from pipelines.sources.world.legacy import LegacyRanker
from pipelines.sources.world.market import World
from pipelines.sources.world.source import WorldSource


class Recorded:
    """A world, as `pipelines.sources.history.Resumable`, whose answers are kept in `answers`."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.answers: list[Response] = []

    @property
    def identity(self) -> str:
        """See `World`."""
        return self.world.identity

    @property
    def now_us(self) -> int:
        """See `World`."""
        return self.world.now_us

    def state(self) -> Arrays:
        """See `World`."""
        return self.world.state()

    def restore(self, state: dict[str, npt.NDArray[np.generic]]) -> None:
        """See `World`."""
        self.world.restore(state)

    def requests(self, until_us: int) -> Iterator[Requests]:
        """See `World`."""
        return self.world.requests(until_us)

    def respond(self, slates: Slates) -> Response:
        """See `World`."""
        answer = self.world.respond(slates)
        self.answers.append(answer)
        return answer


def go_on(home: Home, source: WorldSource, until_us: int) -> None:
    """Let a home's world go on under the legacy ranker up to a midnight, landing each day and recording it."""
    recorded = Recorded(source.resume(home))
    policy = LegacyRanker.of(recorded.world)
    profiles = {"users": recorded.world.users(until_us), "ads": recorded.world.ads(until_us)}
    for day_us in range(recorded.now_us, until_us, DAY_US):
        recorded.answers.clear()
        _save_state(home, day_us, recorded.state())
        land_days(home, recorded, policy, day_us + DAY_US, profiles, progress=False)
        impressions = pa.concat_tables([answer.impressions for answer in recorded.answers])
        truth = pa.concat_tables([answer.truth for answer in recorded.answers])
        files.save(home, files.path(home, "impressions", day_us), impressions.append_column("p_true", truth["p_true"]))
        files.save(home, files.path(home, "clicks", day_us), pa.concat_tables([a.clicks for a in recorded.answers]))


def recorded_days(home: Home) -> list[int]:
    """The days whose answers were recorded, us, in order."""
    names = sorted(file.stem.removeprefix("day=") for file in (home.root / "plant" / "clicks").glob("day=*.arrow"))
    return [int(np.datetime64(name, "us").astype(np.int64)) for name in names]


def morning(home: Home, day_us: int) -> Arrays:
    """Where the world stood when a recorded day began, for `World.restore`."""
    saved = load_state(_state_path(home, day_us))
    if saved is None:
        raise ValueError(f"the world's morning of {day_us} us was not recorded; make the plant anew")
    return saved


def _state_path(home: Home, day_us: int) -> Path:
    return files.path(home, "world", day_us).with_suffix(".npz")


def _save_state(home: Home, day_us: int, state: Arrays) -> None:
    path = home.writing(_state_path(home, day_us))
    beside = path.with_name(f".{path.name}.{os.getpid()}.npz")
    np.savez(beside, allow_pickle=False, **state)
    os.replace(beside, path)
