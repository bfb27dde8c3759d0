"""Who the users are: latent interests, habits, sign-ups.  Fixed for the whole horizon; what changes lives in the market.

Users are sorted by sign-up, so those who exist at a time are a prefix.  Ids are index + 1.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from features.ids import uniform
from features.schemas import CATEGORIES
from infra.clock import DAY_US
from pipelines.sources.world.config import WorldConfig
from pipelines.sources.world.luck import Kind, choice, exponential, normal

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]

DIMENSIONS = 8
DEVICES = ("desktop", "mobile", "tablet", "tv")
COUNTRIES = ("BR", "DE", "FR", "GB", "IN", "JP", "PL", "US")
COUNTRY_WEIGHTS = np.array([0.12, 0.12, 0.08, 0.14, 0.14, 0.08, 0.06, 0.26])
UTC_OFFSETS = np.array([-3, 1, 1, 0, 5, 9, 1, -6])  # hours; whole ones are enough for a daily rhythm
PRESENT_AT_START = 0.8  # share of the history's users who signed up before it
BOT_SHARE = 0.004
LOG_PRICE = 3.5  # centre of log prices, shared with the inventory


@dataclass(frozen=True, slots=True)
class Population:
    """u users as arrays [u], or as said."""

    signup_us: I64  # ascending
    vector: F32  # [u, DIMENSIONS], length about 1
    favourites: npt.NDArray[np.int16]  # [u, 3] categories closest to the vector, best first
    declared: npt.NDArray[np.int16]  # the one interest a user declared: often a favourite, sometimes nonsense
    propensity: F32  # logit
    activity: F32  # visits relative to the average user; heavy-tailed
    age: npt.NDArray[np.int32]  # years; -1 where the user didn't say
    country: I64  # index into COUNTRIES
    device: I64  # the usual one, index into DEVICES
    price_level: F32  # log price the user feels at home with
    price_sensitivity: F32  # logit lost per unit of log price away from it
    bot: npt.NDArray[np.bool_]
    session_length: I64  # page views a session, 1 .. 6

    def __len__(self) -> int:
        return len(self.signup_us)

    def present(self, at_us: int) -> int:
        """How many users had signed up before an instant."""
        return int(np.searchsorted(self.signup_us, at_us, side="left"))


def centroids(seed: int) -> F32:
    """[CATEGORIES, DIMENSIONS]: where each category lies among the interests, length 1."""
    rows = normal(seed, Kind.CENTROID, np.arange(CATEGORIES)[:, None], np.arange(DIMENSIONS)[None, :])
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def users_a_day(config: WorldConfig) -> float:
    """Sign-ups a day from the first day on."""
    return config.users * (1 - PRESENT_AT_START) / config.days


def population(config: WorldConfig) -> Population:
    """Every user of the horizon."""
    seed = config.seed
    at_start = round(config.users * PRESENT_AT_START)
    joining = int(users_a_day(config) * config.horizon_days)
    user = np.arange(at_start + joining)
    # Two years of growth before the first day, then a steady stream.
    past = -730 * DAY_US * uniform(seed, Kind.SIGN_UP, user[:at_start]) ** 1.5
    future = (np.arange(joining) + uniform(seed, Kind.SIGN_UP, user[at_start:])) / users_a_day(config) * DAY_US
    signup_us = config.first_day_us + np.concatenate([np.sort(past) - 1, future]).astype(np.int64)

    centre = centroids(seed)
    liked = (uniform(seed, Kind.USER_TASTE, user[:, None], np.arange(3)) * CATEGORIES).astype(np.int64)
    weight = exponential(seed, Kind.USER_MIX, user[:, None], np.arange(3))
    weight /= weight.sum(axis=1, keepdims=True)
    noise = normal(seed, Kind.USER_VECTOR, user[:, None], np.arange(DIMENSIONS)) / np.sqrt(DIMENSIONS)
    vector = np.einsum("uk,ukd->ud", weight, centre[liked]) + 0.5 * noise
    vector = (vector / np.linalg.norm(vector, axis=1, keepdims=True)).astype(np.float32)
    favourites = np.argsort(-(vector @ centre.T), axis=1, kind="stable")[:, :3].astype(np.int16)
    stated = uniform(seed, Kind.DECLARED, user)
    nonsense = (uniform(seed, Kind.DECLARED, user, 1) * CATEGORIES).astype(np.int16)
    declared = np.where(stated < 0.45, favourites[:, 0], np.where(stated < 0.7, favourites[:, 1], nonsense)).astype(np.int16)

    bot = uniform(seed, Kind.BOT, user) < BOT_SHARE
    activity = np.exp(1.0 * normal(seed, Kind.ACTIVITY, user) - 0.5).clip(0.02, 25.0)
    activity = np.where(bot, 3.0, activity)
    age = np.clip(18 + 14 * np.sqrt(2 * exponential(seed, Kind.AGE, user)) + 2, 18, 90).astype(np.int32)
    age = np.where(uniform(seed, Kind.AGE, user, 1) < 0.04, np.int32(-1), age)
    country = choice(COUNTRY_WEIGHTS, seed, Kind.COUNTRY, user)
    device = choice(np.array(config.tuning.home_devices), seed, Kind.HOME_DEVICE, user)
    level = LOG_PRICE + 0.7 * normal(seed, Kind.PRICE_LEVEL, user)
    sensitivity = 0.35 * exponential(seed, Kind.PRICE_SENSITIVITY, user).clip(0, 3)
    return Population(
        signup_us=signup_us,
        vector=vector,
        favourites=favourites,
        declared=declared,
        propensity=(0.5 * normal(seed, Kind.PROPENSITY, user)).astype(np.float32),
        activity=activity.astype(np.float32),
        age=age.astype(np.int32),
        country=country,
        device=device,
        price_level=level.astype(np.float32),
        price_sensitivity=sensitivity.astype(np.float32),
        bot=bot,
        session_length=1 + (6 * uniform(seed, Kind.SESSION_LENGTH, user)).astype(np.int64),
    )
