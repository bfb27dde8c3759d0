"""Do offline and online features match: a day of requests through the real endpoint, its log ingested, every value recomputed.

Then the same with one view that was not refreshed for two days, to show that the comparison can fail.
"""

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features.batch import Array, RequestBatch
from features.catalogue import CONTEXT, VIEWS
from features.sources import AsOfSource, logged_column
from infra.clock import DAY_US, HOUR_US, MINUTE_US, FixedClock, to_datetime
from infra.errors import ExplainedError
from infra.home import Home
from infra.lake import Lake, watermark_us
from infra.settings import Settings
from models.artefact import load
from monitoring import replay as replaying
from pipelines.answers.workplace import times, workplace
from pipelines.bench.population import Population
from pipelines.console import say
from pipelines.markdown import table
from pipelines.materialize import materialize_online
from pipelines.prediction_ingest import ingest_predictions
from pipelines.sources.contract import SourceSpec
from pipelines.sources.registry import source_of
from pipelines.training import SERVICE
from serving.app import create_app
from serving.champion import champion
from serving.rank_handler import Service
from serving.serve import load_service

if TYPE_CHECKING:
    from starlette.testclient import TestClient

QUESTION = "Do offline and online features match?"
NUMBER = 9

REQUESTS = 250  # at each moment
CANDIDATES = 20
# Moments of the last day at which the store is fed and the endpoint asked: before the night's rows are there, through the day,
# and when the last of them are.
MOMENTS_US = (
    10 * MINUTE_US,
    6 * HOUR_US + 17 * MINUTE_US,
    12 * HOUR_US + 1,
    18 * HOUR_US + 59 * MINUTE_US,
    DAY_US + 31 * MINUTE_US,
)
HELD_BACK, HELD_ENTITY = "campaign_daily", "campaign"
TOLERANCE = 1e-6  # of p: the last digits of float32


