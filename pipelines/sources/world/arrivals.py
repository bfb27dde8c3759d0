"""When users come and what page they open.  Called by the market once a day (visits) and once a chunk (pages).

A user's visits of a day are a Poisson number; the k-th has its own id and its own luck, so when a policy makes a user
return more often, the visits that both policies see are the same visits.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from features.ids import derived_id, uniform
from features.schemas import CATEGORIES
from infra.clock import DAY_US, HOUR_US, SECOND_US
from pipelines.sources.world.calendar import hour_quantile, visits_on
from pipelines.sources.world.config import WorldConfig
from pipelines.sources.world.luck import Kind, choice
from pipelines.sources.world.population import DEVICES, UTC_OFFSETS, Population, users_a_day

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

PLACEMENTS = ("app_banner", "article_end", "article_side", "home_feed", "home_top", "search")
PLACEMENT_WEIGHTS = np.array([0.15, 0.13, 0.2, 0.25, 0.15, 0.12])
PAGE_GAP_US = 90 * SECOND_US  # between the pages of a session
NO_FILL = 0.02  # share of requests whose page was left before an ad was shown


@dataclass(frozen=True, slots=True)
class Visits:
    """The requests of a day, n of them in time order."""

    request_id: I64
    time_us: I64
    user: I64  # index


def poisson(mean: F64, luck: F64) -> I64:
    """The quantile `luck` of a Poisson variable of each mean: never fewer visits for a larger mean at the same luck."""
    count = np.zeros(len(mean), np.int64)
    term = np.exp(-mean)
    cumulative = term.copy()
    open_rows = np.flatnonzero(luck > cumulative)
    while len(open_rows):
        count[open_rows] += 1
        term[open_rows] *= mean[open_rows] / count[open_rows]
        cumulative[open_rows] += term[open_rows]
        # A term below 1e-300 can't move the sum any more: rounding would keep the row open for ever.
        open_rows = open_rows[(luck[open_rows] > cumulative[open_rows]) & (term[open_rows] > 1e-300)]
    return count


def base_rate(config: WorldConfig) -> float:
    """Visits a day of a user of activity 1, so that an average day of the history has its planned impressions."""
    average_users = config.users - users_a_day(config) * config.days / 2
    return config.impressions_a_day / config.slots / (1 - NO_FILL) / average_users


def visits(config: WorldConfig, users: Population, day_us: int, mood: F64) -> Visits:
    """Who comes on the day that starts at `day_us`, given each user's mood [u] (log of the visit rate)."""
    seed, day = config.seed, day_us // DAY_US
    present = users.present(day_us + DAY_US)
    user = np.arange(present)
    rate = base_rate(config) * visits_on(seed, config.tuning, day_us)
    mean = rate * users.activity[:present].astype(np.float64) * np.exp(mood[:present])
    count = poisson(mean, uniform(seed, Kind.VISITS, day, user))
    who = np.repeat(user, count)
    k = np.arange(len(who)) - np.repeat(np.cumsum(count) - count, count)
    session, page = np.divmod(k, users.session_length[who])
    local_hour = hour_quantile(config.tuning, uniform(seed, Kind.SESSION_START, day, who, session))
    start_us = (((local_hour - UTC_OFFSETS[users.country[who]]) % 24.0) * HOUR_US).astype(np.int64)
    gap_us = ((page + 0.5 * uniform(seed, Kind.GAP, day, who, k)) * PAGE_GAP_US).astype(np.int64)
    time_us = day_us + start_us + gap_us
    # A session that would run past midnight ends there; and nobody visits before signing up.
    kept = (time_us < day_us + DAY_US) & (time_us > users.signup_us[who])
    who, k, time_us = who[kept], k[kept], time_us[kept]
    request_id = derived_id(seed, who, day, k)
    order = np.lexsort((request_id, time_us))
    return Visits(request_id[order], time_us[order], who[order])


def pages(config: WorldConfig, users: Population, visit: Visits) -> dict[str, npt.NDArray[np.generic]]:
    """What each visit's page is like: device and placement (numpy unicode), page_topic (int64)."""
    seed, request, user = config.seed, visit.request_id, visit.user
    usual = uniform(seed, Kind.DEVICE, request) < 0.8
    device = np.where(usual, users.device[user], choice(np.array(config.tuning.other_devices), seed, Kind.DEVICE, request, 1))
    placement = choice(PLACEMENT_WEIGHTS, seed, Kind.PLACEMENT, request)
    luck = uniform(seed, Kind.TOPIC, request)
    anything = (uniform(seed, Kind.TOPIC, request, 1) * CATEGORIES).astype(np.int64)
    favourite = users.favourites[user, np.minimum((luck * 5).astype(np.int64), 2)]  # 0.2, 0.2, 0.2, and the rest is anything
    topic = np.where(luck < 0.6, favourite, anything).astype(np.int64)
    return {"device": np.array(DEVICES)[device], "placement": np.array(PLACEMENTS)[placement], "page_topic": topic}
