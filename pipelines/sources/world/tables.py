"""The world's arrays as event tables in the shapes of `features.schemas`.  Called by the market."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from features.schemas import ADS, IMPRESSIONS, TIME, USERS
from pipelines.sources.world.config import WorldConfig
from pipelines.sources.world.delays import transport_us
from pipelines.sources.world.inventory import FORMATS, Inventory
from pipelines.sources.world.luck import Kind
from pipelines.sources.world.population import COUNTRIES, Population

Array = npt.NDArray[np.generic]
I64 = npt.NDArray[np.int64]

CONTEXT = ("device", "placement", "page_topic")

WORLD_IMPRESSIONS = pa.schema(
    [*IMPRESSIONS, pa.field("device", pa.string()), pa.field("placement", pa.string()), pa.field("page_topic", pa.int64())]
)

TRUTH = pa.schema([pa.field("impression_id", pa.int64(), False), pa.field("p_true", pa.float64(), False)])


def table(schema: pa.Schema, columns: Mapping[str, Array | pa.Array]) -> pa.Table:
    """Columns as a table of `schema`; int64 microseconds become timestamps."""
    arrays = []
    for field in schema:
        values = columns[field.name]
        if not isinstance(values, pa.Array):
            values = pa.array(values)
        if field.type == TIME:
            values = values.view(TIME)
        arrays.append(values if values.type == field.type else values.cast(field.type))
    return pa.Table.from_arrays(arrays, schema=schema)


def _profile_arrival_us(config: WorldConfig, kind: int, index: I64, event_us: I64) -> I64:
    """Who exists already arrives in one delivery at the first instant; later ones seconds after they happen."""
    travelled = event_us + transport_us(config.seed, Kind.PROFILE_ARRIVAL, kind, index)
    return np.where(event_us < config.first_day_us, config.first_day_us, travelled)


def users_table(config: WorldConfig, users: Population, until_us: int) -> pa.Table:
    """Sign-ups before `until_us`, in order of arrival: features.schemas.USERS."""
    index = np.arange(users.present(until_us))
    signup_us = users.signup_us[index]
    arrived_us = _profile_arrival_us(config, 0, index, signup_us)
    age = users.age[index]
    columns = {
        "user_id": index + 1,
        "event_timestamp": signup_us,
        "arrived_at": arrived_us,
        "user_age": pa.array(age, mask=age < 0),
        "user_country": np.array(COUNTRIES)[users.country[index]],
    }
    return table(USERS, columns).take(np.lexsort((index, arrived_us)))


def ads_table(config: WorldConfig, ads: Inventory, until_us: int) -> pa.Table:
    """Ads created before `until_us`, in order of arrival: features.schemas.ADS."""
    index = np.flatnonzero(ads.created_us < until_us)
    arrived_us = _profile_arrival_us(config, 1, index, ads.created_us[index])
    columns = {
        "ad_id": index + 1,
        "event_timestamp": ads.created_us[index],
        "arrived_at": arrived_us,
        "campaign_id": ads.campaign[index] + 1,
        "advertiser_id": ads.advertiser[index] + 1,
        "ad_category": ads.category[index],
        "ad_format": np.array(FORMATS)[ads.format[index]],
        "ad_price": np.round(np.exp(ads.log_price[index]), 2),
    }
    return table(ADS, columns).take(np.lexsort((index, arrived_us)))
