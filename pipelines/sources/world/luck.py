"""Luck is a hash: every chance event of the world is a pure function of (seed, kind of event, what it happens to).

Two policies that meet the same request therefore meet the same luck, and what differs between them is theirs.
"""

from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from features.ids import uniform

F64 = npt.NDArray[np.float64]


class Kind(IntEnum):
    """What a hash decides: one number a kind, so that no two draws share their luck.  Never renumber them."""

    SIGN_UP = 1
    USER_VECTOR = 2
    USER_MIX = 3
    USER_TASTE = 4
    PROPENSITY = 5
    ACTIVITY = 6
    AGE = 7
    COUNTRY = 8
    HOME_DEVICE = 9
    PRICE_LEVEL = 10
    PRICE_SENSITIVITY = 11
    BOT = 12
    SESSION_LENGTH = 13
    DECLARED = 14
    CENTROID = 20
    CAMPAIGN_START = 21
    CAMPAIGN_LIFE = 22
    CAMPAIGN_SIZE = 23
    CAMPAIGN_ADVERTISER = 24
    CAMPAIGN_CATEGORY = 25
    CAMPAIGN_VECTOR = 26
    AD_VECTOR = 27
    AD_LATE = 28
    AD_FORMAT = 29
    AD_PRICE = 30
    AD_BUDGET = 31
    AD_BID = 32
    QUALITY_ADVERTISER = 33
    QUALITY_CAMPAIGN = 34
    QUALITY_AD = 35
    ADVERTISER_CATEGORY = 36
    FORMAT_EFFECT = 40
    HOUR_PHASE = 41
    HOUR_HEIGHT = 42
    WEEKEND = 43
    HOLIDAY = 44
    CATEGORY_PRICE = 45
    VISITS = 50
    SESSION_START = 51
    GAP = 52
    DEVICE = 53
    PLACEMENT = 54
    TOPIC = 55
    ORDER = 56
    CANDIDATES = 57
    BID = 58
    FILL = 59
    CLICK = 60
    CLICK_DELAY = 61
    REQUEST_ARRIVAL = 62
    IMPRESSION_ARRIVAL = 63
    CLICK_ARRIVAL = 64
    PROFILE_ARRIVAL = 65
    RANDOMISE = 70
    RANDOM_ORDER = 71
    LEGACY_NOISE = 72
    CALIBRATION = 80
    DAY_VISITS = 81
    DAY_LOGIT = 82


def normal(*parts: Any) -> F64:
    """Standard normal luck of whole numbers, broadcast as `features.ids.uniform` (Box and Muller 1958)."""
    radius = np.sqrt(-2.0 * np.log1p(-uniform(*parts, 1)))
    return np.asarray(radius * np.cos(2.0 * np.pi * uniform(*parts, 2)))


def exponential(*parts: Any) -> F64:
    """Exponential luck with mean 1."""
    return np.asarray(-np.log1p(-uniform(*parts)))


def choice(weights: F64, *parts: Any) -> npt.NDArray[np.int64]:
    """An index into `weights` [m], drawn in proportion to them; int64 of the broadcast shape of `parts`."""
    cumulative = np.cumsum(weights) / np.sum(weights)
    drawn = np.searchsorted(cumulative, uniform(*parts), side="right")
    return np.minimum(drawn, len(weights) - 1).astype(np.int64)
