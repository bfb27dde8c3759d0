"""Feast's objects, generated from the catalogue: entities, views, services, and the store that holds them.

`pipelines` applies them so that any Feast tool can browse and read our features; tests compare our join and our online reader
with Feast's.  Feast 0.67 is not on any hot path (docs/log.md has the measurements).  Times of the catalogue's kind `time` are
Int64 microseconds to Feast, because its UnixTimestamp keeps whole seconds.  No view has a time-to-live: serving checks ages on
every read.
"""

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote, urlsplit

import numpy as np

from features.batch import RequestBatch
from features.catalogue import DERIVED, SERVICES, VIEWS, Entity, Kind, View
from features.derive import available, derive
from features.online_store import online_url
from features.online_values import PROJECT
from features.snapshots import KEYS
from features.spec import service_views
from infra.home import Home

if TYPE_CHECKING:
    import pandas as pd
    from feast import FeatureStore

ON_DEMAND = "derived"
# Feast keeps the on-demand function in its registry as a pickle and as text; it unpickles only where the text is no function.
COMPUTE = """def compute(frame):
    from features.feast_repo import derived_frame

    return derived_frame(frame)
"""
# campaign_id is the key of one view and a feature of another, which Feast's offline join can't tell apart: services ask by this
# name.
RENAMED = {"campaign_id": "campaign_of_ad"}  # not "campaign": an alias must not be an entity's name
REQUEST = ("request_time", "page_topic")  # what the on-demand view needs besides stored features: int64 us, category


def objects(home: Home, entities: Sequence[Entity]) -> list[Any]:
    """Every Feast object of a source with these entities: entities, views, the on-demand view, services."""
    import feast
    from feast.data_format import ParquetFormat
    from feast.types import Array, Float32, Int64, String

    types: Mapping[Kind, Any] = {
        "float": Float32, "int": Int64, "string": String, "time": Int64, "floats": Array(Float32), "ints": Array(Int64),
    }  # fmt: skip

    def one_entity(name: Entity) -> Any:
        kind = feast.ValueType.STRING if name == "placement" else feast.ValueType.INT64
        return feast.Entity(name=name, join_keys=[KEYS[name]], value_type=kind)

    def one_view(view: View) -> Any:
        files = feast.FileSource(
            name=f"{view.name}_snapshots",
            path=str(home.features / view.name / "*.parquet"),
            timestamp_field="event_timestamp",
            created_timestamp_column="available_at",
            file_format=ParquetFormat(),
        )
        key = feast.Field(name=KEYS[view.entity], dtype=String if view.entity == "placement" else Int64)
        return feast.FeatureView(
            name=view.name,
            entities=[keyed[view.entity]],
            schema=[key, *(feast.Field(name=f.name, dtype=types[f.kind], description=f.help) for f in view.features)],
            source=feast.PushSource(name=f"{view.name}_push", batch_source=files) if view.refresh == "push" else files,
            ttl=None,
        )

    keyed = {name: one_entity(name) for name in entities}
    views = {view.name: one_view(view) for view in VIEWS if view.entity in entities}
    derived = _on_demand(list(views.values()), available(service_views(entities, "ctr_full"), ("page_topic",)), types)
    services = []
    for name in SERVICES:
        kept = service_views(entities, name)
        computed = [feature.name for feature in available(kept, ("page_topic",))]
        asked = [views[v.name].with_join_key_map(RENAMED) if v.entity == "campaign" else views[v.name] for v in kept]
        services.append(feast.FeatureService(name=name, features=[*asked, derived[computed]]))
    return [*keyed.values(), *views.values(), derived, *services]


