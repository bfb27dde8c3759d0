"""The true click probabilities of the simulated world: read by evaluation and by nothing else (a test holds that)."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from infra.clock import DAY_US, day_name
from infra.errors import ExplainedError
from infra.home import Home


def true_probability(
    home: Home, impression_id: npt.NDArray[np.int64], time_us: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """The true click probability of each impression, float64 [n], at the slot where it was shown.

    Raises ExplainedError where the truth of an impression isn't there: the world's history is incomplete."""
    first, last = int(time_us.min()) // DAY_US, int(time_us.max()) // DAY_US
    files = [home.truth / f"day={day_name(day * DAY_US)}.parquet" for day in range(first, last + 1)]
    truth = pa.concat_tables([pq.read_table(file) for file in files if file.exists()] or [_EMPTY])
    ids = truth["impression_id"].to_numpy()
    order = np.argsort(ids)
    at = np.minimum(np.searchsorted(ids, impression_id, sorter=order), max(len(ids) - 1, 0))
    if len(ids) == 0 or not np.array_equal(ids[order[at]], impression_id):
        raise ExplainedError(f"{home.truth} lacks the truth of some impressions; delete {home.root} and run: make train")
    return truth["p_true"].to_numpy()[order[at]]


_EMPTY = pa.table({"impression_id": pa.array([], pa.int64()), "p_true": pa.array([], pa.float64())})
