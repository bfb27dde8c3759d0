"""What the online store costs a request: SQLite in the home beside Redis, in one run.

A part of `clickproof bench serve`.  Users by popularity are nearly always kept by the server, whichever store there is; asked
for once each, every request reads its user's row.
"""

import json
from collections.abc import Sequence
from typing import Any

from infra.home import Home
from models.artefact import Artefact
from pipelines.bench.contest import SLOW_S, Contestant, side_by_side
from pipelines.bench.population import Population, body, ranked_users
from pipelines.bench.processes import SERVE, server
from pipelines.bench.redis_server import SERVE as SERVE_FROM_REDIS
from pipelines.bench.redis_server import have_redis, redis_of
from pipelines.console import say
from pipelines.sources.contract import SourceSpec

KEPT, READ = "kept", "read"  # the user's row: found in the server, read from the store
ROUNDS = 3
SEED = 23


def stores(
    work: Home,
    source: SourceSpec,
    artefact: Artefact,
    bodies: Sequence[bytes],
    load: tuple[int, int],
    seconds: int,
    on: set[int],
) -> dict[str, Any] | None:
    """{store: {kept, read: figures}} of a closed loop under `load` (candidates, connections); None where redis-server isn't
    there.  `redis_us` is Redis' own processor time a request."""
    if not have_redis():
        return None
    say("SQLite beside Redis")
    n = load[0]
    users = ranked_users(work)
    once = [body(request) for request in Population.of(work, artefact, SEED).requests(n, users)]
    asked = {READ: once, KEPT: bodies}  # in this order: afterwards everybody is kept
    with redis_of(work, source) as store:
        patient = {"max_wait_ms": SLOW_S * 1e3}
        with (
            server(SERVE, work.root, json.dumps(patient), on=on) as embedded,
            server(SERVE_FROM_REDIS, work.root, json.dumps({"online_url": store.url, **patient}), on=on) as remote,
        ):
            found: dict[str, Any] = {"sqlite": {}, "redis": {}}
            for kind, several in asked.items():
                counted = len(users) // ROUNDS if kind == READ else None  # nobody is asked for twice
                contestants = [
                    Contestant(name, one, {n: several}, measured=True, counted=counted)
                    for name, one in (("sqlite", embedded), ("redis", remote))
                ]
                before_s = store.cpu_s
                cells = side_by_side(contestants, [load], ROUNDS, seconds)
                for name in found:
                    cell = cells[name][load]
                    found[name][kind] = {**cell.figures(), "hit_rate": cell.inside.hit_rate}
                requests = found["redis"][kind]["requests"]
                found["redis"][kind]["redis_us"] = round((store.cpu_s - before_s) / requests * 1e6, 1)
    return found
