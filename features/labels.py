"""Labels as of an instant: which impressions were clicked, by what had arrived by then.

A pure function, so that training, evaluation and monitoring can each ask for labels as they looked at any time: what is known
today about last week is not what was known last week.  Called by training-set assembly, evaluation and calibration monitoring.
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from features.schemas import LABELS, TIME

I64 = npt.NDArray[np.int64]
_NEVER = np.iinfo(np.int64).max


def labels(impressions: pa.Table, clicks: pa.Table, as_of_us: int, window_us: int) -> pa.Table:
    """One row an impression that had arrived by `as_of_us`, in the order of `impressions`; columns `features.schemas.LABELS`.

    `impressions` needs impression_id (unique), event_timestamp, arrived_at; `clicks` needs impression_id, event_timestamp,
    arrived_at.  A click counts when it happened within `window_us` after its impression (both ends included) and had arrived by
    `as_of_us`; `clicked_at` is the first such click.  `mature`: the window had closed by `as_of_us`, so only
    a click still on its way can change the label.  ValueError where two impressions share an id: it would count twice."""
    impressions = impressions.filter(_us(impressions, "arrived_at") <= as_of_us)
    ids, shown_at = _ints(impressions, "impression_id"), _us(impressions, "event_timestamp")
    by_id = np.argsort(ids)
    sorted_ids = ids[by_id]
    if (repeated := sorted_ids[1:][sorted_ids[1:] == sorted_ids[:-1]]).size:
        raise ValueError(
            f"impression_id {repeated[0]} occurs more than once; drop duplicates (ingestion does) before labelling"
        )

    first_click = np.full(len(ids), _NEVER)
    if len(ids):
        wanted, clicked_at = _ints(clicks, "impression_id"), _us(clicks, "event_timestamp")
        row = by_id[np.searchsorted(sorted_ids, wanted).clip(max=len(ids) - 1)]
        delay = clicked_at - shown_at[row]
        counts = (ids[row] == wanted) & (_us(clicks, "arrived_at") <= as_of_us) & (delay >= 0) & (delay <= window_us)
        np.minimum.at(first_click, row[counts], clicked_at[counts])

    clicked = first_click != _NEVER
    columns = [ids, clicked, shown_at + window_us <= as_of_us, pa.array(first_click, pa.int64(), mask=~clicked).cast(TIME)]
    return pa.table([pa.array(c) if isinstance(c, np.ndarray) else c for c in columns], schema=LABELS)


def _ints(table: pa.Table, column: str) -> I64:
    return table[column].to_numpy()


def _us(table: pa.Table, column: str) -> I64:
    return table[column].cast(pa.int64()).to_numpy()
