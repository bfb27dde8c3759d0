"""What users did, from the lake: a test that the prediction log holds, and the days before a test.

Called by `pipelines.experiment.run`.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features.labels import labels
from features.schemas import TIME
from infra.clock import DAY_US, HOUR_US, day_name
from infra.errors import ExplainedError
from infra.home import Home
from infra.lake import Lake, watermark_us
from infra.settings import Settings
from monitoring.experiment.user_days import UserDays, user_days

I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Logged:
    """A test that was served: u users who were in one arm throughout."""

    days: UserDays
    arms: tuple[str, ...]  # in order of their names
    arm: I64  # [u] index into arms
    models: dict[str, list[str]]  # by arm: hashes of the artefacts that answered
    first_us: int
    moved: int  # users who were seen in several arms, and are left out
    nobody: int  # requests of no known user, left out: whether nobody comes back can't be told


def read_log(home: Home, chosen: Settings) -> Logged:
    """The test in the lake's table `predictions`, on days of which all events have come in.  An ad answered counts as shown.

    Raises ExplainedError where there is no log, fewer than two arms, or fewer than two whole days."""
    lake = Lake.of(home)
    if not lake.has("predictions"):
        raise ExplainedError(
            f"{home.root} has no prediction log to read: `clickproof serve`, requests of some days, `clickproof ingest`; "
            "or leave out --log to simulate a test"
        )
    columns = ["request_id", "impression_id", "event_timestamp", "user_id", "arm", "artefact"]
    rows = lake.read("predictions", columns)
    first_us = int(_us(rows).min()) // DAY_US * DAY_US
    days = (watermark_us(home) - first_us) // DAY_US
    if days < 2:
        raise ExplainedError(
            f"the prediction log of {home.root} begins on {day_name(first_us)} and events end {days} whole days later, "
            "but a test needs two: let it go on, or ingest what has arrived"
        )
    rows = rows.filter(pc.and_(pc.is_valid(rows["impression_id"]), pa.array(_us(rows) < first_us + days * DAY_US)))
    known = pc.fill_null(pc.greater_equal(rows["user_id"], 0), False)
    nobody = len(pc.unique(rows.filter(pc.invert(known))["request_id"]))
    rows = rows.filter(known)
    pairs = rows.group_by(["user_id", "arm"]).aggregate([])
    user, times = np.unique(pairs["user_id"].to_numpy(), return_counts=True)
    rows = rows.filter(pc.is_in(rows["user_id"], pa.array(user[times == 1])))
    pairs = pairs.filter(pc.is_in(pairs["user_id"], pa.array(user[times == 1]))).sort_by("user_id")
    names = np.array(pairs["arm"].to_pylist(), dtype=np.str_)
    arms, arm = np.unique(names, return_inverse=True)
    if len(arms) < 2:
        raise ExplainedError(f"a test needs two arms; the prediction log of {home.root} has {', '.join(arms) or 'none'}")
    models = {
        name: sorted(pc.unique(rows.filter(pc.equal(rows["arm"], name))["artefact"]).to_pylist()) for name in arms.tolist()
    }
    shown = rows.append_column("arrived_at", rows["event_timestamp"])
    found = _counted(home, shown, rows, first_us, days, chosen)
    return Logged(found, tuple(arms.tolist()), arm, models, first_us, int((times > 1).sum()), nobody)


def history(home: Home, chosen: Settings, until_us: int, most: int) -> UserDays | None:
    """The days of events before `until_us` (a midnight), at most `most` + 1 of them; None where there are fewer than two.

    The users and metrics of a test before it begins: what it could see follows from them."""
    lake, end = Lake.of(home), day_name(until_us)
    kept = [day for day in lake.days("impressions") if day < end][-most - 1 :]
    if len(kept) < 2:
        return None
    first_us = int(np.datetime64(kept[0], "us").astype(np.int64))
    events = {}
    for stream, more in (("requests", []), ("impressions", ["impression_id", "arrived_at"])):
        rows = lake.read(stream, ["request_id", "event_timestamp", "user_id", *more], kept)
        rows = rows.filter(pc.greater_equal(rows["event_timestamp"], pa.scalar(first_us, TIME)))
        events[stream] = rows.filter(pc.fill_null(pc.greater_equal(rows["user_id"], 0), False))
    return _counted(home, events["impressions"], events["requests"], first_us, (until_us - first_us) // DAY_US, chosen)


def _counted(home: Home, shown: pa.Table, asked: pa.Table, first_us: int, days: int, chosen: Settings) -> UserDays:
    """Users' days from impressions and requests (or one or more rows a request) of known users."""
    lake = Lake.of(home)
    arrived = [day for day in lake.days("clicks") if day >= day_name(first_us)]
    clicks = lake.read("clicks", ["impression_id", "event_timestamp", "arrived_at"], arrived)
    labelled = labels(shown, clicks, watermark_us(home), round(chosen.attribution_hours * HOUR_US))
    _, once = np.unique(asked["request_id"].to_numpy(), return_index=True)
    return user_days(
        int(days),
        asked["user_id"].to_numpy()[once],
        (_us(asked)[once] - first_us) // DAY_US,
        shown["user_id"].to_numpy(),
        (_us(shown) - first_us) // DAY_US,
        labelled["click"].to_numpy(zero_copy_only=False),
    )


def _us(events: pa.Table) -> I64:
    return pc.cast(events["event_timestamp"], pa.int64()).to_numpy()
