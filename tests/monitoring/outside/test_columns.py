"""Which categories are ids: those that are many, that turn over, or that the mapping names."""

import numpy as np
import pyarrow as pa

from infra.clock import DAY_US, HOUR_US
from monitoring.outside.columns import log_columns
from monitoring.outside.mapping import LogMapping


def reference(days: int = 6, rows: int = 3000) -> pa.Table:
    rng = np.random.default_rng(1)
    time = np.sort(rng.integers(0, days * DAY_US, rows * days))
    day = time // DAY_US
    return pa.table({
        "time": time + 20_000 * DAY_US, "f_device": rng.choice(["phone", "tv"], len(time)),
        "f_campaign": day * 2 + rng.integers(0, 6, len(time)), "f_page": rng.integers(0, 4000, len(time)),
        "f_seller": rng.integers(0, 20, len(time)), "f_price": rng.random(len(time)),
    })  # fmt: skip


def test_ids_are_found_by_number_turnover_and_name() -> None:
    mapping = LogMapping(
        "id", "t", "p", item="seller", categorical=("device", "campaign", "page", "seller"), numeric=("price",)
    )
    columns = log_columns(reference(), mapping)
    assert columns.ids == ("campaign", "page", "seller")
    assert columns.families["device"] != columns.families["price"]


def test_a_few_hours_tell_nothing_of_turnover() -> None:
    few = reference().filter(pa.compute.field("time") < 20_000 * DAY_US + 5 * HOUR_US)
    assert log_columns(few, LogMapping("id", "t", "p", categorical=("campaign",))).ids == ()
