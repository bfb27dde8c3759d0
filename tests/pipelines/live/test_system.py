"""The system as it runs: its windows replay, and a bug at each stage shows where it should and nowhere else."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from features.batch import RequestBatch
from features.ids import uniform
from features.online import OnlineSource
from features.schemas import TIME
from features.sources import AsOfSource
from infra import branch
from infra.clock import DAY_US, HOUR_US, day_name
from infra.home import Home
from infra.lake import Lake
from infra.settings import Settings
from monitoring.bugs.entry import Bug, Inject, Stage
from monitoring.window import Window
from pipelines.live.ask import InProcess
from pipelines.live.injection import Injection
from pipelines.live.system import System
from pipelines.sources.world.source import WorldSource
from pipelines.windows import positions

Go = Callable[..., list[Window]]


def bug(stage: Stage, table: str, inject: Inject) -> Bug:
    return Bug("TEST01", "test", "null-spike", stage, (table,), "x", "story", "look", {"strong": 0.5}, "share", inject)


@pytest.fixture
def system(work: Home, source: WorldSource):
    made = System(work, source, "ctr_full")
    yield made
    made.close()


@pytest.fixture
def go(system: System, work: Home, chosen: Settings):
    """Go on for some hours; the windows of them."""
    ask = InProcess(work, chosen)

    def run(n: int) -> list[Window]:
        return hours(system, ask, system.now_us + n * HOUR_US)

    run(1)  # a trained home's store holds the night's rows already, half an hour early
    yield run
    ask.close()


def hours(system: System, ask: InProcess, end_us: int) -> list[Window]:
    """Go on until then."""
    windows = []
    while system.now_us < end_us:
        windows += system.step(ask)
    return windows


def whole(windows: list[Window], name: str) -> pa.Table:
    return pa.concat_tables([getattr(window, name) for window in windows], promote_options="default")


def books(windows: list[Window]) -> dict[tuple[str, str], int]:
    found: dict[tuple[str, str], int] = {}
    for row in whole(windows, "books").to_pylist():
        key = row["stream"], row["stage"]
        found[key] = row["rows"] if key[1] == "pending" else found.get(key, 0) + row["rows"]
    return found


def mismatches(windows: list[Window], table: str = "offline") -> dict[str, int]:
    """How many logged values differ from their recomputation, by feature."""
    log, again = whole(windows, "log"), whole(windows, table)
    rows = log.take(pa.array(positions(log["id"].to_numpy(), again["id"].to_numpy())))
    found = {}
    for name in again.column_names:
        if name.startswith("f_"):
            logged, made = rows[name].to_numpy(), again[name].to_numpy()
            if logged.dtype.kind == "f":
                differs = ~np.isclose(logged, made, rtol=1e-6, atol=1e-6, equal_nan=True)
            else:
                differs = logged != made
            if differs.any():
                found[name[2:]] = int(differs.sum())
    return found


@dataclass
class Day:
    """A day of a system, and its first hour after midnight, made twice."""

    home: Home
    now_us: int
    windows: list[Window]
    again: Window


@pytest.fixture(scope="module")
def day(served: Home, source: WorldSource, chosen: Settings) -> Iterator[Day]:
    """23 hours, and one more by the system and by another one that takes up a branch of it at midnight."""
    home = branch.create(served, "day")
    system, ask = System(home, source, "ctr_full"), InProcess(home, chosen)
    midnight = system.now_us + DAY_US
    first, *windows = hours(system, ask, midnight)
    assert first.end_us == midnight - 23 * HOUR_US  # a trained home's store holds the night's rows already, half an hour early
    other = branch.create(home, "again")
    another, asking = System(other, source, "ctr_full"), InProcess(other, chosen)
    windows += hours(system, ask, midnight + HOUR_US)
    (again,) = hours(another, asking, midnight + HOUR_US)
    yield Day(home, system.now_us, windows, again)
    for part in (ask, asking, system, another):
        part.close()
    branch.drop(home)


def test_what_it_logs_is_what_can_be_recomputed(day: Day):
    windows = day.windows  # over a midnight: daily features change, a day is ingested and materialised
    assert [w.end_us - w.start_us for w in windows] == [HOUR_US] * 24
    assert whole(windows, "offline").num_rows > 200
    assert mismatches(windows) == {}
    assert mismatches(windows, "day_old") != {}
    log, again = whole(windows, "log"), whole(windows, "rescored")
    p = log["p"].to_numpy()[positions(log["id"].to_numpy(), again["id"].to_numpy())]
    np.testing.assert_allclose(p, again["p"].to_numpy(), rtol=0, atol=1e-6)
    assert set(whole(windows, "clicks")["id"].to_pylist()) <= set(log["id"].to_pylist())
    assert Lake.of(day.home).days("ingests")[-1] == day_name(day.now_us - DAY_US)


def test_the_same_steps_come_to_the_same(day: Day):
    """A system that takes up a branch at midnight goes on as the one that made it."""
    for name in ("id", "p", "user", "f_user_impressions_1h"):
        assert day.windows[-1].log[name].equals(day.again.log[name])
    assert books(day.windows[-1:])["impressions", "accepted"] == books([day.again])["impressions", "accepted"]


def test_the_books_are_in_balance(day: Day):
    found = books(day.windows)
    for stream in ("requests", "impressions"):
        assert found[stream, "landed"] == found[stream, "accepted"] > 0
    assert found["clicks", "landed"] == found["clicks", "accepted"] + found["clicks", "pending"]
    assert found["predictions", "accepted"] > 0


def test_online_and_history_agree_on_the_branch(day: Day, source: WorldSource):
    """What the store serves at the end is what the files say could be seen then."""
    rows, spec = day.windows[-1].log.slice(0, 50), source.spec
    n = rows.num_rows
    asked = RequestBatch(
        np.arange(n),
        np.full(n, day.now_us - 1),
        rows["user"].to_numpy(),
        rows["item"].to_numpy(),
        {name: np.asarray(rows[f"f_{name}"].to_pylist()) for name in spec.context},
    )
    online = OnlineSource(day.home, spec.entities, spec.context).fetch(asked).columns
    history = AsOfSource(day.home, spec.entities, spec.context).fetch(asked).columns
    for name, values in history.items():
        np.testing.assert_array_equal(online[name], values, err_msg=name)


def halve(column: str) -> Inject:
    """A bug that sets a column to zero in a hashed half of the rows."""

    def inject(rows: pa.Table, dose: float, scene) -> pa.Table:
        key = next(name for name in ("request_id", "user_id", "ad_id", "placement") if name in rows.column_names)
        luck = (
            uniform(np.arange(rows.num_rows), scene.seed) if key == "placement" else uniform(rows[key].to_numpy(), scene.seed)
        )
        place = rows.schema.get_field_index(column)
        values = pc.if_else(pa.array(luck < dose), pa.scalar(0, rows.schema.field(place).type), rows[column])
        return rows.set_column(place, rows.schema.field(place), values)

    return inject


def test_a_bug_in_the_store_is_not_in_the_files(go: Go, system: System):
    go(2)
    system.begin(Injection(bug("store", "ad_daily", halve("ad_ctr")), "strong", 1, system.now_us), system.now_us)
    found = mismatches(go(2))
    assert found.keys() == {"ad_ctr"}
    system.begin(None, system.now_us)
    assert mismatches(go(2)) == {}


def test_a_bug_in_the_feature_job_is_in_both(go: Go, system: System):
    before = whole(go(2), "log")
    share = np.mean(before["f_ad_ctr"].to_numpy() == 0)
    system.begin(Injection(bug("feature", "ad_daily", halve("ad_ctr")), "strong", 1, system.now_us), system.now_us)
    windows = go(2)
    assert np.mean(whole(windows, "log")["f_ad_ctr"].to_numpy() == 0) > share + 0.2
    assert mismatches(windows) == {}
    system.begin(None, system.now_us)
    windows = go(2)
    assert np.mean(whole(windows, "log")["f_ad_ctr"].to_numpy() == 0) == pytest.approx(share, abs=0.02)
    assert mismatches(windows) == {}


def test_a_store_that_swallows_rows_keeps_what_it_had(go: Go, system: System, work: Home, source: WorldSource):
    go(3)
    swallow = bug("store", "user_recent", lambda rows, dose, scene: rows.slice(0, 0))
    system.begin(Injection(swallow, "strong", 1, system.now_us), system.now_us)
    windows = go(3)
    ages = whole(windows, "log")["age_user_recent"].to_numpy()
    assert ages[-1] > 2 * 3600
    assert "user_impressions_1h" in mismatches(windows)
    system.begin(None, system.now_us)
    windows = go(2)
    assert mismatches(windows) == {}
    assert whole(windows, "log")["age_user_recent"].to_numpy()[-40:].max() < 600


def test_clicks_lost_in_the_join_are_in_the_books(go: Go, system: System):
    lose = bug(
        "labels", "clicks", lambda rows, dose, scene: rows.filter(pa.array(uniform(rows["click_id"].to_numpy(), 1) < dose))
    )
    system.begin(Injection(lose, "strong", 1, system.now_us), system.now_us)
    found = books(go(12))
    assert 0 < found["clicks", "joined"] < 0.8 * found["clicks", "accepted"]


def test_events_that_come_twice_are_counted_and_dropped(go: Go, system: System):
    twice = bug("events", "impressions", lambda rows, dose, scene: pa.concat_tables([rows, rows]))
    system.begin(Injection(twice, "strong", 1, system.now_us), system.now_us)
    found = books(go(3))
    assert found["impressions", "duplicates"] == found["impressions", "accepted"] > 0


def test_events_that_are_held_back_arrive_later(go: Go, system: System):
    def late(rows: pa.Table, dose: float, scene) -> pa.Table:
        place = rows.schema.get_field_index("arrived_at")
        later = pa.array(pc.cast(rows["arrived_at"], pa.int64()).to_numpy() + 2 * HOUR_US).cast(TIME)
        return rows.set_column(place, rows.schema.field(place), later)

    system.begin(Injection(bug("events", "impressions", late), "strong", 1, system.now_us), system.now_us)
    assert books(go(2)).get(("impressions", "landed"), 0) == 0
    assert books(go(2))["impressions", "landed"] > 0


def test_the_log_can_be_damaged_behind_the_endpoint(go: Go, system: System):
    lose = bug("log", "predictions", lambda rows, dose, scene: rows.slice(0, rows.num_rows // 2))
    clean = whole(go(2), "log").num_rows
    system.begin(Injection(lose, "strong", 1, system.now_us), system.now_us)
    assert whole(go(2), "log").num_rows < 0.75 * clean


def test_other_requests_meet_other_answers(go: Go, system: System):
    def all_from_a_phone(rows: pa.Table, dose: float, scene) -> pa.Table:
        place = rows.schema.get_field_index("device")
        return rows.set_column(place, rows.schema.field(place), pa.array(["mobile"] * rows.num_rows))

    system.begin(Injection(bug("traffic", "requests", all_from_a_phone), "strong", 1, system.now_us), system.now_us)
    windows = go(2)
    assert set(whole(windows, "log")["f_device"].to_pylist()) == {"mobile"}
    assert mismatches(windows) == {}  # events and log agree: the world itself changed


def test_ads_that_nobody_knew_are_known_when_they_are_shown(go: Go, system: System):
    def a_wave(rows: pa.Table, dose: float, scene) -> pa.Table:
        new = scene.tables["new_ads"]["ad_id"].to_numpy()[:5]
        ads = rows["ad_id"].to_numpy().copy()
        ads[np.arange(len(ads)) % 20 < 5] = new[np.arange(len(ads))[np.arange(len(ads)) % 20 < 5] % 20]
        return rows.set_column(1, "ad_id", pa.array(ads))

    before = np.flatnonzero(system.world.inventory.created_us < system.now_us) + 1
    system.begin(Injection(bug("traffic", "candidates", a_wave), "strong", 1, system.now_us), system.now_us)
    windows = go(4)
    log = whole(windows, "log")
    new = ~np.isin(log["item"].to_numpy(), before)
    assert new.any()
    assert (log["f_campaign_id"].to_numpy()[new] >= 0).all()
    assert mismatches(windows) == {}


def test_what_people_click_can_change(go: Go, system: System):
    nobody = bug(
        "market",
        "clicks",
        lambda rows, dose, scene: rows.slice(0, 0) if "p_true" in scene.tables["impressions"].column_names else rows,
    )
    system.begin(Injection(nobody, "strong", 1, system.now_us), system.now_us)
    log = whole(go(3), "log")
    after = whole(go(2), "clicks")
    assert not np.isin(after["id"].to_numpy(), log["id"].to_numpy()).any()
    assert log.num_rows > 0
