"""How big a simulated market is, and which calendar it lives in.  Read by every part of the world.

The sizes differ in numbers only: the same laws hold in each.  Two more, market and bazaar, are what the gauntlet breaks: fewer
users, and two tunings.
"""

import hashlib
from dataclasses import asdict, dataclass, field

from infra.clock import DAY_US
from infra.errors import ExplainedError
from pipelines.sources.contract import Split
from pipelines.sources.world.tuning import BAZAAR, MARKET, Tuning

FIRST_DAY_US = 1_767_571_200_000_000  # 2026-01-05, a Monday, 00:00 UTC

CONTINUATION_DAYS = 120  # how long a world can go on after its history; users and campaigns keep arriving in them


@dataclass(frozen=True, slots=True)
class WorldConfig:
    """The dials of a market.  `users` and `ads` count those who exist at some time in the history."""

    size: str
    seed: int
    days: int
    impressions_a_day: int
    users: int
    ads: int
    split: Split  # its days sum to days - 1: the last day's clicks haven't all come when the history ends
    candidates: int = 20
    slots: int = 4
    first_day_us: int = FIRST_DAY_US
    tuning: Tuning = field(default=MARKET)

    @property
    def end_us(self) -> int:
        """The end of the history: its watermark."""
        return self.first_day_us + self.days * DAY_US

    @property
    def horizon_days(self) -> int:
        """Days from the first for which users and campaigns are planned."""
        return self.days + CONTINUATION_DAYS

    @property
    def horizon_us(self) -> int:
        """The instant after which the world has no more plan."""
        return self.first_day_us + self.horizon_days * DAY_US

    def identity(self) -> str:
        """A short hash of every dial that events depend on: two worlds with the same identity are the same world."""
        events = {name: value for name, value in asdict(self).items() if name != "split"}  # how days are used changes no event
        if self.tuning == MARKET:  # worlds made before there was another tuning keep their identity
            del events["tuning"]
        return hashlib.blake2b(repr(events).encode(), digest_size=8).hexdigest()

    @classmethod
    def of(cls, size: str, seed: int) -> "WorldConfig":
        """The configuration of a named size; ExplainedError names the sizes there are."""
        if size == "tiny":
            return cls("tiny", seed, 14, 4_000, 600, 120, Split(5, 3, 1, 2, 2))
        if size == "small":
            return cls("small", seed, 28, 50_000, 12_000, 1_500, Split(13, 7, 1, 1, 5))
        if size == "large":
            return cls("large", seed, 28, 400_000, 120_000, 6_000, Split(13, 7, 1, 1, 5))
        if size == "market":
            return cls("market", seed, 28, 45_000, 9_000, 1_500, Split(18, 6, 1, 2, 0))
        if size == "bazaar":
            split = Split(18, 6, 1, 2, 0)
            return cls("bazaar", seed, 28, 40_000, 11_000, 3_000, split, 24, 3, FIRST_DAY_US + 49 * DAY_US, BAZAAR)
        raise ExplainedError(f"no size {size!r} of the simulated market; there are tiny, small and large; market and bazaar")
