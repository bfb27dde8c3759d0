"""From the lake to a training set: matured labels, features as they could be seen at each impression's time.  Used by training,
retraining, the leakage drill and the walkthrough.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.batch import FeatureBatch, RequestBatch
from features.labels import labels
from features.requests import from_impressions
from features.sources import AsOfSource
from infra.clock import DAY_US, HOUR_US, day_name
from infra.errors import ExplainedError
from infra.home import Home
from infra.lake import Lake
from models.contract import Dataset
from pipelines.sources.contract import SourceSpec


@dataclass(frozen=True, slots=True)
class Window:
    """A range of whole event days, [first_us, last_us)."""

    first_us: int
    last_us: int

    def days(self) -> list[str]:
        """The arrival days in which these days' impressions and their clicks may have arrived: one day more at the end."""
        return [day_name(at) for at in range(self.first_us, self.last_us + DAY_US, DAY_US)]


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """Impressions with features, labels and the states of the views that the features came from."""

    data: Dataset
    features: FeatureBatch
    requests: RequestBatch


def build(home: Home, spec: SourceSpec, window: Window, as_of_us: int, attribution_hours: float, service: str) -> TrainingSet:
    """The training set of a window of event days, with labels as of `as_of_us`; only impressions whose label is mature.

    Rows are in order of time, then id.  Raises ExplainedError where the window holds no mature impression.
    """
    impressions = _impressions(home, window)
    found = labels(impressions, _clicks(home, window), as_of_us, int(attribution_hours * HOUR_US))
    mature = found.filter(found["mature"]).select(["impression_id", "click"])
    rows = impressions.join(mature, "impression_id", join_type="inner").sort_by(
        [("event_timestamp", "ascending"), ("impression_id", "ascending")]
    )
    if rows.num_rows == 0:
        raise ExplainedError(
            f"no mature impressions from {day_name(window.first_us)} to {day_name(window.last_us)}: "
            f"labels need {attribution_hours:g} hours; ingest later days first (clickproof ingest)"
        )
    requests = from_impressions(rows, spec.context)
    batch = AsOfSource(home, spec.entities, spec.context, service).fetch(requests)
    data = Dataset(
        columns=batch.columns,
        label=rows["click"].cast(pa.uint8()).to_numpy(),
        slot=rows["slot"].to_numpy(),
        time_us=requests.time_us,
        group=requests.user_id,
        row_id=requests.row_id,
        randomised=rows["randomised"].to_numpy(),
    )
    return TrainingSet(data, batch, requests)


def _impressions(home: Home, window: Window) -> pa.Table:
    table = Lake.of(home).read("impressions", days=window.days())
    at = pc.cast(table["event_timestamp"], pa.int64())
    return table.filter(pc.and_(pc.greater_equal(at, window.first_us), pc.less(at, window.last_us)))


def _clicks(home: Home, window: Window) -> pa.Table:
    """Clicks that arrived by a week after the window: later ones are outside any attribution window that makes sense here."""
    last = Window(window.first_us, window.last_us + 7 * DAY_US)
    have = set(Lake.of(home).days("clicks"))
    return Lake.of(home).read("clicks", days=[day for day in last.days() if day in have])


def split_windows(spec: SourceSpec) -> dict[str, Window]:
    """The temporal split of a source: windows for train, valid, calibrate and test, one after the other."""
    split = spec.split
    at = spec.first_day_us + split.features * DAY_US
    windows: dict[str, Window] = {}
    for name in ("train", "valid", "calibrate", "test"):
        end = at + getattr(split, name) * DAY_US
        windows[name] = Window(at, end)
        at = end
    return windows


def select(data: Dataset, window: Window) -> Dataset:
    """The rows of one window."""
    return data.take(np.flatnonzero((data.time_us >= window.first_us) & (data.time_us < window.last_us)))
