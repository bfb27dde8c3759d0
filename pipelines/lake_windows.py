"""Windows of a home's own log, from its lake: what production monitors.  Called by the monitoring flow.

A day is served if the endpoint answered requests in it and its log was ingested; any other day can be scored by the champion in
batch, which shows how features, predictions and clicks behave but leaves nothing to replay.
"""

import json
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.requests import from_impressions
from features.schemas import TIME
from features.sources import AsOfSource
from infra.clock import DAY_US, HOUR_US, day_name
from infra.home import Home
from infra.lake import Lake
from models.artefact import Artefact, load
from monitoring.window import REFUSED, Window
from pipelines.plant.days import CLICK_DAYS, LATE_DAYS, a_day_late, edges
from pipelines.plant.serving import features_of, predictions
from pipelines.sources.contract import SourceSpec
from pipelines.windows import (
    OLD_SAMPLE,
    books_of,
    columns_of,
    feature_arrays,
    joined,
    log_of,
    offline_of,
    rescored_of,
    sample_rows,
)
from serving.assignment import Assignment

STREAMS = ("requests", "impressions", "clicks")


class LakeWindows:
    """Hourly windows of a home's lake."""

    def __init__(self, home: Home, spec: SourceSpec, champion: Artefact) -> None:
        self.home, self.spec, self.champion, self.lake = home, spec, champion, Lake.of(home)
        self.columns = columns_of(spec.entities, spec.context, champion.service)
        self._source = AsOfSource(home, spec.entities, spec.context, champion.service)
        self._late = a_day_late(home, spec, champion.service)
        self._log = lru_cache(maxsize=CLICK_DAYS + 1)(self._logged)
        self._load = lru_cache(maxsize=8)(self._loaded)

    def served_days(self) -> list[str]:
        """Days of which the lake holds predictions that were shown."""
        return self.lake.days("predictions") if self.lake.has("predictions") else []

    def scored_days(self) -> list[str]:
        """Days with impressions behind the champion's training days: what it can be watched on without having been served."""
        last = self.champion.trained_days[1] if self.champion.trained_days else ""
        return [day for day in self.lake.days("impressions") if day > last and day not in self.served_days()]

    def day(self, day: str) -> Iterator[Window]:
        """The 24 windows of a day."""
        served, day_us = day in self.served_days(), int(np.datetime64(day, "us").astype(np.int64))
        rows = self._log(day)
        log = log_of(rows)
        at = edges(log["time"].to_numpy(), day_us)
        clicks = self._clicks(day, day_us)
        click_at = edges(clicks["arrived_at"].to_numpy(), day_us)
        books, refused = self._books(day, day_us)
        for hour in range(24):
            part = rows.slice(at[hour], at[hour + 1] - at[hour])
            here = clicks.slice(click_at[hour], click_at[hour + 1] - click_at[hour])
            sample = part.take(pa.array(sample_rows(part["impression_id"].to_numpy())))
            old = sample.take(pa.array(sample_rows(sample["impression_id"].to_numpy(), OLD_SAMPLE)))
            replayed = served and len(sample) > 0
            counts = [*books[hour], ("predictions", "accepted", len(part)), ("clicks", "joined", len(here))]
            yield Window(
                day_us + hour * HOUR_US,
                day_us + (hour + 1) * HOUR_US,
                log.slice(at[hour], at[hour + 1] - at[hour]),
                here,
                self._again(self._source, sample) if replayed else None,
                rescored_of(sample, self._load) if replayed else None,
                self._again(self._late, old) if replayed else None,
                books_of(counts),
                refused if hour == 23 else None,
            )

    def _logged(self, day: str) -> pa.Table:
        """The day's prediction log, shown rows only, in order of time: as it was served, else as the champion scores it."""
        order = [("event_timestamp", "ascending"), ("impression_id", "ascending")]
        if day in self.served_days():
            rows = self.lake.read("predictions", days=[day])
            return rows.filter(pc.is_valid(rows["impression_id"])).drop_columns("day").sort_by(order)
        shown = self._shown(day).sort_by(order)
        batch = features_of(self._source, shown, self.spec.context)
        return predictions(shown, batch, self.champion, Assignment("batch"))

    def _shown(self, day: str) -> pa.Table:
        day_us = int(np.datetime64(day, "us").astype(np.int64))
        arrival = {day_name(day_us + later * DAY_US) for later in range(LATE_DAYS + 1)}
        rows = self.lake.read("impressions", days=sorted(arrival & set(self.lake.days("impressions"))))
        at, first, end = rows["event_timestamp"], pa.scalar(day_us, TIME), pa.scalar(day_us + DAY_US, TIME)
        return rows.filter(pc.and_(pc.greater_equal(at, first), pc.less(at, end)))

    def _clicks(self, day: str, day_us: int) -> pa.Table:
        """The clicks that arrived on the day with their predictions, in order of arrival."""
        known = {*self.served_days(), *self.scored_days()}
        before = [day_name(day_us - back * DAY_US) for back in range(CLICK_DAYS, -1, -1)]
        clicks = self.lake.read("clicks", days=[day]).sort_by("arrived_at")
        wanted = clicks["impression_id"].combine_chunks()
        parts = []
        for earlier in (name for name in before if name in known):
            rows = self._log(earlier)
            parts.append(log_of(rows.filter(pc.is_in(rows["impression_id"], wanted))))
        return joined(clicks, pa.concat_tables(parts, promote_options="permissive"))

    def _again(self, source: AsOfSource, rows: pa.Table) -> pa.Table:
        """Features of logged rows as a source gives them now: id, f_NAME."""
        context = {name: rows[f"f_{name}"] for name in self.spec.context}
        asked = from_impressions(pa.table({**{c: rows[c] for c in _ASKED}, **context}), self.spec.context)
        return offline_of(pa.table({"impression_id": asked.row_id, **feature_arrays(source.fetch(asked).columns)}))

    def _books(self, day: str, day_us: int) -> tuple[list[list[tuple[str, str, int]]], pa.Table | None]:
        """(counts of each hour, REFUSED of the day).  Ingestion counts by the day: what it did not accept stands in the last
        hour, when the day's files were read."""
        hours: list[list[tuple[str, str, int]]] = [[] for _ in range(24)]
        counts = {}
        if self.lake.has("ingests"):
            rows = self.lake.read("ingests", days=[day]).to_pylist()
            counts = {row["stream"]: json.loads(row["counts"]) for row in rows}
        for stream in (name for name in STREAMS if name in self.spec.streams):
            arrived = self.lake.read(stream, ["arrived_at"], [day])["arrived_at"].cast(pa.int64()).to_numpy()
            accepted = np.bincount(np.clip((arrived - day_us) // HOUR_US, 0, 23), minlength=24)
            left = {name: counts.get(stream, {}).get(name, 0) for name in ("duplicates", "quarantined", "pending")}
            for hour, rows_there in enumerate(accepted.tolist()):
                here = left if hour == 23 else dict.fromkeys(left, 0)
                landed = rows_there + sum(here.values()) - (counts.get(stream, {}).get("carried", 0) if hour == 23 else 0)
                hours[hour] += [(stream, "landed", landed), (stream, "accepted", rows_there)]
                hours[hour] += [
                    (stream, stage, rows) for stage, rows in here.items() if stage != "pending" or stream == "clicks"
                ]
        if not self.lake.has("quarantine"):
            return hours, None
        found = self.lake.read("quarantine", ["stream", "field", "rule"], [day])
        counted = found.group_by(["stream", "field", "rule"]).aggregate([([], "count_all")]).to_pylist()
        refused = [{**row, "field": row["field"] or "", "rows": row["count_all"]} for row in counted]
        return hours, pa.Table.from_pylist(
            [{n: row[n] for n in REFUSED.names} for row in refused], REFUSED
        ) if refused else None

    def _loaded(self, name: str) -> Artefact | None:
        if name == self.champion.hash:
            return self.champion
        return load(self.home.artefacts, name) if (self.home.artefacts / name).is_dir() else None


_ASKED = ("impression_id", "event_timestamp", "user_id", "ad_id")