def run(chosen: Settings) -> dict[str, Any]:
    """Mismatches a feature and of p, with every view fresh and with one held back."""
    home, spec = chosen.base(), source_of(chosen).spec
    if HELD_ENTITY not in spec.entities:
        raise ExplainedError(f"this answer holds back {HELD_BACK}, which {spec.name} does not have: use --source world")
    midnight = (watermark_us(home) // DAY_US - 1) * DAY_US
    moments = [midnight + offset for offset in MOMENTS_US]
    say("serving with every view fed")
    with workplace(home, "fresh") as work:
        fresh = _measure(work, spec, _serve(work, spec, chosen, moments, moments))
    say(f"serving with {HELD_BACK} two days old")
    with workplace(home, "held-back") as work:
        last = moments[-1:]
        work.online.unlink()
        materialize_online(work, spec, last[0] - 2 * DAY_US)
        without = replace(spec, entities=tuple(e for e in spec.entities if e != HELD_ENTITY))
        held = _measure(work, spec, _serve(work, without, chosen, last, last))
    return {
        "moments": [to_datetime(at).strftime("%Y-%m-%d %H:%M") for at in moments],
        "candidates": CANDIDATES,
        "held_back": HELD_BACK,
        "fresh": fresh,
        "held": held,
    }


@dataclass(frozen=True, slots=True)
class Served:
    """What the endpoint answered."""

    request_ids: list[int]
    stale: float  # share of answers that carried a STALE mark


def _serve(work: Home, fed: SourceSpec, chosen: Settings, feed_us: list[int], ask_us: list[int]) -> Served:
    """Ask a running endpoint at some moments, feeding the views of `fed` before each."""
    asked = Population.of(work, champion(work), seed=9)
    ids: list[int] = []
    stale = 0
    if feed_us[0] < watermark_us(work) and len(feed_us) > 1:
        work.online.unlink()  # the guard keeps newer rows: a store fed in order of time has to begin empty
    materialize_online(work, fed, feed_us[0])
    with endpoint(work, chosen) as (client, service):
        for feed, ask in zip(feed_us, ask_us, strict=True):
            materialize_online(work, fed, feed)
            service.scorer.clock = FixedClock(ask)
            for number in range(times(chosen, REQUESTS)):
                body = body_of(asked, CANDIDATES)
                if number % 10 == 3:
                    body["user_id"] = 2**60 + number  # nobody knows
                if number % 10 == 7:
                    body["candidates"][0] = 2**61 + number
                answer = client.post("/v1/rank", json=body).json()
                ids.append(answer["request_id"])
                stale += bool(answer["marks"]["stale"])
    return Served(ids, stale / len(ids))


def body_of(asked: Population, candidates: int) -> dict[str, Any]:
    """A body for POST /v1/rank."""
    one = asked.request(candidates)
    body = {"candidates": one.ad_id.tolist(), "slots": one.slots, "context": dict(one.context)}
    return body if one.user_id < 0 else {**body, "user_id": one.user_id}


@contextmanager
def endpoint(work: Home, chosen: Settings) -> "Iterator[tuple[TestClient, Service]]":
    """The real endpoint in this process, loaded as `clickproof serve` loads it, and what it serves."""
    import warnings

    with warnings.catch_warnings(action="ignore"):  # starlette would like another http library than the one everything here has
        from starlette.testclient import TestClient
    loaded: list[Service] = []

    def load_once() -> Service:
        loaded.append(load_service(work, chosen))
        return loaded[0]

    with TestClient(create_app(load_once, chosen), raise_server_exceptions=False) as client:
        end = time.perf_counter() + 60
        while client.get("/readyz").status_code != 200:
            if time.perf_counter() > end:
                raise ExplainedError(f"the endpoint was not ready after a minute: {client.get('/readyz').text}")
            time.sleep(0.02)
        yield client, loaded[0]
    gc.unfreeze()  # a server freezes what it loaded for good; this process has other things to do and to clean up


def _measure(work: Home, spec: SourceSpec, served: Served) -> dict[str, Any]:
    """The log into the lake, and every logged value against the one recomputed from history."""
    ingest_predictions(work)
    rows = Lake.of(work).read("predictions")
    logged = rows.filter(pc.and_(pc.is_in(rows["request_id"], pa.array(served.request_ids)), pc.is_valid(rows["f_ad_id"])))
    said = {name[2:]: logged_column(logged[name]) for name in logged.column_names if name.startswith("f_")}
    asked = RequestBatch(
        np.arange(logged.num_rows),
        pc.cast(logged["event_timestamp"], pa.int64()).to_numpy(),
        pc.fill_null(logged["user_id"], -1).to_numpy(),
        logged["ad_id"].to_numpy(),
        {name: said[name] for name in spec.context},
    )
    source = AsOfSource(work, spec.entities, spec.context, SERVICE)
    again = source.fetch(asked).columns
    artefact = champion(work)
    s = artefact.score(again)
    shown = np.flatnonzero(logged["slot"].to_numpy() >= 0)
    p = artefact.probability(s[shown], logged["slot"].to_numpy()[shown])
    checks = replaying.replay(logged, source, spec.context, lambda name: load(work.artefacts, name))
    own = (*spec.context, "user_id", "ad_id")
    return {
        "requests": len(served.request_ids),
        "rows": logged.num_rows,
        "stale_marks": served.stale,
        "features": {n: int(_unequal(said[n], again[n]).sum()) for n in said if n in again and n not in own},
        "p_rows": len(shown),
        "p": int((np.abs(logged["p"].to_numpy()[shown] - p) > TOLERANCE).sum()),
        "pages": [f"{f.bug_class}: {f.subject}" for f in checks.pages],
    }


def _unequal(left: Array, right: Array) -> npt.NDArray[np.bool_]:
    """Rows that differ in any bit of value; unknown equals unknown."""
    same = left == right
    if left.dtype.kind == "f":
        same |= np.isnan(left) & np.isnan(right)
    return np.asarray(~(same.all(axis=1) if same.ndim == 2 else same))


def markdown(result: dict[str, Any]) -> str:
    """One row a feature that ever differed, the others by view, then p."""
    fresh, held = result["fresh"], result["held"]
    homes = {f.name: view.name for view in VIEWS for f in view.features} | {f.name: "request" for f in CONTEXT}
    rows = [
        [f"`{name}`", homes.get(name, "derived"), _rate(count, fresh["rows"]), _rate(held["features"][name], held["rows"])]
        for name, count in fresh["features"].items()
    ]
    rows.append(["**p**", "", _rate(fresh["p"], fresh["p_rows"]), _rate(held["p"], held["p_rows"])])
    rows.append(["answers marked STALE", "", f"{fresh['stale_marks']:.0%}", f"{held['stale_marks']:.0%}"])
    pages = [", ".join(part["pages"]) or "silent" for part in (fresh, held)]
    rows.append(["replay monitor", "", *pages])
    return (
        f"{fresh['requests']:,} requests of {result['candidates']} candidates at {len(result['moments'])} moments "
        f"({result['moments'][0]} to {result['moments'][-1]} UTC), one in ten of an "
        f"unknown user, one in ten with an unknown ad; {fresh['rows']:,} logged rows. "
        f"Mismatches are differences in any bit (p: over {TOLERANCE:g}).\n\n"
        + table(["feature", "kept in", "mismatches, all fed", f"mismatches, `{result['held_back']}` two days old"], rows)
    )


def _rate(count: int, of: int) -> str:
    return f"{count:,} of {of:,}" + (f" ({count / of:.1%})" if count else "")
