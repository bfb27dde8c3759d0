"""Whom and what a benchmark asks about: users, ads and contexts that occur in a home's lake, as requests prepared beforehand.

Used by `pipelines.bench.serve`, `pipelines.load` and answers that drive a server.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from features.batch import I64
from features.requests import context_column
from infra.home import Home
from infra.lake import Lake
from models.artefact import Artefact
from serving.messages import context_names
from serving.scorer import RankRequest

# Popularity of users: P(rank r) ~ r^-0.99, the constant of YCSB (Cooper et al. 2010, "Benchmarking cloud serving systems").
ZIPF = 0.99
SLOTS = 4


@dataclass(frozen=True, slots=True)
class Population:
    """Users, ads and contexts that occur on the lake's last day, to ask about."""

    users: np.ndarray
    ads: np.ndarray
    context: dict[str, list[Any]]  # by name, values aligned with each other
    rng: np.random.Generator

    @classmethod
    def of(cls, home: Home, artefact: Artefact, seed: int) -> "Population":
        return cls.on_last_day(home, context_names(artefact.spec.names), seed)

    @classmethod
    def on_last_day(cls, home: Home, names: Sequence[str], seed: int) -> "Population":
        """`names` are the context fields that requests carry."""
        lake = Lake.of(home)
        rows: pa.Table = lake.read("impressions", ["user_id", "ad_id", *names], lake.days("impressions")[-1:])
        context = {name: context_column(rows[name]).tolist() for name in names}
        users = rows["user_id"].fill_null(-1).to_numpy()
        return cls(users, np.unique(rows["ad_id"].to_numpy()), context, np.random.default_rng(seed))

    def request(self, n: int) -> RankRequest:
        """A user of the day in a context of the day, with n of its ads (with all of them, where there are fewer)."""
        row = int(self.rng.integers(len(self.users)))
        ads = self.rng.choice(self.ads, min(n, len(self.ads)), replace=False)
        return RankRequest(int(self.users[row]), ads, SLOTS, {name: values[row] for name, values in self.context.items()})

    def requests(self, n: int, users: I64) -> list[RankRequest]:
        """One request a user, in contexts of the day with n of its ads."""
        return [replace(self.request(n), user_id=user) for user in users.tolist()]

    def bodies(self, n: int, count: int) -> list[bytes]:
        """Requests as whole HTTP/1.1 messages."""
        return [message(body(self.request(n))) for _ in range(count)]


def ranked_users(home: Home) -> I64:
    """Every user who was ever shown an ad, the one with the most impressions first."""
    counted = Lake.of(home).read("impressions", ["user_id"])["user_id"].drop_null().value_counts()
    users, counts = (counted.field(name).to_numpy() for name in ("values", "counts"))
    return np.asarray(users[np.lexsort((users, -counts))], np.int64)


def zipf(rng: np.random.Generator, ranked: I64, count: int, exponent: float = ZIPF) -> I64:
    """`count` independent draws where the user of rank r = 1, 2, ... has a chance proportional to r^-exponent."""
    reached = np.cumsum(np.arange(1, len(ranked) + 1) ** -exponent)
    return ranked[np.searchsorted(reached, rng.random(count) * reached[-1], side="right")]


def body(request: RankRequest) -> bytes:
    """The JSON body of POST /v1/rank, on one line."""
    fields: dict[str, Any] = {"candidates": request.ad_id.tolist(), "slots": request.slots, "context": request.context}
    if request.user_id >= 0:
        fields["user_id"] = request.user_id
    return msgspec.json.encode(fields)


def message(content: bytes, path: str = "/v1/rank") -> bytes:
    """A body as a whole HTTP/1.1 message that keeps the connection."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content
