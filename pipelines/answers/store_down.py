"""The feature store is down: what the endpoint does today when the file is gone, damaged, locked, or Redis is not there."""

import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from features.catalogue import VIEWS
from features.online import OnlineSource
from features.sources import AsOfSource
from infra.home import Home
from infra.settings import Settings
from pipelines.answers.material import Material, difference, material, metrics_of
from pipelines.answers.online_offline import body_of, endpoint
from pipelines.answers.staleness import NEVER_US
from pipelines.answers.workplace import asked_for, later, some_users, times, with_columns, workplace
from pipelines.bench.population import Population
from pipelines.console import say
from pipelines.markdown import interval, table
from pipelines.training import SERVICE, probability
from serving.rank_handler import Service

QUESTION = "The feature store is down."
NUMBER = 11

REQUESTS, CANDIDATES, ROWS = 200, 20, 60_000
NOBODY = "redis://127.0.0.1:1"  # a port on which nothing listens


@dataclass(frozen=True, slots=True)
class Outage:
    """One way for the store to fail: before the server starts, or while it runs."""

    story: str
    before: Callable[[Home], None] | None = None
    during: Callable[[Home, Service, ExitStack], None] | None = None


def _gone(work: Home, service: Service, held: ExitStack) -> None:
    _unlink(work)


def _unlink(work: Home) -> None:
    for path in work.online.parent.glob(f"{work.online.name}*"):
        path.unlink()


def _damaged(work: Home, service: Service, held: ExitStack) -> None:
    """Garbage over the whole file, under the running server."""
    size = work.online.stat().st_size
    with work.online.open("r+b") as file:
        file.write(b"\xff" * size)


def _locked(work: Home, service: Service, held: ExitStack) -> None:
    """Another process keeps a write transaction open."""
    other = sqlite3.connect(work.online, isolation_level=None)
    held.callback(other.close)
    other.execute("BEGIN EXCLUSIVE")


def _no_redis(work: Home, service: Service, held: ExitStack) -> None:
    """As if the server read from a Redis that has gone away."""
    old = service.scorer.source
    assert isinstance(old, OnlineSource)
    entities = tuple(dict.fromkeys(view.entity for view in old.views))
    service.scorer.source = OnlineSource(work, entities, old.context, SERVICE, NOBODY, degrade=True)


OUTAGES = (
    Outage("nothing is wrong"),
    Outage("the file is missing when the server starts", before=_unlink),
    Outage("the file is deleted while it runs", during=_gone),
    Outage("a writer holds its lock while it runs", during=_locked),
    Outage("the file is overwritten with garbage while it runs", during=_damaged),
    Outage("Redis refuses connections while it runs", during=_no_redis),
)


def run(chosen: Settings) -> dict[str, Any]:
    """Status codes and latency for each outage, and what predictions without stored features are worth."""
    found = material(chosen)
    outages = []
    for number, outage in enumerate(OUTAGES):
        say(outage.story)
        with workplace(found.home, f"outage-{number}") as work:
            outages.append({"story": outage.story, **_served(work, chosen, outage)})
    return {"outages": outages, "requests": times(chosen, REQUESTS), **_worth(found)}


def _served(work: Home, chosen: Settings, outage: Outage) -> dict[str, Any]:
    from serving.champion import champion

    asked = Population.of(work, champion(work), seed=11)
    if outage.before is not None:
        outage.before(work)
    requests = times(chosen, REQUESTS)
    statuses: Counter[int] = Counter()
    seconds, without = [], 0
    with endpoint(work, chosen) as (client, service), ExitStack() as held:
        assert isinstance(service.scorer.source, OnlineSource)
        views = {view.name for view in service.scorer.source.views}
        for _ in range(20):
            client.post("/v1/rank", json=body_of(asked, CANDIDATES))
        if outage.during is not None:
            outage.during(work, service, held)
        for _ in range(requests):
            body = body_of(asked, CANDIDATES)
            started = time.perf_counter()
            answer = client.post("/v1/rank", json=body)
            seconds.append(time.perf_counter() - started)
            statuses[answer.status_code] += 1
            without += answer.status_code == 200 and set(answer.json()["marks"]["missing"]) == views
    return {
        "statuses": {str(status): count for status, count in sorted(statuses.items())},
        "availability": statuses[200] / requests,
        "without_features": without / requests,
        "p50_ms": round(float(np.percentile(seconds, 50)) * 1e3, 2),
        "p99_ms": round(float(np.percentile(seconds, 99)) * 1e3, 2),
    }


def _worth(found: Material) -> dict[str, Any]:
    """NE of the champion with all stored features unknown, and with only the user's unknown; and of the base rate."""
    test = some_users(found.test, ROWS)
    asked = asked_for(found.parts, test)
    full = probability(found.champion, test)
    rows = [{"features": "all", **metrics_of(full, test), "difference": None}]
    for name, views in (
        ("no view of the user", [v.name for v in VIEWS if v.entity == "user"]),
        ("no view at all", [v.name for v in VIEWS]),
    ):
        stamps = later(dict.fromkeys(views, NEVER_US))
        columns = AsOfSource(found.home, found.spec.entities, found.spec.context, SERVICE, stamps).fetch(asked).columns
        p = probability(found.champion, with_columns(test, columns))
        rows.append({"features": name, **metrics_of(p, test), "difference": difference(p, full, test)})
    base = np.full(len(test), found.parts.train.label.mean())
    rows.append({"features": "the training click rate for everybody", **metrics_of(base, test)})
    rows[-1]["difference"] = difference(base, full, test)
    return {"worth": rows, "n": len(test), "clicks": int(test.label.sum()), "family": found.champion.family}


def markdown(result: dict[str, Any]) -> str:
    """What happens, and what the answers are worth."""
    rows = [
        [
            o["story"], f"{o['availability']:.0%}", ", ".join(f"{n} x {status}" for status, n in o["statuses"].items()),
            f"{o['without_features']:.0%}", f"{o['p50_ms']:.1f} / {o['p99_ms']:.1f}",
        ]
        for o in result["outages"]
    ]  # fmt: skip
    worth = [
        [
            row["features"], interval(row["ne"]), interval(row["difference"], sign=True) if row["difference"] else "",
            interval(row["calibration"]), interval(row["auc"]),
        ]
        for row in result["worth"]
    ]  # fmt: skip
    head = ["the store", "answered", "statuses", "answered without any feature", "p50 / p99, ms"]
    return (
        f"{result['requests']} requests each through the endpoint in one process, {CANDIDATES} candidates.\n\n"
        f"{table(head, rows)}\n\nWhat {result['family']}'s predictions are worth then ({result['n']:,} test impressions, "
        f"{result['clicks']:,} clicks; 95% intervals):\n\n"
        + table(["stored features", "NE", "NE difference", "clicks / promised", "AUC"], worth)
    )
