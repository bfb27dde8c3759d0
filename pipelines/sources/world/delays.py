"""How late things come: a click after its impression, and any event on its way to us.  Called by the market."""

from typing import Any

import numpy as np
import numpy.typing as npt

from features.ids import uniform
from infra.clock import DAY_US, HOUR_US, MINUTE_US, SECOND_US
from pipelines.sources.world.luck import Kind, exponential, normal
from pipelines.sources.world.tuning import Tuning

I64 = npt.NDArray[np.int64]

LATEST_CLICK_US = 7 * DAY_US


def click_delay_us(seed: int, tuning: Tuning, impression_id: I64) -> I64:
    """Time from an impression to its click.

    A mixture: in the usual tuning 70% at once (log-normal around 15 s), 22% later in the session or day (mean 1.5 h), 8% days
    after (mean 17.3 h), so that 0.08 x exp(-24 / 17.3) = 2% come after 24 h.  Nothing comes after 7 days.
    """
    luck = uniform(seed, Kind.CLICK_DELAY, impression_id)
    at_once = 15 * SECOND_US * np.exp(normal(seed, Kind.CLICK_DELAY, impression_id, 3))
    slow = exponential(seed, Kind.CLICK_DELAY, impression_id, 4)
    today, days_after = 1.5 * HOUR_US * slow, tuning.late_hours * HOUR_US * slow
    delay = np.where(luck < tuning.clicks_at_once, at_once, np.where(luck < tuning.clicks_today, today, days_after))
    return np.clip(delay, SECOND_US, LATEST_CLICK_US).astype(np.int64)


def transport_us(seed: int, *what: Any) -> I64:
    """Time from an event to its arrival: 95% within seconds (mean 4 s), 4.5% minutes (mean 5), 0.5% hours (mean 3)."""
    luck = uniform(seed, *what)
    scale = np.where(luck < 0.95, 4 * SECOND_US, np.where(luck < 0.995, 5 * MINUTE_US, 3 * HOUR_US))
    return SECOND_US // 4 + (scale * exponential(seed, *what, 1)).astype(np.int64)
