"""Is the training join point-in-time correct, late rows included, and what would a careless join have leaked?"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features import snapshots
from features.asof import asof_index
from features.batch import I64, RequestBatch
from features.catalogue import VIEWS, View
from features.feast_repo import apply, store
from features.sources import AsOfSource, Stamps
from infra.clock import DAY_US, HOUR_US, MINUTE_US
from infra.home import Home
from infra.settings import Settings
from models.contract import Dataset
from models.train import train_family
from pipelines.answers.material import Material, difference, material, metrics_of
from pipelines.answers.workplace import asked_for, later, some_users, take, with_columns, workplace
from pipelines.console import say
from pipelines.markdown import interval, table
from pipelines.sources.contract import SourceSpec
from pipelines.training import SERVICE, probability

QUESTION = "Prove point-in-time correctness, late rows included."
NUMBER = 8

GENERATED = 20  # tables of made-up rows
ASKED = 500  # requests of each
FEAST_ASKED = 400  # requests of the home that Feast's store is asked about
BRUTE_ASKED = 4_000  # and brute force
LEAK_ROWS = 60_000  # test rows on which the leaks are measured
LATE_HOURS = (0.5, 6.0, 24.0)  # how late nightly rows come in the last table; half an hour is how they are made


def run(chosen: Settings) -> dict[str, Any]:
    """Three comparisons of the join that must all be free of differences, then two joins that look ahead."""
    found = material(chosen)
    say("comparing the join with brute force and with Feast")
    with workplace(found.home, "point-in-time") as work:
        checks = [*_on_generated(work), *_on_the_home(work, found)]
    say("joining as one should not")
    return {"checks": checks, **_leaks(found)}


def late_rows(rng: np.random.Generator) -> tuple[I64, I64, I64]:
    """(key, available_us, event_us) of some 400 rows of ten entities: a third arrive up to a day late, many out of order, some
    at the same moment."""
    event = 20_461 * DAY_US + rng.integers(0, 40, 400) * HOUR_US
    late = np.where(rng.random(400) < 1 / 3, rng.integers(1, 25, 400) * HOUR_US, 0)
    rows = np.stack([rng.integers(0, 10, 400), event + late, event])
    key, available, event = np.unique(rows, axis=1)  # rows alike in all three have no defined winner
    shuffled = rng.permutation(len(key))
    return key[shuffled], available[shuffled], event[shuffled]


def brute_force(keys: I64, times_us: I64, key: I64, available_us: I64, event_us: I64) -> I64:
    """What serving could have seen, found by looking at every row for every request: the row's index, -1 for none."""
    answer = np.full(len(keys), -1, np.int64)
    for i, (wanted, at) in enumerate(zip(keys, times_us, strict=True)):
        seen = np.flatnonzero((key == wanted) & (available_us <= at))
        if len(seen):
            answer[i] = seen[np.lexsort((available_us[seen], event_us[seen]))[-1]]
    return answer


def _on_generated(work: Home) -> list[dict[str, Any]]:
    rng = np.random.default_rng(8)
    brute = feast = late = asked = back = 0
    for number in range(GENERATED):
        key, available, event = late_rows(rng)
        keys, times = rng.integers(-1, 11, ASKED), 20_461 * DAY_US + rng.integers(0, 66 * HOUR_US, ASKED)
        ours = asof_index(keys, times, key, available, event)
        truth = brute_force(keys, times, key, available, event)
        brute += int((ours != truth).sum())
        late += int((truth != brute_force(keys, times, key, event, event)).sum())
        asked, back = asked + ASKED, back + len(ours)
        if number == 0:
            feast = int((ours != _feast_rows(work, keys, times, key, available, event)).sum())
    return [
        _check("generated tables with late rows", "brute force", asked, brute, (asked, back)) | {"late_matters": late},
        _check("the first of them", "Feast's DuckDB store", ASKED, feast, (ASKED, ASKED)),
    ]


