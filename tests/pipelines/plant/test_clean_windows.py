"""Clean windows against what the lake and the world say, row by row."""

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from features.requests import from_impressions
from features.sources import AsOfSource
from infra import branch
from infra.clock import DAY_US, HOUR_US, day_name
from infra.errors import ExplainedError
from infra.lake import Lake
from monitoring.window import Window
from pipelines.ingest import ingest_all
from pipelines.plant import files
from pipelines.plant.plant import Plant
from pipelines.reconciliation import totals


@pytest.fixture(scope="module")
def day(plant: Plant) -> list[Window]:
    """The first day behind the reference."""
    return list(plant.clean(plant.first_us, plant.first_us + DAY_US))


def test_windows_tile_the_day_and_hold_what_was_shown_in_their_hour(plant: Plant, day: list[Window]) -> None:
    assert [(w.start_us, w.end_us) for w in day] == [
        (at, at + HOUR_US) for at in range(plant.first_us, plant.first_us + DAY_US, HOUR_US)
    ]
    shown = files.load(files.path(plant.home, "impressions", plant.first_us))
    when = dict(zip(shown["impression_id"].to_pylist(), shown["event_timestamp"].cast(pa.int64()).to_pylist(), strict=True))
    for window in day:
        ids, times = window.log["id"].to_pylist(), window.log["time"].to_pylist()
        assert set(ids) == {name for name, at in when.items() if window.start_us <= at < window.end_us}
        assert len(ids) == len(set(ids))
        assert times == [when[name] for name in ids]
        assert times == sorted(times)


def test_the_log_says_what_the_store_and_the_model_gave(plant: Plant, day: list[Window]) -> None:
    shown = plant.days.impressions(plant.first_us)
    spec = plant.world.spec
    asked = from_impressions(shown, spec.context)
    batch = AsOfSource(plant.home, spec.entities, spec.context, "ctr_full").fetch(asked)
    p = plant.artefact.probability(plant.artefact.score(batch.columns), shown["slot"].to_numpy()).astype(np.float32)
    log = pa.concat_tables([window.log for window in day])
    assert log["id"].to_pylist() == asked.row_id.tolist()
    np.testing.assert_array_equal(log["p"].to_numpy(), p.astype(np.float64))
    for name in plant.columns.names:
        np.testing.assert_array_equal(np.asarray(log[f"f_{name}"].to_pylist()), batch.columns[name])
    assert set(log["model"].to_pylist()) == {plant.artefact.hash}
    assert {name for name in log.column_names if name.startswith("age_")} >= {f"age_{name}" for name in plant.columns.max_age_s}


