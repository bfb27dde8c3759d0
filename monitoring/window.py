"""What monitors may look at: a stretch of the prediction log, and what the pipeline knows beside it.

Windows of this system's own lake, of a drill, of the gauntlet and of a log from outside have this one shape, so that one set of
detectors serves all.  A window holds no drill state: whoever makes one passes on only what production would have.

The log has one row a shown prediction.  Columns (null or NaN where not known; only the first three are always there):
id int64 or string; time int64 (us, UTC); p float64; label int8; model, arm, encoder string; user, item int64 or string;
slot int16; randomised bool; s float32; request int64; fallback_mask int32; f_NAME the feature values (float, int or string);
snapshot_VIEW int64, age_VIEW float32 (seconds).  A column that a source has not is absent, never all null.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow as pa

# How many rows of a stream reached a stage in the window.  Streams: requests, impressions, clicks, predictions, ...
# Stages: landed (delivered files' rows), accepted, duplicates, quarantined, pending (clicks waiting for their impression),
# joined (clicks that became labels).  landed + waiting before = accepted + duplicates + quarantined + pending.
BOOKS = pa.schema([("stream", pa.string()), ("stage", pa.string()), ("rows", pa.int64())])

# Rows that broke the contract, by rule: field "" means the file as a whole.
REFUSED = pa.schema([("stream", pa.string()), ("field", pa.string()), ("rule", pa.string()), ("rows", pa.int64())])


@dataclass(frozen=True, slots=True)
class LogColumns:
    """The features of a log, by kind, without their prefix f_."""

    categorical: tuple[str, ...]
    numeric: tuple[str, ...]
    ids: tuple[str, ...] = ()  # of the categorical: turn over by themselves (user, ad, campaign): novelty counts, shares do not
    # Columns of one family vary together from day to day and share their estimated spread; a column without one is alone.
    families: Mapping[str, str] = field(default_factory=dict)
    # Column -> f_ column of the things that come and go as one (a campaign decides on its ads' categories): rows of one unit
    # are not independent.
    units: Mapping[str, str] = field(default_factory=dict)
    # Feature view -> seconds after which its rows are too old (column age_VIEW); absent: no limit.
    max_age_s: Mapping[str, float] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Every feature."""
        return self.categorical + self.numeric


@dataclass(frozen=True, slots=True)
class Window:
    """[start_us, end_us): an hour, usually, that begins and ends on the hour (UTC)."""

    start_us: int
    end_us: int
    log: pa.Table  # predictions of requests made in the window
    # Clicks that arrived in the window and found their prediction, made at any time before: the log's columns of that
    # prediction, clicked_at and arrived_at (int64 us).  None: labels come in the log's column `label`, or not at all.
    clicks: pa.Table | None = None
    # Recomputed features of a hashed sample of the log's rows: id, f_NAME as they could be known at the time.
    offline: pa.Table | None = None
    # What the declared model gives on the logged features of a hashed sample: id, p.
    rescored: pa.Table | None = None
    # Like `offline` but as the store stood a day earlier: to recognise stale values.  Optional even where `offline` is there.
    day_old: pa.Table | None = None
    books: pa.Table | None = None  # BOOKS
    refused: pa.Table | None = None  # REFUSED
    plan: Mapping[str, float] | None = None  # arm -> planned share of users

    def __post_init__(self) -> None:
        if self.start_us >= self.end_us:
            raise ValueError(f"a window must have a length: {self.start_us} to {self.end_us}")
