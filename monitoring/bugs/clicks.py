"""How bugs of stage `market` change what users do: some of their clicks don't happen, or clicks happen that wouldn't have.

Called by drift.py, data.py and train.py.  The scene's table `impressions` holds what was shown, clicked or not, and p_true.
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from features.ids import derived_id, uniform
from infra.clock import HOUR_US, SECOND_US
from monitoring.bugs.entry import Scene
from monitoring.bugs.rows import Array, hit, ids

F64 = npt.NDArray[np.float64]


def impression_of(clicks: pa.Table, scene: Scene) -> npt.NDArray[np.int64]:
    """For each click the row of its impression in the scene's `impressions`; -1 where it is not among them."""
    shown, wanted = ids(scene.tables["impressions"], "impression_id"), ids(clicks, "impression_id")
    if len(shown) == 0:
        return np.full(len(wanted), -1, np.int64)
    order = np.argsort(shown)
    at = order[np.minimum(np.searchsorted(shown, wanted, sorter=order), len(shown) - 1)]
    return np.where(shown[at] == wanted, at, -1)


def without(clicks: pa.Table, chance: Array | float, salt: int, scene: Scene) -> pa.Table:
    """`clicks` less a hashed part: each goes with its `chance` (one, or one a click)."""
    gone = hit(ids(clicks, "impression_id"), salt, chance, scene)
    return clicks.filter(pa.array(~gone)) if gone.any() else clicks


def with_more(clicks: pa.Table, chance: F64, salt: int, scene: Scene, *, at_once: bool = False) -> pa.Table:
    """`clicks`, followed by clicks on impressions that had none: each gets one with its `chance` [impressions].

    They come as late as people's usually do, or with `at_once` within two seconds, as programs click.
    """
    shown = scene.tables["impressions"]
    impression, shown_us = ids(shown, "impression_id"), ids(shown, "event_timestamp")
    free = ~np.isin(impression, ids(clicks, "impression_id"))
    more = free & hit(impression, salt, chance, scene)
    if not more.any():
        return clicks
    new, luck = impression[more], uniform(impression[more], salt, scene.seed, 1)
    event_us = shown_us[more] + (_soon(luck) if at_once else _delay_us(new, luck, salt, scene))
    arrived_us = event_us + (SECOND_US * (1 + 7 * uniform(new, salt, scene.seed, 3))).astype(np.int64)
    values = {"click_id": derived_id(new, 1), "impression_id": new, "event_timestamp": event_us, "arrived_at": arrived_us}
    fresh = [pa.array(values[field.name]).cast(field.type) for field in clicks.schema]
    return pa.concat_tables([clicks, pa.Table.from_arrays(fresh, schema=clicks.schema)])


def _soon(luck: F64) -> npt.NDArray[np.int64]:
    return (SECOND_US * (1 + luck)).astype(np.int64)


def _delay_us(impression: Array, luck: F64, salt: int, scene: Scene) -> npt.NDArray[np.int64]:
    """Three in four within a minute, mean 20 s; the others within hours, mean 2 h."""
    mean = np.where(luck < 0.75, 20 * SECOND_US, 2 * HOUR_US)
    return SECOND_US + (-mean * np.log1p(-uniform(impression, salt, scene.seed, 2))).astype(np.int64)
