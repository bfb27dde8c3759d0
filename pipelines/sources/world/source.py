"""The world as a `Source`: its history under the legacy ranker, and its continuation on a branch.  Made by the registry."""

from pathlib import Path

import pyarrow as pa

from infra.clock import DAY_US, day_name
from infra.errors import ExplainedError
from infra.home import Home
from pipelines.sources.contract import SourceSpec
from pipelines.sources.history import ANSWERS, Policy, Transform, land_days, resume, state_path
from pipelines.sources.world.config import WorldConfig
from pipelines.sources.world.legacy import LegacyRanker
from pipelines.sources.world.market import World
from pipelines.sources.world.tables import CONTEXT


class WorldSource:
    """A simulated market of one size and seed."""

    def __init__(self, config: WorldConfig) -> None:
        self.config = config
        self.spec = SourceSpec(
            name="world",
            entities=("user", "ad", "campaign", "placement"),
            context=CONTEXT,
            streams=("requests", "impressions", "clicks", "users", "ads"),
            split=config.split,
            first_day_us=config.first_day_us,
            days=config.days,
            truth=True,
        )

    def environment(self) -> World:
        """The world on its first morning."""
        return World(self.config)

    def resume(self, home: Home) -> World:
        """The world where the home's landed events end.  Raises ExplainedError where the home has none, or another world's."""
        world = self.environment()
        if not resume(world, home):
            raise ExplainedError(f"{home.root} has no history to continue; deliver it first (clickproof ingest)")
        return world

    def deliver(self, home: Home, progress: bool = True) -> dict[str, int]:
        """See `pipelines.sources.contract.Source`.  A home that lacks a landed file is written anew, to the same bytes.

        Raises ExplainedError where the home holds the history of another world."""
        world = self.environment()
        if resume(world, home) and not self._whole(home, world.now_us):
            state_path(home).unlink()
            world = self.environment()
        return land_days(home, world, LegacyRanker.of(world), self.config.end_us, self._profiles(world), progress=progress)

    def extend(
        self,
        home: Home,
        policy: Policy,
        until_us: int,
        transform: Transform | None = None,
        progress: bool = True,
        start_from: Home | None = None,
    ) -> dict[str, int]:
        """Let the world go on after what is landed, up to `until_us` (a midnight), and land it: `history.land_days`.

        With `start_from` the past is read there and only the new days are written to `home`, a branch.
        """
        world = self.resume(start_from or home)
        profiles = self._profiles(world, until_us)
        return land_days(home, world, policy, until_us, profiles, transform, progress, start_from)

    def _profiles(self, world: World, until_us: int | None = None) -> dict[str, pa.Table]:
        return {"users": world.users(until_us), "ads": world.ads(until_us)}

    def _whole(self, home: Home, until_us: int) -> bool:
        """Whether every file of the history up to an instant is there."""
        files: list[Path] = []
        for at in range(self.config.first_day_us, min(until_us, self.config.end_us), DAY_US):
            day = f"day={day_name(at)}"
            files += [home.landing / stream / day / "part-0.parquet" for stream in (*ANSWERS, "users", "ads")]
            files.append(home.truth / f"{day}.parquet")
        return all(file.exists() for file in files)
