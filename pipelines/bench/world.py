"""How fast, how flat and how real the simulated market is.  Called by `clickproof bench world`.

The goal is 100,000 impressions a CPU second, with the logging policy and without writing files, on one thread; and memory
that doesn't grow with the days.
"""

import tempfile
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from infra.clock import DAY_US, HOUR_US
from infra.home import Home
from pipelines.sources.contract import Requests, Slates
from pipelines.sources.history import land_days, simulate
from pipelines.sources.world.config import WorldConfig
from pipelines.sources.world.legacy import LegacyRanker
from pipelines.sources.world.market import World

GOAL = 100_000  # impressions a CPU second


def run(size: str = "small", days: int = 6, seed: int = 1) -> dict[str, Any]:
    """Figures of `days` days of a market of `size`: speed, click rate, what a perfect model would reach, memory."""
    figures = speed(size, days, seed)
    short, long = (peak_mb(size, n, seed) for n in (2, 6))
    return {
        "size": size,
        "days": days,
        "goal_impressions_per_cpu_second": GOAL,
        **figures,
        "speed_over_goal": round(figures["impressions_per_cpu_second"] / GOAL, 2),
        "peak_mb_2_days": short,
        "peak_mb_6_days": long,
        "peak_6_over_2_days": round(long / short, 3),
    }


def speed(size: str, days: int, seed: int) -> dict[str, Any]:
    from sklearn.metrics import log_loss, roc_auc_score

    world = World(WorldConfig.of(size, seed))
    policy = LegacyRanker.of(world)
    started = time.process_time()
    answers = list(simulate(world, policy, world.now_us + days * DAY_US))
    cpu_s = time.process_time() - started
    impressions = pa.concat_tables([answer.impressions for answer in answers])
    clicks = pa.concat_tables([answer.clicks for answer in answers])
    truth = pa.concat_tables([answer.truth for answer in answers])
    shown_id, shown_us = impressions["impression_id"].to_numpy(), _us(impressions, "event_timestamp")
    clicked_id = clicks["impression_id"].to_numpy()
    order = np.argsort(shown_id)
    delay = _us(clicks, "event_timestamp") - shown_us[order[np.searchsorted(shown_id[order], clicked_id)]]
    label, p = np.isin(shown_id, clicked_id), truth["p_true"].to_numpy()
    base = float(label.mean())
    entropy = -(base * np.log(base) + (1 - base) * np.log(1 - base))
    return {
        "impressions": len(shown_id),
        "impressions_per_cpu_second": round(len(shown_id) / cpu_s),
        "click_rate": round(base, 5),
        "auc_of_truth": round(float(roc_auc_score(label, p)), 4),
        "normalised_entropy_of_truth": round(float(log_loss(label, p) / entropy), 4),
        "share_of_clicks_after_24h": round(float((delay > 24 * HOUR_US).mean()), 4),
    }


def _us(table: pa.Table, name: str) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.asarray(table[name].cast(pa.int64()).to_numpy())


def peak_mb(size: str, days: int, seed: int) -> float:
    """Most memory held by arrays (numpy, exact) and tables (Arrow, looked at every chunk) while a history is landed, MB."""
    tables: list[int] = []
    at_start = pa.total_allocated_bytes()
    tracemalloc.start()
    try:
        world = World(WorldConfig.of(size, seed))
        profiles = {"users": world.users(), "ads": world.ads()}
        rank = LegacyRanker.of(world)

        def watched(requests: Requests) -> Slates:
            tables.append(pa.total_allocated_bytes() - at_start)
            return rank(requests)

        with tempfile.TemporaryDirectory() as folder:
            land_days(Home(Path(folder)), world, watched, world.now_us + days * DAY_US, profiles, progress=False)
        arrays = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    return round((arrays + max(tables)) / 1e6, 1)
