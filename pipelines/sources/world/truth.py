"""The true click probability: logit p = s + b(slot).  Called by the market for what was shown, and by nobody else.

s is a sum of a person's habits, an ad's quality, the product of their latent vectors, where and when the ad is seen, its price
against what the user is used to, and how often the user saw such ads lately.  Bots have an s of their own and no interest.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from features.ids import uniform
from features.schemas import CATEGORIES
from infra.clock import DAY_US, HOUR_US
from pipelines.sources.world.arrivals import PLACEMENT_WEIGHTS, PLACEMENTS
from pipelines.sources.world.calendar import hour_of_day, is_holiday, weekday
from pipelines.sources.world.config import WorldConfig
from pipelines.sources.world.inventory import FORMATS, Inventory
from pipelines.sources.world.luck import Kind, choice, normal
from pipelines.sources.world.population import DEVICES, Population

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

POSITION = np.array([0.0, -0.35, -0.65, -0.9, -1.1, -1.25, -1.4, -1.5])  # b(slot); the last value holds further down
INTEREST = 1.9  # weight of the latent product
TOPIC = 0.5  # a page on the ad's own category
FATIGUE = 0.3  # logit lost per unit of log1p(recent ads of the category)
FATIGUE_HALF_LIFE_US = 8 * HOUR_US
BOT_LOGIT = -1.0


def sigmoid(logit: F64) -> F64:
    """1 / (1 + exp(-logit))."""
    return np.asarray(1.0 / (1.0 + np.exp(-logit)))


def position_bias(slot: npt.NDArray[np.integer]) -> F64:
    """b(slot) of each slot, 0 = top."""
    return np.asarray(POSITION[np.minimum(slot, len(POSITION) - 1)])


@dataclass(frozen=True, slots=True)
class Effects:
    """Tables of effects, logit."""

    format: F64  # [device + 1, placement + 1, format]; the last row of each is what the world doesn't know: no effect
    hour: F64  # [24, CATEGORIES]
    weekend: F64  # [CATEGORIES]
    holiday: F64  # [CATEGORIES]


def effects(seed: int) -> Effects:
    """The effects of a seed's world."""
    d, p, f = np.arange(len(DEVICES)), np.arange(len(PLACEMENTS)), np.arange(len(FORMATS))
    c = np.arange(CATEGORIES)
    table = np.zeros((len(d) + 1, len(p) + 1, len(f)))
    table[:-1, :-1] = (
        0.15 * normal(seed, Kind.FORMAT_EFFECT, 1, d)[:, None, None]
        + 0.2 * normal(seed, Kind.FORMAT_EFFECT, 2, p)[:, None]
        + 0.15 * normal(seed, Kind.FORMAT_EFFECT, 3, f)
        + 0.3 * normal(seed, Kind.FORMAT_EFFECT, 4, d[:, None, None], p[:, None], f)
    )
    phase = 2 * np.pi * uniform(seed, Kind.HOUR_PHASE, c)
    height = 0.3 * uniform(seed, Kind.HOUR_HEIGHT, c)
    return Effects(
        format=table,
        hour=height * np.cos(2 * np.pi * np.arange(24)[:, None] / 24 - phase),
        weekend=0.15 * normal(seed, Kind.WEEKEND, c),
        holiday=0.1 + 0.2 * normal(seed, Kind.HOLIDAY, c),
    )


class Truth:
    """What only the world knows: s of any (user, ad, moment)."""

    def __init__(self, config: WorldConfig, users: Population, ads: Inventory) -> None:
        self._users, self._ads = users, ads
        self._effects = effects(config.seed)
        self._seed, self._noise = config.seed, config.tuning.logit_noise
        self._intercept = 0.0
        self._intercept = self._solve(config)

    def interest(self, user: I64, ad: I64) -> F64:
        """INTEREST x the product of latent vectors of n (user, ad) index pairs: float64 [n]."""
        return np.asarray(INTEREST * np.einsum("nd,nd->n", self._users.vector[user], self._ads.vector[ad]).astype(np.float64))

    def score(
        self, user: I64, ad: I64, device: I64, placement: I64, topic: I64, time_us: I64, exposure: F64, interest: F64
    ) -> F64:
        """s of n shown ads: float64 [n].

        `exposure` is the decayed number of ads of the same category the user has seen; `device` and `placement` are codes
        (one past the last means unknown); `interest` is what `interest` gave for the same pairs.
        """
        users, ads, table = self._users, self._ads, self._effects
        category = ads.category[ad]
        price_gap = np.abs(ads.log_price[ad] - users.price_level[user])
        days, of_day = np.unique(time_us // DAY_US, return_inverse=True)
        holiday = np.array([is_holiday(int(day)) for day in days], dtype=bool)[of_day]
        s = (
            self._intercept
            + users.propensity[user]
            + ads.quality[ad]
            + interest
            + table.format[device, placement, ads.format[ad]]
            + table.hour[hour_of_day(time_us), category]
            + np.where(weekday(time_us) >= 5, table.weekend[category], 0.0)
            + np.where(holiday, table.holiday[category], 0.0)
            + TOPIC * (topic == category)
            - users.price_sensitivity[user] * np.minimum(price_gap, 2.5)
            - FATIGUE * np.log1p(exposure)
        )
        if self._noise:
            s = s + (self._noise * normal(self._seed, Kind.DAY_LOGIT, days))[of_day]
        return np.where(users.bot[user], BOT_LOGIT, s)

    def _solve(self, config: WorldConfig) -> float:
        """The intercept at which pairs met at random are clicked at the tuning's rate; by bisection on a hashed sample."""
        seed, row = config.seed, np.arange(20_000)
        known = self._users.present(config.first_day_us)
        user = (uniform(seed, Kind.CALIBRATION, row, 1) * known).astype(np.int64)
        live = self._ads.live(config.first_day_us)
        ad = live[choice(self._ads.budget[live].astype(np.float64), seed, Kind.CALIBRATION, row, 2)]
        topic = (uniform(seed, Kind.CALIBRATION, row, 3) * CATEGORIES).astype(np.int64)
        placement = choice(PLACEMENT_WEIGHTS, seed, Kind.CALIBRATION, row, 4)
        time_us = config.first_day_us + (uniform(seed, Kind.CALIBRATION, row, 5) * DAY_US).astype(np.int64)
        device = self._users.device[user]
        s = self.score(user, ad, device, placement, topic, time_us, np.zeros(len(row)), self.interest(user, ad))
        s = (s + position_bias(row % config.slots))[~self._users.bot[user]]
        low, high = -10.0, 5.0
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (middle, high) if sigmoid(s + middle).mean() < config.tuning.random_ctr else (low, middle)
        return (low + high) / 2
