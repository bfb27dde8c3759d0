"""What a point-in-time join costs: ours, Polars' `join_asof` and Feast's DuckDB retrieval, CPU seconds on the same tables, as
ratios. Called by `clickproof bench join`.

The floor is one binary search a label and view and one gather a feature: memory-bound, about a tenth of a microsecond each.
Tables are prepared alike for all (sorted by time, in memory; for Feast also as parquet, since it reads files).  Without late
rows the three mean the same, and the answers are compared.  Figures are CPU of the process with all its threads, so that cores
don't flatter.
"""

import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from features.asof import asof_index
from features.feast_repo import store
from features.snapshots import KEYS, to_time
from infra.clock import DAY_US, MINUTE_US
from infra.home import Home

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]

LABELS, FEAST_LABELS = 1_000_000, 200_000
ROWS = {"user": (50_000, 30), "ad": (20_000, 30)}  # entities and daily rows of each: 1.5 M and 0.6 M rows
FEATURES = 4  # of each view
GOALS = {"ours_over_polars": 2.0, "feast_over_ours": 10.0}
FIRST_US = 20_000 * DAY_US


class Rows(NamedTuple):
    """One view: m rows in order of availability."""

    key: I64
    event_us: I64
    available_us: I64
    values: tuple[F32, ...]


class Labels(NamedTuple):
    """n labels in order of time."""

    time_us: I64
    keys: dict[str, I64]


def run(labels: int = LABELS, feast_labels: int = FEAST_LABELS, repeats: int = 3) -> dict[str, Any]:
    """CPU seconds of each join (best of `repeats`; Feast once) and their ratios.  Raises AssertionError where answers
    differ."""
    rng = np.random.default_rng(1)
    views = {name: _rows(rng, *size) for name, size in ROWS.items()}
    many, few = (_labels(rng, n) for n in (labels, feast_labels))
    ours, ours_s = _best(lambda: _ours(many, views), repeats)
    frames = _frames(many, views)
    polars, polars_s = _best(lambda: _polars(*frames), repeats)
    _same(ours, polars)
    fewer, fewer_s = _best(lambda: _ours(few, views), repeats)
    feast, feast_s = _feast(few, views)
    _same(fewer, feast)
    return {
        "labels": labels,
        "feast_labels": feast_labels,
        "rows": {name: len(rows.key) for name, rows in views.items()},
        "ours_cpu_s": round(ours_s, 3),
        "polars_cpu_s": round(polars_s, 3),
        "ours_on_feast_labels_cpu_s": round(fewer_s, 3),
        "feast_cpu_s": round(feast_s, 2),
        "ours_over_polars": round(ours_s / polars_s, 2),
        "feast_over_ours": round(feast_s / fewer_s, 1),
        "goals": GOALS,
    }


def _rows(rng: np.random.Generator, entities: int, days: int) -> Rows:
    """Daily snapshots: every entity once a day, available half an hour after the day's end."""
    key = np.tile(np.arange(entities) * 7_919 + 13, days)
    event = FIRST_US + np.repeat(np.arange(days), entities) * DAY_US
    values = tuple(rng.random(len(key), dtype=np.float32) for _ in range(FEATURES))
    return Rows(key, event, event + 30 * MINUTE_US, values)


def _labels(rng: np.random.Generator, n: int) -> Labels:
    last = max(days for _, days in ROWS.values()) + 1
    keys = {name: rng.integers(0, entities + entities // 50, n) * 7_919 + 13 for name, (entities, _) in ROWS.items()}
    return Labels(np.sort(FIRST_US + rng.integers(0, last * DAY_US, n)), keys)


def _best(join: Callable[[], dict[str, F32]], repeats: int) -> tuple[dict[str, F32], float]:
    seconds = []
    for _ in range(repeats):
        started = time.process_time()
        answer = join()
        seconds.append(time.process_time() - started)
    return answer, min(seconds)


def _ours(labels: Labels, views: dict[str, Rows]) -> dict[str, F32]:
    answer = {}
    for name, rows in views.items():
        at = asof_index(labels.keys[name], labels.time_us, rows.key, rows.available_us, rows.event_us)
        for i, values in enumerate(rows.values):
            answer[f"{name}_{i}"] = np.append(values, np.float32(np.nan))[at]  # -1 picks the unknown
    return answer


def _frames(labels: Labels, views: dict[str, Rows]) -> tuple[pl.DataFrame, dict[str, pl.DataFrame]]:
    left = pl.DataFrame({"time_us": labels.time_us, **labels.keys}).set_sorted("time_us")
    right = {
        name: pl.DataFrame(
            {name: rows.key, "time_us": rows.available_us, **{f"{name}_{i}": v for i, v in enumerate(rows.values)}}
        ).set_sorted("time_us")
        for name, rows in views.items()
    }
    return left, right


def _polars(left: pl.DataFrame, right: dict[str, pl.DataFrame]) -> dict[str, F32]:
    for name, rows in right.items():
        left = left.join_asof(rows, on="time_us", by=name, strategy="backward", check_sortedness=False)
    columns = left.select([c for c in left.columns if c.rpartition("_")[2].isdigit()])
    return {name: columns[name].fill_null(np.nan).to_numpy() for name in columns.columns}


def _feast(labels: Labels, views: dict[str, Rows]) -> tuple[dict[str, F32], float]:
    """Feast's retrieval as one would call it, with a row id, because its DuckDB store gives no order."""
    import feast
    import pandas as pd
    from feast.data_format import ParquetFormat
    from feast.types import Float32

    names = {name: [f"{name}_{i}" for i in range(FEATURES)] for name in views}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Feast 0.67 calls deprecated pandas and asyncio functions
        objects: list[Any] = []
        for name, rows in views.items():
            path = Path(folder) / f"{name}.parquet"
            key = KEYS[name]
            stamps = {"event_timestamp": to_time(rows.event_us), "available_at": to_time(rows.available_us)}
            pq.write_table(pa.table({key: rows.key, **stamps, **dict(zip(names[name], rows.values, strict=True))}), path)
            entity = feast.Entity(name=name, join_keys=[key], value_type=feast.ValueType.INT64)
            files = feast.FileSource(
                path=str(path), timestamp_field="event_timestamp", created_timestamp_column="available_at",
                file_format=ParquetFormat(),
            )  # fmt: skip
            fields = [feast.Field(name=feature, dtype=Float32) for feature in names[name]]
            objects += [
                entity,
                feast.FeatureView(name=f"{name}_rows", entities=[entity], schema=fields, source=files, ttl=None),
            ]
        opened = store(Home(Path(folder)), "")
        opened.apply(objects)
        asked = pd.DataFrame({KEYS[name]: keys for name, keys in labels.keys.items()})
        asked["row_id"] = np.arange(len(asked))
        asked["event_timestamp"] = pd.to_datetime(labels.time_us, unit="us", utc=True)
        features = [f"{name}_rows:{feature}" for name, of_view in names.items() for feature in of_view]
        started = time.process_time()
        found = opened.get_historical_features(asked, features, filter_by_created_timestamp=True).to_df().sort_values("row_id")
        seconds = time.process_time() - started
    return {feature: found[feature].to_numpy(np.float32) for of_view in names.values() for feature in of_view}, seconds


def _same(one: dict[str, F32], other: dict[str, F32]) -> None:
    for name, values in one.items():
        np.testing.assert_array_equal(values, other[name], name)