def _on_demand(views: list[Any], features: Sequence[Any], types: Mapping[Kind, Any]) -> Any:
    """The one on-demand view: `features.derive.derive` on a data frame of stored features and the request's time and topic."""
    import feast
    import pandas as pd
    from feast.types import Int64

    def compute(frame: pd.DataFrame) -> pd.DataFrame:  # Feast reads these types when it runs, and keeps the function by value
        from features.feast_repo import derived_frame

        return derived_frame(frame)

    return feast.OnDemandFeatureView(
        name=ON_DEMAND,
        sources=[
            *views,
            feast.RequestSource(name="request", schema=[feast.Field(name=name, dtype=Int64) for name in REQUEST]),
        ],
        # No descriptions here: Feast compares these fields with the ones it infers, which have none.
        schema=[feast.Field(name=f.name, dtype=types[f.kind]) for f in features],
        mode="pandas",
        udf=cast(FunctionType, compute),
        udf_string=COMPUTE,
    )


def derived_frame(frame: "pd.DataFrame") -> "pd.DataFrame":
    """What the on-demand view computes: stored features and REQUEST in, every derived feature that they allow out."""
    import pandas as pd

    n = len(frame)
    nobody = np.full(n, -1, np.int64)
    requests = RequestBatch(
        row_id=np.arange(n),
        time_us=frame["request_time"].to_numpy(np.int64),
        user_id=nobody,
        ad_id=nobody,
        context={"page_topic": frame["page_topic"].to_numpy(np.int64)},
    )
    stored = {f.name: _column(frame[f.name], f.kind, f.length) for v in VIEWS for f in v.features if f.name in frame}
    columns = derive(stored, requests)
    return pd.DataFrame({f.name: columns[f.name] for f in DERIVED if f.name in columns}, index=frame.index)


def _column(values: "pd.Series[Any]", kind: Kind, length: int) -> Any:
    """A data frame's column as `derive` takes it; null becomes the unknown."""
    import pandas as pd

    if kind == "float":
        return pd.to_numeric(values).to_numpy(np.float32)
    if kind == "string":
        return values.fillna("").to_numpy(np.str_)
    if kind in ("floats", "ints"):
        unknown: Any = np.full(length, np.nan, np.float32) if kind == "floats" else np.full(length, -1, np.int64)
        return np.array([unknown if one is None or np.size(one) != length else one for one in values], unknown.dtype)
    if isinstance(values.dtype, pd.DatetimeTZDtype):  # snapshot files hold times as times, the online store as Int64
        return np.where(values.isna(), -1, values.dt.as_unit("us").astype("int64"))
    return values.fillna(-1).to_numpy(np.int64)


def store(home: Home, url: str | None = None) -> "FeatureStore":
    """Feast's own view of a home: registry, snapshot files through DuckDB, and the online store (SQLite, or Redis of `url`)."""
    from feast import FeatureStore, RepoConfig

    home.writing(home.online)
    url = online_url(home) if url is None else url
    online: dict[str, Any] = {"type": "sqlite", "path": str(home.online)}
    if url:
        online = {"type": "redis", "connection_string": _connection_string(url)}
    return FeatureStore(
        config=RepoConfig(
            project=PROJECT,
            provider="local",
            registry=str(_registry(home)),
            offline_store={"type": "duckdb"},
            online_store=online,
            entity_key_serialization_version=3,
        )
    )


def _registry(home: Home) -> Path:
    return home.feast / "registry.db"


def _connection_string(url: str) -> str:
    """redis://USER:PASSWORD@HOST:PORT/DB as Feast wants it: HOST:PORT,username=USER,password=PASSWORD,db=DB."""
    parts = urlsplit(url)
    login = {"username": parts.username, "password": parts.password}
    said = [
        f"{name}={json.dumps(unquote(value))}" for name, value in login.items() if value
    ]  # a string, also where it is digits
    database = parts.path.strip("/")
    return ",".join([f"{parts.hostname}:{parts.port or 6379}", *said, *([f"db={database}"] if database else [])])


def apply(home: Home, entities: Sequence[Entity], url: str | None = None) -> "FeatureStore":
    """Write a new registry of a home, with every object of the catalogue.  The store.

    What was there is not read: Feast runs the code in a registry."""
    home.writing(_registry(home)).unlink(missing_ok=True)
    opened = store(home, url)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "On demand feature view is an experimental feature", RuntimeWarning)
        opened.apply(objects(home, entities), partial=False)
    return opened