def test_clicks_are_those_that_arrived_in_the_hour_with_their_prediction(plant: Plant, day: list[Window]) -> None:
    """Brute force over the lake's clicks and every prediction made so far."""
    lake = Lake.of(plant.home)
    log: dict[int, float] = {}
    for at in range(plant.days.first_us, plant.first_us + DAY_US, DAY_US):
        rows = plant.days.predictions(at)
        log |= dict(zip(rows["impression_id"].to_pylist(), rows["p"].to_pylist(), strict=True))
    arrived = {
        row["impression_id"]: row["arrived_at"].value // 1000 if hasattr(row["arrived_at"], "value") else row["arrived_at"]
        for row in lake.read("impressions", ["impression_id", "arrived_at"]).to_pandas().to_dict("records")
    }
    expected: dict[int, Counter[tuple[int, int]]] = {}
    for row in lake.read("clicks", days=[day_name(plant.first_us)]).to_pandas().to_dict("records"):
        if row["impression_id"] in log:
            at = max(row["arrived_at"].value // 1000, arrived[row["impression_id"]])  # it waits for its impression
            hour = at - at % HOUR_US
            expected.setdefault(hour, Counter())[row["impression_id"], at] += 1
    for window in day:
        found = Counter(zip(window.clicks["id"].to_pylist(), window.clicks["arrived_at"].to_pylist(), strict=True))
        assert found == expected.get(window.start_us, Counter())
        for name, p in zip(window.clicks["id"].to_pylist(), window.clicks["p"].to_pylist(), strict=True):
            assert p == pytest.approx(log[name], rel=1e-6)
        assert (window.clicks["clicked_at"].to_numpy() <= window.clicks["arrived_at"].to_numpy()).all()
    older = sum(int((window.clicks["time"].to_numpy() < plant.first_us).sum()) for window in day)
    assert older > 0  # clicks of yesterday's predictions are there too


def test_books_add_up_by_the_hour_and_to_what_ingestion_counted(plant: Plant, day: list[Window]) -> None:
    whole: Counter[tuple[str, str]] = Counter()
    evening = next(plant.clean(plant.first_us - HOUR_US, plant.first_us)).books.to_pylist()
    waiting = next(row["rows"] for row in evening if (row["stream"], row["stage"]) == ("clicks", "pending"))
    for window in day:
        rows = {(row["stream"], row["stage"]): row["rows"] for row in window.books.to_pylist()}
        for stream in ("requests", "impressions", "clicks"):
            came = rows[stream, "landed"] + (waiting if stream == "clicks" else 0)
            went = sum(rows.get((stream, stage), 0) for stage in ("accepted", "duplicates", "quarantined", "pending"))
            assert came == went
        waiting = rows["clicks", "pending"]
        assert rows["predictions", "accepted"] == len(window.log)
        assert rows["clicks", "joined"] == len(window.clicks)
        whole.update(rows)
    counted = {c.day: c for c in ingest_all(plant.home, plant.world.spec, progress=False)}[day_name(plant.first_us)]
    for stream in ("requests", "impressions", "clicks"):
        assert whole[stream, "accepted"] == counted.streams[stream].accepted
        assert whole[stream, "landed"] == counted.streams[stream].delivered


def test_recomputations_of_clean_hours_agree_with_the_log(day: list[Window]) -> None:
    for window in day:
        assert len(window.offline) == min(300, len(window.log)) == len(window.rescored)
        log = window.log.to_pandas().set_index("id")
        again = window.offline.to_pandas().set_index("id")
        pd.testing.assert_frame_equal(log.loc[again.index, list(again.columns)], again)
        p = window.rescored.to_pandas().set_index("id")["p"]
        np.testing.assert_array_equal(log.loc[p.index, "p"].to_numpy(), p.to_numpy())


def test_a_day_old_sample_is_what_the_store_said_a_day_before(plant: Plant, day: list[Window]) -> None:
    spec = plant.world.spec
    late = AsOfSource(plant.home, spec.entities, spec.context, "ctr_full", lambda view, seen, event: (seen + DAY_US, event))
    window = day[20]
    shown = plant.days.impressions(plant.first_us)
    rows = shown.filter(pa.array(np.isin(shown["impression_id"].to_numpy(), window.day_old["id"].to_numpy())))
    old = late.fetch(from_impressions(rows, spec.context)).columns
    assert 0 < len(window.day_old) <= 100
    for name in plant.columns.names:
        np.testing.assert_array_equal(np.asarray(window.day_old[f"f_{name}"].to_pylist()), old[name])
    log = window.log.to_pandas().set_index("id").loc[window.day_old["id"].to_pylist()]
    moved = np.mean(log["f_user_impressions_7d"].to_numpy() != window.day_old["f_user_impressions_7d"].to_numpy())
    assert moved > 0.3  # yesterday's counters are not today's


def test_a_second_look_reads_the_same_windows_from_disk(plant: Plant, day: list[Window]) -> None:
    before = branch.fingerprint(plant.home)
    again = Plant(plant.home, plant.world, plant.artefact, plant.others, plant.reference)
    for one, other in zip(day, again.clean(plant.first_us, plant.first_us + DAY_US), strict=True):
        for name in ("log", "clicks", "offline", "rescored", "day_old", "books"):
            assert getattr(one, name).equals(getattr(other, name)) or _equal(getattr(one, name), getattr(other, name))
    assert branch.fingerprint(plant.home) == before


def _equal(one: pa.Table, other: pa.Table) -> bool:
    """Equality with NaN equal to itself."""
    pd.testing.assert_frame_equal(one.to_pandas(), other.to_pandas())
    return True


def test_a_plant_is_found_again_in_its_folder(plant: Plant, tmp_path: Path) -> None:
    again = Plant.open(plant.home.root)
    assert again.artefact.hash == plant.artefact.hash
    assert again.reference[0] == plant.reference[0]
    assert again.end_us == plant.end_us
    with pytest.raises(ExplainedError, match="holds no plant"):
        Plant.open(tmp_path)


def test_clicks_between_counts_what_joins(plant: Plant) -> None:
    assert plant.clicks_between(plant.first_us, plant.first_us + DAY_US) == sum(
        len(window.clicks) for window in plant.clean(plant.first_us, plant.first_us + DAY_US)
    )


def test_ingestion_accounts_for_every_row_of_the_plant(plant: Plant) -> None:
    assert all(found.quarantined == 0 for found in totals(ingest_all(plant.home, plant.world.spec, progress=False)).values())