def _check(on: str, against: str, compared: int, mismatches: int, rows: tuple[int, int]) -> dict[str, Any]:
    """One comparison; `rows` are those asked for and those that came back."""
    return {"on": on, "against": against, "compared": compared, "mismatches": mismatches, "rows": list(rows)}


def _feast_rows(work: Home, keys: I64, times_us: I64, key: I64, available_us: I64, event_us: I64) -> I64:
    """The row that Feast picks for each request, -1 for none."""
    import feast
    from feast.data_format import ParquetFormat

    folder = work.root / "late"
    folder.mkdir()
    stamps = {"event_timestamp": snapshots.to_time(event_us), "available_at": snapshots.to_time(available_us)}
    pq.write_table(pa.table({"ad_id": key, **stamps, "row": np.arange(len(key))}), folder / "rows.parquet")
    with _feast():
        ad = feast.Entity(name="ad", join_keys=["ad_id"], value_type=feast.ValueType.INT64)
        files = feast.FileSource(
            path=str(folder / "rows.parquet"), timestamp_field="event_timestamp", created_timestamp_column="available_at",
            file_format=ParquetFormat(),
        )  # fmt: skip
        fields = [feast.Field(name="row", dtype=feast.types.Int64)]
        opened = store(Home(folder), "")
        opened.apply([ad, feast.FeatureView(name="late", entities=[ad], schema=fields, source=files, ttl=None)])
        frame = pd.DataFrame({"row_id": np.arange(len(keys)), "ad_id": keys, "event_timestamp": _utc(times_us)})
        found = opened.get_historical_features(frame, ["late:row"], filter_by_created_timestamp=True).to_df()
    return np.asarray(found.sort_values("row_id")["row"].fillna(-1).to_numpy(np.int64))


@contextmanager
def _feast() -> Iterator[None]:
    """Feast 0.67 warns about itself (experimental views, deprecated pandas functions) and leaves a DuckDB connection behind in
    ibis, which complains when the process ends."""
    import ibis

    with warnings.catch_warnings(action="ignore"):
        yield
    ibis.options.default_backend = None


def _utc(time_us: I64) -> Any:
    return pd.to_datetime(time_us, unit="us", utc=True)


def _on_the_home(work: Home, found: Material) -> list[dict[str, Any]]:
    """Stored feature values of test rows: against brute force in SQL, and against Feast's retrieval."""
    rng = np.random.default_rng(8)
    test = found.test
    some = test.take(np.sort(rng.choice(len(test), min(BRUTE_ASKED, len(test)), replace=False)))
    asked = asked_for(found.parts, some)
    batch = AsOfSource(work, found.spec.entities, found.spec.context, SERVICE).fetch(asked)
    compared = mismatches = 0
    rows = (len(asked), len(batch.columns["ad_id"]))
    for view in VIEWS:
        if view.entity in found.spec.entities:
            truth = _snapshots_in_sql(work, view, asked, batch.columns.get("campaign_id"))
            mismatches += int((truth != batch.views[view.name].snapshot).sum())
            compared += len(asked)
    checks = [_check("rows of the test days, by view", "brute force in SQL", compared, mismatches, rows)]
    few = np.sort(rng.choice(len(asked), min(FEAST_ASKED, len(asked)), replace=False))
    compared, mismatches, back = _feast_values(work, found.spec, take(asked, few))
    rows = (len(few), back)
    return [*checks, _check("stored values of the test days", "Feast's DuckDB store", compared, mismatches, rows)]


