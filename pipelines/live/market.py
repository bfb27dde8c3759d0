"""What a fault does to the world itself: to the requests that come (`traffic`) and to what users click (`market`).

The market answers what the requests have become, so features, clicks and who comes back follow by themselves.  Called by
`pipelines.live.system`.
"""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features.requests import context_column
from features.schemas import CLICKS, TIME
from infra.clock import HOUR_US
from pipelines.live.ask import SLOTS
from pipelines.live.injection import Fault
from pipelines.sources.contract import Requests, Response
from pipelines.sources.world.market import World
from pipelines.sources.world.retrieval import bids, candidates
from pipelines.windows import positions

I64 = npt.NDArray[np.int64]


def requests_after(asked: Requests, fault: Fault, world: World) -> Requests:
    """A chunk's requests as they come, in order of time."""
    if fault.now is None or fault.now.bug.stage != "traffic":
        return asked
    look = {"new_ads": pa.table({"ad_id": new_ads(world, fault.now.onset_us)})}
    before = pa.table(
        {
            "request_id": asked.request_id,
            "event_timestamp": pa.array(asked.time_us).cast(TIME),
            "user_id": asked.user_id,
            **{name: pa.array(values) for name, values in asked.context.items()},
        }
    )
    rows = fault.rows("traffic", "requests", before, look)
    if rows is not before:
        asked = _with_rows(asked, rows, world)
    k = asked.candidates.shape[1]
    pairs = pa.table({"request_id": np.repeat(asked.request_id, k), "ad_id": asked.candidates.reshape(-1)})
    after = fault.rows("traffic", "candidates", pairs, look)
    return asked if after is pairs else _with_candidates(asked, after, world)


def clicks_after(response: Response, fault: Fault) -> Response:
    """What users do, as it becomes."""
    if fault.at("market", "clicks") is None:
        return response
    impressions = response.impressions.append_column("p_true", response.truth["p_true"])
    clicks = fault.rows("market", "clicks", response.clicks, {"impressions": impressions})
    return replace(response, clicks=clicks.select(CLICKS.names).cast(CLICKS))


def new_ads(world: World, onset_us: int) -> I64:
    """Ads that nobody has shown before an instant, in order of their creation."""
    created_us = world.inventory.created_us
    later = np.flatnonzero(created_us >= onset_us)
    return np.asarray(later[np.argsort(created_us[later], kind="stable")] + 1)


def _with_rows(asked: Requests, rows: pa.Table, world: World) -> Requests:
    """Requests as a table says; one that the world did not send gets the candidates that retrieval gives it."""
    rows = rows.sort_by([("event_timestamp", "ascending"), ("request_id", "ascending")])
    ids = rows["request_id"].to_numpy()
    known = positions(asked.request_id, ids)
    chosen = asked.candidates[known]
    if (known < 0).any():
        hour_us = int(asked.time_us[0] - asked.time_us[0] % HOUR_US)
        chosen[known < 0] = candidates(world.config.seed, world.inventory, hour_us, ids[known < 0], chosen.shape[1]) + 1
    return Requests(
        ids,
        pc.cast(rows["event_timestamp"], pa.int64()).to_numpy(),
        pc.fill_null(pc.cast(rows["user_id"], pa.int64()), -1).to_numpy(),
        {name: context_column(rows[name]) for name in asked.context},
        chosen,
        bids(world.config.seed, world.inventory, ids, chosen - 1),
    )


def _with_candidates(asked: Requests, rows: pa.Table, world: World) -> Requests:
    """Requests with other candidates; where some have more than others, the last are left out."""
    at = positions(asked.request_id, rows["request_id"].to_numpy())
    order = np.argsort(at, kind="stable")
    order = order[at[order] >= 0]
    counts = np.bincount(at[order], minlength=len(asked))
    k = int(counts.min())
    if k < SLOTS:
        raise ValueError(f"a bug leaves a request {k} candidates; there are {SLOTS} slots")
    starts = np.cumsum(counts) - counts
    chosen = rows["ad_id"].to_numpy()[order[starts[:, None] + np.arange(k)]]
    return replace(asked, candidates=chosen, bids=bids(world.config.seed, world.inventory, asked.request_id, chosen - 1))
