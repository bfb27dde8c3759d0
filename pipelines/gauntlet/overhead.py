"""What watching costs: processor seconds of the distribution pass on half a million rows, and of a window's replay sample."""

import time
from typing import Any

import numpy as np
import pyarrow as pa

from infra.clock import DAY_US, HOUR_US
from monitoring.tiers.distribution import DistributionTier
from monitoring.tiers.replay import ReplayTier
from monitoring.window import Window
from pipelines.plant.plant import Plant

ROWS = 500_000


def measure(plant: Plant, days: int) -> dict[str, Any]:
    """CPU seconds, each measured once after a warm-up on the reference's last days; the pass is one hour with `ROWS` rows."""
    distribution, replay = DistributionTier(plant.columns), ReplayTier(plant.columns)
    logs: list[pa.Table] = []
    replay_s: list[float] = []
    rows = 0
    first_us, end_us = plant.reference
    for window in plant.clean(max(first_us, end_us - days * DAY_US), end_us):
        distribution.test(window)
        distribution.learn()
        started = time.process_time()
        replay.test(window)
        replay_s.append(time.process_time() - started)
        replay.learn()
        logs.append(window.log)
        rows += window.log.num_rows
    # The first hour of a day also forecasts the day and, once a week, learns the prediction anew: measured apart.
    first = next(iter(plant.clean(end_us, end_us + HOUR_US)))
    started = time.process_time()
    distribution.test(first)
    learning_s = time.process_time() - started
    distribution.learn()
    whole = pa.concat_tables(logs).combine_chunks()
    whole = whole.take(pa.array(np.arange(ROWS) % whole.num_rows)) if rows < ROWS else whole.slice(0, ROWS)
    started = time.process_time()
    distribution.test(Window(first.end_us, first.end_us + HOUR_US, whole))
    return {
        "distribution_cpu_s": round(time.process_time() - started, 3),
        "learning_cpu_s": round(learning_s, 3),
        "distribution_rows": whole.num_rows,
        "columns": len(plant.columns.names),
        "replay_cpu_s_median": round(float(np.median(replay_s)), 4),
        "replay_cpu_s_max": round(float(np.max(replay_s)), 4),
    }