def _snapshots_in_sql(work: Home, view: View, asked: RequestBatch, campaign: Any) -> I64:
    """The snapshot that each request should see of a view (0: none): every visible row ranked, nothing clever."""
    import duckdb

    key = snapshots.KEYS[view.entity]
    keys = {"user_id": asked.user_id, "ad_id": asked.ad_id, "campaign_id": campaign}.get(key, asked.context.get(key))
    requests = pa.table({"i": np.arange(len(asked)), "t": asked.time_us, "k": pa.array(keys)})
    wanted = pc.unique(requests["k"])
    parts = []
    for day in snapshots.days(work, view.name):
        part = snapshots.read(work, view.name, day, [key, "event_timestamp", "available_at", "snapshot"])
        parts.append(part.filter(pc.is_in(part[key], wanted)))
    rows = pa.concat_tables(parts)
    stamps = [snapshots.times_us(rows[name]) for name in ("event_timestamp", "available_at")]
    seen = pa.table({"k": rows[key], "e": stamps[0], "a": stamps[1], "s": rows["snapshot"]})
    with duckdb.connect() as db:
        db.register("requests", requests)
        db.register("seen", seen)
        best = db.execute(
            "SELECT r.i, coalesce(s.s, 0) FROM requests r LEFT JOIN seen s ON r.k = s.k AND s.a <= r.t "
            "QUALIFY row_number() OVER (PARTITION BY r.i ORDER BY s.e DESC, s.a DESC) = 1 ORDER BY r.i"
        ).fetchnumpy()
    return np.asarray(list(best.values())[1], np.int64)


def _feast_values(work: Home, spec: SourceSpec, asked: RequestBatch) -> tuple[int, int, int]:
    """(values compared, values that differ, rows returned): the stored features that Feast hands out as they are."""
    ours = AsOfSource(work, spec.entities, spec.context, SERVICE).fetch(asked).columns
    with _feast():
        opened = apply(work, spec.entities)
        frame = pd.DataFrame({"row_id": np.arange(len(asked)), "event_timestamp": _utc(asked.time_us)})
        frame = frame.assign(user_id=asked.user_id, ad_id=asked.ad_id, request_time=asked.time_us)
        frame = frame.assign(campaign_of_ad=ours["campaign_id"], **{n: asked.context[n] for n in ("placement", "page_topic")})
        service = opened.get_feature_service(SERVICE)
        got = opened.get_historical_features(frame, service, filter_by_created_timestamp=True).to_df().sort_values("row_id")
    compared = mismatches = 0
    for view in VIEWS:
        for feature in view.features:
            # We decay the counters of user_recent to the request, Feast hands them out as stored: not the same meaning.
            if feature.use == "numeric" and view.name != "user_recent" and view.entity in spec.entities:
                theirs, mine = pd.to_numeric(got[feature.name]).to_numpy(np.float32), ours[feature.name]
                mismatches += int((~((theirs == mine) | (np.isnan(theirs) & np.isnan(mine)))).sum())
                compared += len(asked)
    return compared, mismatches, len(got)


def _event_time(view: View, available_us: I64, event_us: I64) -> tuple[I64, I64]:
    """A join on event time alone: as if every row could be read the moment that its data end."""
    return event_us, event_us


def _same_day(view: View, available_us: I64, event_us: I64) -> tuple[I64, I64]:
    """A join on the day's name: a request sees its own day's nightly row, which counts its own click."""
    if view.name not in snapshots.DAILY:
        return available_us, event_us
    return event_us - DAY_US, event_us - DAY_US


def _leaks(found: Material) -> dict[str, Any]:
    """Two joins that look ahead: rows whose features change, NE as offline evaluation shows it, and NE once the same model is
    served what could really be seen."""
    test = some_users(found.test, LEAK_ROWS)
    honest = _model(found, None)
    p = probability(honest, test)
    asked = asked_for(found.parts, test)
    now = _features(found, asked, None)
    ne = metrics_of(p, test)["ne"]
    rows: list[dict[str, Any]] = [
        {"join": "available at (ours)", "changed": 0.0, "offline": ne, "served": ne, "gain": None, "loss": None}
    ]
    models = {}
    for name, stamps in (("event time alone", _event_time), ("the day's name", _same_day)):
        models[name] = _model(found, stamps)
        ahead = _features(found, asked, stamps)
        changed = np.zeros(len(test), bool)
        for view, state in ahead.views.items():
            changed |= state.snapshot != now.views[view].snapshot
        offline, live = probability(models[name], with_columns(test, ahead.columns)), probability(models[name], test)
        rows.append(
            {
                "join": name, "changed": float(changed.mean()),
                "offline": metrics_of(offline, test)["ne"], "served": metrics_of(live, test)["ne"],
                "gain": difference(offline, p, test), "loss": difference(live, p, test),
            }
        )  # fmt: skip
    return {"leaks": rows, "n": len(test), "clicks": int(test.label.sum()), "late": _lateness(found, test, asked, models)}


