"""Made-up rows of every table that an injection can get: plain, plausible, one row a request, user and ad unless said."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.catalogue import CONTEXT, DERIVED, VIEWS, view
from features.schemas import CATEGORIES, CLICKS, IMPRESSIONS, PREDICTIONS, REQUESTS, TIME
from features.snapshots import KEYS, schema, table
from infra.clock import DAY_US, HOUR_US, SECOND_US
from monitoring.bugs.entry import Bug, Scene
from monitoring.bugs.outside import TABLES

DAY = 20_454 * DAY_US  # a Thursday
WORDS = {
    "device": ("desktop", "mobile", "tablet", "tv"),
    "placement": ("app_banner", "article_end", "article_side", "home_feed", "home_top", "search"),
    "user_country": ("BR", "DE", "PL", "US"),
    "ad_format": ("banner", "video"),
    "arm": ("a", "b"),
    "policy": ("greedy",),
    "artefact": ("aa",),
    "encoder": ("ee",),
}
CODES = {"page_topic": CATEGORIES, "ad_category": CATEGORIES, "slot": 4, "hour": 24}
WORLD_IMPRESSIONS = [*IMPRESSIONS, *(pa.field(f.name, pa.int64() if f.kind == "int" else pa.string()) for f in CONTEXT[2:])]


def column(name: str, kind: pa.DataType, n: int, draw: np.random.Generator, id_of: str = "") -> pa.Array:
    """n plausible values of one column; ids count from 1, in an order of their own."""
    if name in WORDS:
        return pa.array(draw.choice(WORDS[name], n))
    if name in CODES:
        return pa.array(draw.integers(0, CODES[name], n)).cast(kind)
    if kind == TIME:
        return pa.array(DAY + np.sort(draw.integers(0, DAY_US, n))).cast(TIME)
    if pa.types.is_integer(kind):
        return pa.array(1 + draw.permutation(n)).cast(kind)
    if pa.types.is_boolean(kind):
        return pa.array(draw.random(n) < 0.3)
    values = draw.random(n) * (0.1 if name in ("p", "propensity") or name.endswith("_ctr") else 10) + 0.01
    known = draw.random(n) > (0.2 if name == "user_price_clicked" else 0.0)
    return pa.array(np.where(known, values, np.nan)).cast(kind)


def of_schema(fields: Any, n: int, draw: np.random.Generator) -> pa.Table:
    """n rows of a schema."""
    fields = list(fields)
    return pa.Table.from_arrays([column(f.name, f.type, n, draw) for f in fields], schema=pa.schema(fields))


def features(n: int, draw: np.random.Generator) -> pa.Table:
    """What the endpoint fetched: request, and every feature of the catalogue."""
    every = [*CONTEXT, *(f for v in VIEWS for f in v.features if f.use in ("numeric", "categorical")), *DERIVED]
    kinds = {"float": pa.float32(), "int": pa.int64(), "string": pa.string()}
    stamp = [pa.field("impression_id", pa.int64()), pa.field("request_id", pa.int64()), pa.field("event_timestamp", TIME)]
    rows = of_schema([*stamp, *(pa.field(f.name, kinds[f.kind]) for f in every)], n, draw)
    known = pc.invert(pc.is_nan(rows["user_price_clicked"]))
    at = rows.schema.get_field_index("price_gap")
    gap = pc.if_else(known, pc.subtract(rows["ad_log_price"], rows["user_price_clicked"]), pa.scalar(np.nan, pa.float32()))
    return rows.set_column(at, rows.schema.field(at), gap)


def view_rows(name: str, n: int, draw: np.random.Generator) -> pa.Table:
    """n snapshot rows of a view, one an entity."""
    asked, key = view(name), KEYS[view(name).entity]
    end = DAY + DAY_US + np.arange(n) * SECOND_US
    values = {
        f.name: draw.random((n, f.length)).astype(np.float32) if f.kind == "floats"
        else draw.integers(0, CATEGORIES, (n, f.length)) if f.kind == "ints"
        else end - draw.integers(0, DAY_US, n) if f.kind == "time"
        else column(f.name, schema(asked).field(f.name).type, n, draw).to_numpy(zero_copy_only=False)
        for f in asked.features
    }  # fmt: skip
    keys = column(key, schema(asked).field(key).type, n, draw).to_numpy(zero_copy_only=False)
    return table(asked, keys, end, end + 30 * SECOND_US, np.full(n, 20260101), values)


def training(n: int, draw: np.random.Generator) -> pa.Table:
    """An export of ten days, split by time, one click in five; a tenth of its rows share user and category with others."""
    time_us = np.sort(DAY + draw.integers(0, 10 * DAY_US, n))
    day = (time_us - DAY) // DAY_US
    rows = features(n, draw).drop_columns(["impression_id", "request_id", "event_timestamp"])
    head = {
        "row_id": 1 + draw.permutation(n),
        "time_us": time_us,
        "group": draw.integers(0, max(n // 3, 1), n),
        "slot": draw.integers(0, 4, n).astype(np.int16),
        "label": (draw.random(n) < 0.2).astype(np.uint8),
        "part": np.where(day < 7, "train", np.where(day < 8, "valid", np.where(day < 9, "calibrate", "test"))),
    }
    return pa.table({**head, **{name: rows[name] for name in rows.column_names}})


def market(n: int, draw: np.random.Generator) -> tuple[pa.Table, pa.Table]:
    """(clicks, impressions with p_true): each of the n impressions is clicked with its probability, 0.3 on average."""
    shown = of_schema([*WORLD_IMPRESSIONS, pa.field("p_true", pa.float64())], n, draw)
    p = 0.1 + 0.4 * draw.random(n)
    shown = shown.set_column(shown.schema.get_field_index("p_true"), "p_true", pa.array(p))
    clicked = shown.filter(pa.array(draw.random(n) < p))
    click = [pc.add(clicked["impression_id"], n), clicked["impression_id"], clicked["event_timestamp"], clicked["arrived_at"]]
    return pa.Table.from_arrays([c.combine_chunks() for c in click], schema=CLICKS), shown


@dataclass(frozen=True)
class Linear:
    """An artefact of one line: what it scores depends on a few columns, and how strongly is its name."""

    weight: float = 1.0

    @property
    def hash(self) -> str:
        return f"linear-{self.weight}"

    encoder_hash = "none"

    def score(self, columns: Mapping[str, Any]) -> Any:
        s = self.weight * (columns["user_ctr"] * 10 + columns["ad_ctr"] * 7 - columns["ad_log_price"] * 0.01) - 3
        return s.astype(np.float32)

    def probability(self, s: Any, slot: Any) -> Any:
        return 1 / (1 + np.exp(-(s.astype(np.float64) - 0.3 * slot)))


def rows_for(bug: Bug, table_name: str, n: int, seed: int = 1) -> tuple[pa.Table, Scene]:
    """n rows of one of the bug's tables, and the scene around them."""
    draw = np.random.default_rng([n, seed])
    tables: dict[str, pa.Table] = {}
    if bug.stage == "market":
        rows, tables["impressions"] = market(n, draw)
    elif table_name in TABLES["feature"]:
        rows = view_rows(table_name, n, draw)
    elif bug.stage == "training":
        rows = training(n, draw)
    elif table_name == "candidates":
        ad = np.concatenate([draw.permutation(500)[:20] for _ in range(n // 20)])
        rows = pa.table({"request_id": np.arange(len(ad)) // 20, "ad_id": ad})
        tables["new_ads"] = pa.table({"ad_id": np.arange(1000, 1040)})
    elif bug.stage in ("features", "input"):
        rows = features(n, draw)
    elif bug.stage == "assignment":
        rows = of_schema([REQUESTS.field("request_id"), REQUESTS.field("user_id"), pa.field("arm", pa.string())], n, draw)
    elif table_name == "predictions":
        rows = of_schema(PREDICTIONS, n, draw)
    elif bug.stage == "traffic":
        rows = of_schema([*list(REQUESTS)[:2], *list(REQUESTS)[3:6], pa.field("page_topic", pa.int64())], n, draw)
    else:
        rows = of_schema({"requests": REQUESTS, "impressions": WORLD_IMPRESSIONS, "clicks": CLICKS}[table_name], n, draw)
    return rows, Scene(table_name, seed=seed, onset_us=DAY - 6 * HOUR_US, tables=tables)


def same(one: pa.Table, other: pa.Table) -> bool:
    """Whether two tables are equal, NaN being equal to NaN."""
    return _numbered(one).equals(_numbered(other))


def _numbered(rows: pa.Table) -> pa.Table:
    for at, field in enumerate(rows.schema):
        if pa.types.is_floating(field.type):
            rows = rows.set_column(at, field, pc.if_else(pc.is_nan(rows[at]), pa.scalar(-1e30, field.type), rows[at]))
    return rows
