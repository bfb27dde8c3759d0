"""Open Bandit data (Saito, Aihara, Matsutani, Narita 2021, "Open Bandit Dataset and Pipeline"): a real click log as a source.

A fashion site showed items in three campaigns (all, men, women) under two policies: uniform random and Bernoulli Thompson
sampling, whose propensities are logged.  What the log has, and what it hasn't:
- entities: ad (an item of a campaign) and placement (the campaign); no user ids, no devices, no ad campaigns, no bids;
- context: four hashed user features, as the log spells them.  The user-item affinities aren't read;
- arrival: the log doesn't say when events arrived, so `arrived_at` is the time of the event;
- clicks: the log says which impressions were clicked but not when, so a click has the time of its impression;
- a request is one page view where the log shows it (same policy, campaign, instant and user features, different positions),
  otherwise each row is a request of its own;
- an ad's category is (campaign, item_feature_3), numbered in order of name; that feature is hashed differently in each
  campaign, so categories can't be compared between campaigns.  Formats and prices are unknown, and so is when an item was new:
  ads count as created when the log begins.
"""

import io
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from features.ids import click_id, derived_id, text_id
from features.schemas import ADS, CATEGORIES, CLICKS, IMPRESSIONS, KEYS, REQUESTS, TIME
from infra.clock import DAY_US, day_name
from infra.errors import ExplainedError
from infra.home import Home
from pipelines.sources.contract import SourceSpec, Split

I64 = npt.NDArray[np.int64]

POLICIES = ("bts", "random")
CAMPAIGNS = ("all", "men", "women")
USER_FEATURES = ("user_feature_0", "user_feature_1", "user_feature_2", "user_feature_3")
FIRST_DAY_US = 1_574_553_600_000_000  # 2019-11-24, a Sunday, 00:00 UTC
DAYS = 7
# One day feeds features only; the last is left out, because its impressions are younger than the attribution window.
SPLIT = Split(features=1, train=2, valid=1, calibrate=1, test=1)
INSIDE = "obp/dataset/obd"  # where the wheel keeps the data

_LOG_TYPES: dict[str, pa.DataType] = {
    "timestamp": TIME,
    "item_id": pa.int64(),
    "position": pa.int64(),
    "click": pa.int64(),
    "propensity_score": pa.float64(),
    **dict.fromkeys(USER_FEATURES, pa.string()),
}
_ITEM_TYPES: dict[str, pa.DataType] = {"item_id": pa.int64(), "item_feature_3": pa.string()}

_IMPRESSIONS = pa.schema([*IMPRESSIONS, pa.field("placement", pa.string()), *(pa.field(f, pa.string()) for f in USER_FEATURES)])


@dataclass(frozen=True, slots=True)
class Folder:
    """The data's files: in a folder (or the unpacked package around it), or still inside the wheel."""

    root: Path

    def read(self, name: str, types: dict[str, pa.DataType]) -> pa.Table:
        """The columns `types` of the csv at `name`, a path like random/all/all.csv.

        Raises ExplainedError where the file, a column or a value isn't as expected.
        """
        where = f"{self.root}/{name}"
        options = pacsv.ConvertOptions(column_types=types, include_columns=list(types), strings_can_be_null=False)
        try:
            return pacsv.read_csv(io.BytesIO(self._bytes(name)), convert_options=options)
        except KeyError as error:
            raise ExplainedError(f"{where}: {error.args[0]}; this isn't an Open Bandit file, or a cut one") from None
        except pa.ArrowInvalid as error:
            raise ExplainedError(f"{where}: {error}; get the file again") from None

    def _bytes(self, name: str) -> bytes:
        if self.root.is_dir():
            for folder in (self.root, self.root / INSIDE):
                if (folder / name).is_file():
                    return (folder / name).read_bytes()
        elif zipfile.is_zipfile(self.root):
            with zipfile.ZipFile(self.root) as archive:
                inside = set(archive.namelist())
                for path in (f"{INSIDE}/{name}", name):
                    if path in inside:
                        return archive.read(path)
        raise ExplainedError(
            f"{self.root} has no {name} (looked in {INSIDE}/ too); it should hold {{bts,random}}/{{all,men,women}}/*.csv, "
            "as in the wheel that `pip download --no-deps obp==0.4.1` fetches"
        )


