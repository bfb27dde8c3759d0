"""What is advertised: campaigns that start and end, their ads, prices, formats, budgets and bids.

Fixed at the start for the whole horizon.  Ids are index + 1.  A budget is an ad's share of retrieval (how often it is a
candidate); it isn't used up, because a candidate set must not depend on what a policy showed before.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from features.ids import uniform
from features.schemas import CATEGORIES
from infra.clock import DAY_US, HOUR_US
from pipelines.sources.world.config import WorldConfig
from pipelines.sources.world.luck import Kind, choice, exponential, normal
from pipelines.sources.world.population import DIMENSIONS, LOG_PRICE, centroids

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]

FORMATS = ("banner", "carousel", "native", "video")
PRESENT_AT_START = 0.65  # share of the history's ads that exist on the first day
ADS_A_CAMPAIGN = 4.0


@dataclass(frozen=True, slots=True)
class Inventory:
    """a ads as arrays [a], or as said."""

    created_us: I64
    end_us: I64  # when the campaign ends, exclusive
    campaign: I64
    advertiser: I64
    category: npt.NDArray[np.int16]
    format: I64  # index into FORMATS
    log_price: F32
    vector: F32  # [a, DIMENSIONS], length about 1
    quality: F32  # logit
    budget: F32  # relative weight of retrieval; heavy-tailed
    bid: F32  # usual bid, in cents a click

    def __len__(self) -> int:
        return len(self.created_us)

    def live(self, at_us: int) -> I64:
        """Indexes of the ads that run at an instant."""
        return np.flatnonzero((self.created_us <= at_us) & (at_us < self.end_us))


def _campaign_sizes(config: WorldConfig) -> tuple[I64, int, float]:
    """(ads of each campaign [c], how many campaigns exist on the first day, campaigns that start a day after)."""
    at_start = round(config.ads * PRESENT_AT_START / ADS_A_CAMPAIGN)
    a_day = config.ads * (1 - PRESENT_AT_START) / ADS_A_CAMPAIGN / config.days
    campaign = np.arange(at_start + int(a_day * config.horizon_days))
    return 1 + (uniform(config.seed, Kind.CAMPAIGN_SIZE, campaign) * (2 * ADS_A_CAMPAIGN - 1)).astype(np.int64), at_start, a_day


def inventory(config: WorldConfig) -> Inventory:
    """Every ad of the horizon."""
    seed = config.seed
    sizes, at_start, a_day = _campaign_sizes(config)
    campaign = np.arange(len(sizes))
    started = config.first_day_us - (40 * DAY_US * uniform(seed, Kind.CAMPAIGN_START, campaign[:at_start])).astype(np.int64) - 1
    later = (np.arange(len(sizes) - at_start) + uniform(seed, Kind.CAMPAIGN_START, campaign[at_start:])) / a_day
    start_us = np.concatenate([started, config.first_day_us + (later * DAY_US).astype(np.int64)])
    # Life is counted from the first day for campaigns that run already: exponential lives have no memory.
    life_days = 4 + config.tuning.campaign_days * exponential(seed, Kind.CAMPAIGN_LIFE, campaign)
    stop_us = np.maximum(start_us, config.first_day_us) + (life_days * DAY_US).astype(np.int64)
    stop_us = np.where(uniform(seed, Kind.CAMPAIGN_LIFE, campaign, 1) < config.tuning.evergreen, config.horizon_us, stop_us)
    advertisers = max(1, len(sizes) // 3)
    advertiser = (uniform(seed, Kind.CAMPAIGN_ADVERTISER, campaign) * advertisers).astype(np.int64)
    popular = 1.0 / np.sqrt(1 + np.arange(CATEGORIES))
    trade = choice(popular, seed, Kind.ADVERTISER_CATEGORY, np.arange(advertisers))
    other = choice(popular, seed, Kind.CAMPAIGN_CATEGORY, campaign)
    sector = np.where(uniform(seed, Kind.CAMPAIGN_CATEGORY, campaign, 1) < 0.8, trade[advertiser], other)
    theme = normal(seed, Kind.CAMPAIGN_VECTOR, campaign[:, None], np.arange(DIMENSIONS)) / np.sqrt(DIMENSIONS)

    of = np.repeat(campaign, sizes)
    ad = np.arange(len(of))
    added_late = uniform(seed, Kind.AD_LATE, ad) < 0.2
    late_us = (uniform(seed, Kind.AD_LATE, ad, 1) * 5 * 24).astype(np.int64) * HOUR_US
    created_us = np.minimum(start_us[of] + np.where(added_late, late_us, 0), stop_us[of] - DAY_US)
    category = sector[of]
    own = normal(seed, Kind.AD_VECTOR, ad[:, None], np.arange(DIMENSIONS)) / np.sqrt(DIMENSIONS)
    vector = 0.75 * centroids(seed)[category] + 0.45 * theme[of] + 0.45 * own
    vector /= np.linalg.norm(vector, axis=1, keepdims=True)
    quality = (
        0.2 * normal(seed, Kind.QUALITY_ADVERTISER, advertiser[of])
        + 0.25 * normal(seed, Kind.QUALITY_CAMPAIGN, of)
        + 0.35 * normal(seed, Kind.QUALITY_AD, ad)
    )
    log_price = LOG_PRICE + 0.6 * normal(seed, Kind.CATEGORY_PRICE, category) + 0.6 * normal(seed, Kind.AD_PRICE, ad)
    return Inventory(
        created_us=created_us,
        end_us=stop_us[of],
        campaign=of,
        advertiser=advertiser[of],
        category=category.astype(np.int16),
        format=choice(np.array([0.4, 0.15, 0.3, 0.15]), seed, Kind.AD_FORMAT, ad),
        log_price=log_price.clip(0.5, 8.0).astype(np.float32),
        vector=vector.astype(np.float32),
        quality=quality.astype(np.float32),
        budget=np.exp(1.2 * normal(seed, Kind.AD_BUDGET, ad)).astype(np.float32),
        bid=np.exp(3.4 + 0.5 * normal(seed, Kind.AD_BID, ad)).astype(np.float32),
    )
