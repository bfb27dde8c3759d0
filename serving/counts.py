"""Everything a server process counts: plain numbers that only grow, and add up over processes.  Used by `serving.metrics`."""

from typing import Any

import msgspec

from serving.histogram import Times
from serving.scorer import STAGES
from serving.segment_log import LogCounts

SHED = ("full", "late")  # why a request was refused under overload
STEPS = ("stale features", "priors", "popularity")  # see features.batch.Degraded
PLAIN = ("candidates", "unknown_users", "unknown_ads", "randomised")
TIMED = ("decode", *STAGES, "answer")
LOGS = ("predictions", "events")
_STATUSES = {"rank": ("200", "500", "503"), "events": ("202", "500", "503")}  # there from the start, so that ratios are


class Answers(msgspec.Struct, array_like=True):
    """Slates that one model gave in one arm."""

    slates: int = 0
    ads: int = 0  # shown
    clicks: float = 0.0  # expected: the sum of p over the ads shown

    def plus(self, other: "Answers") -> "Answers":
        """Both together."""
        return Answers(self.slates + other.slates, self.ads + other.ads, self.clicks + other.clicks)


def _zeros(*keys: str) -> Any:
    return msgspec.field(default_factory=lambda: dict.fromkeys(keys, 0))


def _statuses() -> dict[tuple[str, str], int]:
    return {(route, status): 0 for route, statuses in _STATUSES.items() for status in statuses}


class Counts(msgspec.Struct):
    """Of a process, or of several added up.  Keys are label values."""

    requests: dict[tuple[str, str], int] = msgspec.field(default_factory=_statuses)  # route, status
    answers: dict[tuple[str, str], Answers] = msgspec.field(default_factory=dict)  # arm, model
    fallbacks: dict[tuple[str, str], int] = msgspec.field(default_factory=dict)  # view, kind: requests
    rows: dict[tuple[str, str], int] = msgspec.field(default_factory=dict)  # view, kind: candidates
    degraded: dict[str, int] = _zeros(*STEPS)
    cache: dict[str, int] = _zeros("hit", "miss")  # of users
    store: dict[str, int] = _zeros("refresh", "unavailable")  # failures, by what failed
    clicks: dict[str, int] = _zeros("accepted", "duplicate")
    shed: dict[str, int] = _zeros(*SHED)
    plain: dict[str, int] = _zeros(*PLAIN)
    logs: dict[str, LogCounts] = msgspec.field(default_factory=lambda: {name: LogCounts() for name in LOGS})
    rank: Times = msgspec.field(default_factory=Times.none)
    stages: dict[str, Times] = msgspec.field(default_factory=lambda: {name: Times.none() for name in TIMED})
    loop: Times = msgspec.field(default_factory=Times.none)  # how late the event loop was

    def plus(self, other: "Counts") -> "Counts":
        """Both together."""
        return Counts(*(_sum(getattr(self, name), getattr(other, name)) for name in self.__struct_fields__))


def _sum(one: Any, other: Any) -> Any:
    if isinstance(one, int):
        return one + other
    if isinstance(one, dict):
        return {**one, **other, **{key: _sum(one[key], other[key]) for key in one.keys() & other.keys()}}
    return one.plus(other)