def _lateness(found: Material, test: Dataset, asked: RequestBatch, models: dict[str, Any]) -> list[dict[str, Any]]:
    """The model of the event-time join where nightly rows come later: what it was promised offline and what it gets."""
    model, rows = models["event time alone"], []
    ahead = _features(found, asked, _event_time)
    promised = probability(model, with_columns(test, ahead.columns))
    for hours in LATE_HOURS:
        extra = int(hours * HOUR_US) - 30 * MINUTE_US
        real = _features(found, asked, later(dict.fromkeys(snapshots.DAILY, extra)))
        changed = np.zeros(len(test), bool)
        for view in snapshots.DAILY:
            changed |= ahead.views[view].snapshot != real.views[view].snapshot
        p = probability(model, with_columns(test, real.columns))
        rows.append({"hours": hours, "changed": float(changed.mean()), "flattery": difference(p, promised, test)})
    return rows


def _features(found: Material, asked: RequestBatch, stamps: Stamps | None) -> Any:
    source = AsOfSource(found.home, found.spec.entities, found.spec.context, SERVICE, *([stamps] if stamps else []))
    return source.fetch(asked)


def _model(found: Material, stamps: Stamps | None) -> Any:
    """Boosted trees trained on the training days as one join gives them."""
    parts = found.parts
    cut = [parts.train, parts.valid, parts.calibrate]
    if stamps is not None:
        cut = [with_columns(part, _features(found, asked_for(parts, part), stamps).columns) for part in cut]
    train, valid, calibrate = cut
    entities = found.spec.entities
    return train_family("xgboost", train, valid, calibrate, parts.spec, 1, service=SERVICE, entities=entities).artefact


def markdown(result: dict[str, Any]) -> str:
    """The comparisons, then the leaks."""
    checks = [
        [c["on"], c["against"], f"{c['mismatches']:,} of {c['compared']:,}", "{:,} / {:,}".format(*c["rows"])]
        for c in result["checks"]
    ]
    late = result["checks"][0]
    leaks = [
        [
            row["join"], f"{row['changed']:.1%}", interval(row["offline"]), interval(row["served"]),
            *(interval(row[name], 4, sign=True) if row[name] else "" for name in ("gain", "loss")),
        ]
        for row in result["leaks"]
    ]  # fmt: skip
    hours = [[f"{r['hours']:g} h", f"{r['changed']:.1%}", interval(r["flattery"], 4, sign=True)] for r in result["late"]]
    return "\n\n".join(
        [
            table(["our join on", "against", "mismatches", "rows in / out"], checks),
            f"In {late['late_matters']:,} of the {late['compared']:,} generated requests a join on event time alone picks "
            "another row: the late ones are there and matter.",
            f"Joins that look ahead, boosted trees trained and tested with each ({result['n']:,} test impressions, "
            f"{result['clicks']:,} clicks):",
            table(
                ["join on", "requests whose rows change", "NE offline", "NE of that model as served", "offline against honest",
                 "served against honest"],
                leaks,
            ),
            "The event-time model when nightly rows really come later (NE as served minus NE as promised offline):",
            table(["nightly rows come after", "requests whose rows change", "NE served minus promised"], hours),
        ]
    )  # fmt: skip
