"""The guard that all online stores share: which rows and marks may replace what is stored.  Pure; called by `put`."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from features.catalogue import View
from features.online_values import Mark
from features.packed import layout
from infra.errors import ExplainedError


class Written(NamedTuple):
    """What became of a batch: entities written, and entities whose stored row was newer."""

    written: int
    refused: int


def admitted(
    event_us: npt.NDArray[np.int64], available_us: npt.NDArray[np.int64], stored: list[tuple[int, int] | None]
) -> npt.NDArray[np.int64]:
    """The guard: indexes of the rows that may be written, given (event_us, available_us) of what is stored."""
    offered = zip(event_us.tolist(), available_us.tolist(), strict=True)
    return np.array(
        [i for i, (new, old) in enumerate(zip(offered, stored, strict=True)) if old is None or new >= old], np.int64
    )


def newer(mark: Mark | None, stored: Mark | None, layout: int) -> Mark:
    """The mark to store after a write with a layout: the newer one, with the number of writes counted on."""
    stored = stored or Mark(0, -1, -1)
    mark = mark or stored
    kept = stored if (stored.event_us, stored.available_us) > (mark.event_us, mark.available_us) else mark
    return kept._replace(writes=stored.writes + 1, layout=layout)


def check_layout(view: View, mark: Mark | None) -> None:
    """Raises ExplainedError where a view's rows were written with other features than it has now."""
    if mark is not None and mark.layout != layout(view).id:
        raise ExplainedError(
            f"the online store holds {view.name} with other features than the catalogue has now; empty the store (delete "
            "feast/online.db in the home, or flush the Redis database) and run clickproof materialize, which writes it again"
        )