class OpenBandit:
    """Open Bandit as a `Source`.  `data`: a folder with random/ and bts/, an unpacked obp package, or its wheel."""

    def __init__(self, data: Path | None) -> None:
        if data is None:
            raise ExplainedError(
                "open-bandit reads files: run `pip download --no-deps obp==0.4.1` and give the wheel it fetches, or a folder "
                "with its csv files, as --data"
            )
        if not data.exists():
            raise ExplainedError(f"--data {data} doesn't exist; give the obp wheel or a folder with random/ and bts/ in it")
        self._folder = Folder(data)
        self.spec = SourceSpec(
            name="open-bandit",
            entities=("ad", "placement"),
            context=("placement", *USER_FEATURES),
            streams=("requests", "impressions", "clicks", "ads"),
            split=SPLIT,
            first_day_us=FIRST_DAY_US,
            days=DAYS,
            truth=False,
        )

    def deliver(self, home: Home, progress: bool = True) -> dict[str, int]:
        """See `pipelines.sources.contract.Source`.  Raises ExplainedError for missing files, columns and strange values."""
        tables = self.tables()
        for stream, table in tables.items():
            arrived = pc.cast(table["arrived_at"], pa.int64()).to_numpy()
            outside = (arrived < FIRST_DAY_US) | (arrived >= FIRST_DAY_US + DAYS * DAY_US)
            if outside.any():
                raise ExplainedError(
                    f"{self._folder.root}: {int(outside.sum())} {stream} lie outside {day_name(FIRST_DAY_US)} .. "
                    f"{day_name(FIRST_DAY_US + (DAYS - 1) * DAY_US)}, the first on {day_name(int(arrived[outside][0]))}; "
                    "this source knows the week that comes with obp 0.4.1"
                )
            for day_us in range(FIRST_DAY_US, FIRST_DAY_US + DAYS * DAY_US, DAY_US):
                rows = table.filter(pa.array((arrived >= day_us) & (arrived < day_us + DAY_US)))
                path = home.writing(home.landing / stream / f"day={day_name(day_us)}" / "part-0.parquet")
                part = path.with_name(".part")
                pq.write_table(rows, part, compression="zstd")
                os.replace(part, path)
        return {stream: table.num_rows for stream, table in tables.items()}

    def tables(self) -> dict[str, pa.Table]:
        """The whole log by stream, in order of arrival, then id."""
        items = {campaign: self._folder.read(f"random/{campaign}/item_context.csv", _ITEM_TYPES) for campaign in CAMPAIGNS}
        parts: dict[str, list[pa.Table]] = {"requests": [], "impressions": [], "clicks": []}
        for policy in POLICIES:
            for campaign in CAMPAIGNS:
                name = f"{policy}/{campaign}/{campaign}.csv"
                log = self._folder.read(name, _LOG_TYPES)
                _check(log, items[campaign], f"{self._folder.root}/{name}")
                for stream, table in _events(log, policy, campaign, items[campaign].num_rows).items():
                    parts[stream].append(table)
        tables = {stream: pa.concat_tables(some) for stream, some in parts.items()} | {"ads": _ads(items)}
        return {
            stream: table.sort_by([("arrived_at", "ascending"), (KEYS[stream], "ascending")]).combine_chunks()
            for stream, table in tables.items()
        }


def ad_id(campaign: str, item: int) -> int:
    """Our id of an item: items are numbered anew in each campaign."""
    return text_id(f"open-bandit/{campaign}/{item}")


def _check(log: pa.Table, items: pa.Table, where: str) -> None:
    """Raises ExplainedError at the first row whose value can't be right."""
    allowed = {
        "click": pc.is_in(log["click"], pa.array([0, 1])),
        "position": pc.is_in(log["position"], pa.array([1, 2, 3])),
        "propensity_score": pc.and_(pc.greater(log["propensity_score"], 0.0), pc.less_equal(log["propensity_score"], 1.0)),
        "item_id": pc.is_in(log["item_id"], items["item_id"].combine_chunks()),
        "timestamp": pc.is_valid(log["timestamp"]),
    }
    for field, fine in allowed.items():
        wrong = np.flatnonzero(~fine.combine_chunks().fill_null(False).to_numpy(zero_copy_only=False))
        if len(wrong):
            row = int(wrong[0])
            raise ExplainedError(f"{where}, row {row + 2}: {field} is {log[field][row]}; get the file again")


def _page_views(log: pa.Table) -> I64:
    """[n] a number for each row's page view: rows of one instant and one user's features, each position once."""
    import pandas as pd

    frame = log.select(["timestamp", *USER_FEATURES, "position"]).to_pandas()
    again = frame.groupby(list(frame.columns), sort=False).cumcount()
    keys = [frame[name] for name in ("timestamp", *USER_FEATURES)]
    number = pd.concat([*keys, again.rename("again")], axis=1).groupby([*(k.name for k in keys), "again"], sort=False).ngroup()
    return number.to_numpy(np.int64)


def _events(log: pa.Table, policy: str, campaign: str, n_items: int) -> dict[str, pa.Table]:
    """Requests, impressions and clicks of one csv file."""
    n = log.num_rows
    view = _page_views(log)
    request_id = derived_id(text_id(f"open-bandit/{policy}/{campaign}"), view)
    slot = (log["position"].to_numpy() - 1).astype(np.int16)
    impression_id = derived_id(request_id, slot)
    time = log["timestamp"].combine_chunks()
    ads = np.array([ad_id(campaign, item) for item in range(int(pc.max(log["item_id"]).as_py()) + 1 if n else 0)], np.int64)
    impressions = {
        "impression_id": impression_id,
        "request_id": request_id,
        "event_timestamp": time,
        "arrived_at": time,
        "user_id": pa.nulls(n, pa.int64()),
        "ad_id": ads[log["item_id"].to_numpy()] if n else np.zeros(0, np.int64),
        "slot": slot,
        "n_candidates": np.full(n, n_items, np.int32),
        "bid": pa.nulls(n, pa.float32()),
        "propensity": log["propensity_score"].to_numpy().astype(np.float32),
        "policy": pa.array([policy] * n, pa.string()),
        "randomised": np.full(n, policy == "random"),
        "placement": pa.array([campaign] * n, pa.string()),
        **{name: log[name].combine_chunks() for name in USER_FEATURES},
    }
    _, first, shown = np.unique(view, return_index=True, return_counts=True)
    requests = {
        "request_id": request_id[first],
        "event_timestamp": time.take(pa.array(first)),
        "arrived_at": time.take(pa.array(first)),
        "user_id": pa.nulls(len(first), pa.int64()),
        "device": pa.nulls(len(first), pa.string()),
        "placement": pa.array([campaign] * len(first), pa.string()),
        "n_candidates": np.full(len(first), n_items, np.int32),
        "n_shown": shown.astype(np.int32),
    }
    clicked = np.flatnonzero(log["click"].to_numpy() == 1)
    clicks = {
        "click_id": click_id(impression_id[clicked]),
        "impression_id": impression_id[clicked],
        "event_timestamp": time.take(pa.array(clicked)),
        "arrived_at": time.take(pa.array(clicked)),
    }
    return {
        "requests": pa.table(requests, schema=REQUESTS),
        "impressions": pa.table(impressions, schema=_IMPRESSIONS),
        "clicks": pa.table(clicks, schema=CLICKS),
    }


def _ads(items: dict[str, pa.Table]) -> pa.Table:
    """Every item of every campaign.  Raises ExplainedError where there are more categories than the features have room for."""
    rows = [
        (campaign, item["item_id"], item["item_feature_3"]) for campaign, table in items.items() for item in table.to_pylist()
    ]
    categories = sorted({(campaign, group) for campaign, _, group in rows})
    if len(categories) > CATEGORIES:
        raise ExplainedError(
            f"item_context.csv: {len(categories)} groups in item_feature_3, but there is room for {CATEGORIES}"
        )
    columns = {
        "ad_id": np.array([ad_id(campaign, item) for campaign, item, _ in rows], np.int64),
        "event_timestamp": pa.array([FIRST_DAY_US] * len(rows), pa.int64()).view(TIME),
        "arrived_at": pa.array([FIRST_DAY_US] * len(rows), pa.int64()).view(TIME),
        "campaign_id": pa.nulls(len(rows), pa.int64()),
        "advertiser_id": pa.nulls(len(rows), pa.int64()),
        "ad_category": np.array([categories.index((campaign, group)) for campaign, _, group in rows], np.int64),
        "ad_format": pa.nulls(len(rows), pa.string()),
        "ad_price": pa.nulls(len(rows), pa.float32()),
    }
    return pa.table(columns, schema=ADS)
