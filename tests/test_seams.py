"""The seams of docs/design.md: what later milestones build on works today.  One section a seam; more of each is tested here:

- closed-loop retraining: tests/features/test_labels.py, tests/models/test_gates.py
- online learning: tests/models/test_families.py, tests/models/test_encode.py
- A/B, lift, retention: tests/serving/test_assignment.py, tests/pipelines/test_world_runs.py and test_world_parts.py
- position bias, exploration: tests/serving/test_policy.py, tests/serving/test_scorer.py
- Ray or Spark: tests/serving/test_batch.py (buckets of users put together are the day)
- Redis, Postgres, S3: tests/features/test_online.py, tests/infra/test_lake.py
"""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import small_market
from small_market import SOURCE, SPEC

from features import aggregate, recent
from features.batch import FeatureBatch, RequestBatch
from features.catalogue import view
from features.day_events import Ads, DayEvents, day_events
from features.ids import uniform
from features.labels import labels
from features.online_store import open_store, push
from features.online_values import key_bytes
from features.packed import layout
from features.partition import Part, bucket_of, parts
from features.requests import from_impressions
from features.schemas import CLICKS
from features.sources import AsOfSource
from infra.clock import DAY_US, HOUR_US, MINUTE_US, FixedClock, day_name
from infra.errors import ExplainedError
from infra.home import Home
from infra.lake import Lake, watermark_us
from infra.settings import Settings, use
from models.artefact import Artefact
from models.contract import Dataset
from models.gates import decide, kind_of
from models.retrain import DayResult, History, RetrainPolicy, should_retrain
from pipelines import training
from pipelines.prediction_ingest import ingest_predictions
from pipelines.sources.contract import Requests, Slates
from pipelines.sources.history import simulate
from pipelines.sources.world.legacy import LegacyRanker
from serving.assignment import Assignment
from serving.batch import SCHEMA, score_part
from serving.policy import EpsilonPolicy
from serving.prediction_log import PredictionLog
from serving.scorer import RankRequest, Scorer

WINDOW_US = 24 * HOUR_US


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Six days of a small market, with features.  Not to be written."""
    return Home(small_market.fill(Home(tmp_path_factory.mktemp("market"))).root, writable=False)


@pytest.fixture(scope="module")
def parts_of_market(market: Home) -> training.Parts:
    return training.assemble(market, SPEC, Settings())


@pytest.fixture(scope="module")
def artefact(parts_of_market: training.Parts) -> Artefact:
    return training.fit("logistic", parts_of_market, SPEC, seed=1).artefact


# Closed-loop retraining


def test_labels_change_as_clicks_arrive_and_only_then(market: Home) -> None:
    lake, day = Lake.of(market), SPEC.first_day_us + 2 * DAY_US
    shown, clicks = lake.read("impressions", days=[day_name(day)]), lake.read("clicks")
    arrived_us = clicks["arrived_at"].cast(pa.int64()).to_numpy()
    found = {}
    for hours in (12, 24, 30, 48):
        as_of = day + hours * HOUR_US
        known = labels(shown, clicks, as_of, WINDOW_US)
        early = labels(shown, clicks.filter(pa.array(arrived_us <= as_of)), as_of, WINDOW_US)
        assert known.equals(early), "what arrives later must not be known earlier"
        found[hours] = (int(pc.sum(known["click"]).as_py()), known["mature"].to_pylist().count(True))
    assert found[12] < found[24] < found[30] < found[48]
    assert found[48][1] == shown.num_rows


def test_a_refresh_passes_when_it_is_no_worse_and_a_change_only_when_it_is_better() -> None:
    near = {"value": 1.0, "low": 0.99, "high": 1.01}
    evaluation = dict.fromkeys(("ne", "log_loss", "auc", "calibration"), near)
    evaluation["slices"] = {"device": {"mobile": {"clicks": 500, "calibration": near, "ne": near}}}
    same = {"ne_difference": {"value": 0.0, "low": -0.0009, "high": 0.0009}}
    refresh, change = kind_of("configuration", "configuration"), kind_of("new", "configuration")
    assert decide(evaluation, same, {"passed": True, "reasons": []}, refresh).passed
    assert not decide(evaluation, same, {"passed": True, "reasons": []}, change).passed


def test_whether_to_retrain_is_a_pure_question_with_a_reason() -> None:
    well = tuple(DayResult(f"2026-01-0{i}", 0.9, 1.0, 500) for i in (1, 2, 3))
    worse = tuple(DayResult(day.day, 0.95, 1.0, 500) for day in well)
    reasons = [
        should_retrain(history, RetrainPolicy())
        for history in (
            History(10 * DAY_US, None, None),
            History(10 * DAY_US, 2 * DAY_US, 0.9, well),
            History(10 * DAY_US, 9 * DAY_US, 0.9, worse),
            History(10 * DAY_US, 9 * DAY_US, 0.9, well, ("ad_price",)),
            History(10 * DAY_US, 9 * DAY_US, 0.9, well),
        )
    ]
    assert [reason and reason.split(":")[0] for reason in reasons] == ["no champion", "age", "performance", "drift", None]


# Online learning


def test_an_update_is_a_new_version_that_learned_new_ids(parts_of_market: training.Parts, artefact: Artefact) -> None:
    rows = parts_of_market.test.take(np.arange(200))
    columns = {**rows.columns, "ad_id": np.full(200, 777_777), "user_id": np.full(200, 888_888)}
    before = artefact.score(columns)
    for label, sign in ((1, 1), (0, -1)):
        batch = Dataset(
            columns, np.full(200, label, np.uint8), rows.slot, rows.time_us, rows.group, rows.row_id, rows.randomised
        )  # fmt: skip
        updated = artefact.updated(batch)
        assert len({updated.hash, artefact.hash, artefact.updated(batch).hash}) == 2, "a version is its content"
        assert sign * (updated.score(columns) - before).mean() > 0
        old, new = artefact.encoder.vocabularies["ad_id"], updated.encoder.vocabularies["ad_id"]
        assert (new.size, int(new.encode(np.array([777_777]))[0])) == (old.size + 1, old.size)
        assert (new.encode(old.values) == old.codes).all()
    assert (artefact.score(columns) == before).all()


# A/B tests, lift, retention


class Known:
    """Features of nobody: scores come from the ad id alone."""

    hash, encoder_hash = "m", "e"

    def fetch(self, requests: RequestBatch) -> FeatureBatch:
        return FeatureBatch({"value": (requests.ad_id % 7).astype(np.float32)}, {})

    def score(self, columns: dict) -> np.ndarray:
        return columns["value"] - 3

    def probability(self, s: np.ndarray, slot: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-(s - 0.5 * slot)))


@pytest.fixture
def scorer(tmp_path: Path) -> Iterator[Scorer]:
    log = PredictionLog(Home(tmp_path))
    arms = Assignment("experiment", ("a", "b"), (0.5, 0.5))
    yield Scorer(Known(), Known(), EpsilonPolicy(0.2), arms, log, FixedClock(SPEC.first_day_us))
    log.close()


def asked(user: int, request: int, slots: int = 4) -> RankRequest:
    return RankRequest(user, np.arange(100, 120), slots, {}, request_id=request)


def test_every_request_is_assigned_by_user_and_logged_also_when_nothing_is_shown(scorer: Scorer, tmp_path: Path) -> None:
    for number in range(200):
        scorer.rank(asked(number % 50, number, slots=number % 2 * 4))
    ingest_predictions(Home(tmp_path))
    rows = Lake.of(Home(tmp_path)).read("predictions", ["request_id", "user_id", "arm", "slot"])
    seen = rows.group_by("request_id").aggregate([("slot", "max"), ("arm", "count_distinct")])
    assert seen.num_rows == 200
    assert seen["slot_max"].to_pylist().count(-1) == 100  # nothing was shown for half of them
    by_user = rows.group_by("user_id").aggregate([("arm", "count_distinct")])
    assert by_user["arm_count_distinct"].to_pylist() == [1] * 50
    assert set(rows["arm"].to_pylist()) == {"a", "b"}


def test_visits_and_returns_are_request_events_in_the_lake(market: Home) -> None:
    requests = Lake.of(market).read("requests")
    shown = Lake.of(market).read("impressions", ["request_id"])["request_id"].unique()
    nothing = requests.filter(pc.equal(requests["n_shown"], 0))
    assert nothing.num_rows > 0
    assert not pc.any(pc.is_in(nothing["request_id"], shown)).as_py()
    days = requests.group_by("user_id").aggregate([("day", "count_distinct")])["day_count_distinct"].to_numpy()
    assert (days >= 2).mean() > 0.2  # who came back on another day


def test_two_policies_meet_the_same_luck() -> None:
    outcomes: list[dict[tuple[int, int, int], bool]] = []
    for epsilon in (0.0, 1.0):
        world = SOURCE.environment()
        ranker = LegacyRanker.of(world, epsilon)
        found: dict[tuple[int, int, int], bool] = {}

        def policy(requests: Requests, ranker: LegacyRanker = ranker) -> Slates:
            return ranker(requests)

        for answer in simulate(world, policy, SPEC.first_day_us + DAY_US):
            clicked = set(answer.clicks["impression_id"].to_pylist())
            keys = zip(*(answer.impressions[name].to_pylist() for name in ("request_id", "ad_id", "slot")), strict=True)
            found |= {key: i in clicked for key, i in zip(keys, answer.impressions["impression_id"].to_pylist(), strict=True)}
        outcomes.append(found)
    same = outcomes[0].keys() & outcomes[1].keys()
    assert 20 < len(same) < len(outcomes[0])
    differing = sum(outcomes[0][key] != outcomes[1][key] for key in same)
    assert differing <= 0.02 * len(same)  # what the user saw before may differ, and with it p, a little


# Position bias and exploration


def test_the_log_says_how_likely_each_decision_was_and_what_was_not_shown(scorer: Scorer, tmp_path: Path) -> None:
    answers = {number: scorer.rank(asked(1, number)) for number in range(300)}
    ingest_predictions(Home(tmp_path))
    rows = Lake.of(Home(tmp_path)).read("predictions")
    assert rows.num_rows == 300 * 20  # candidates that weren't shown are there with their scores
    shown = rows.filter(pc.greater_equal(rows["slot"], 0))
    s, p, slot = (shown[name].to_numpy() for name in ("s", "p", "slot"))
    np.testing.assert_allclose(p, 1 / (1 + np.exp(-(s - 0.5 * slot))), rtol=1e-6)  # p is of the slot, s of none
    assert np.unique(shown["propensity"].to_numpy()) == pytest.approx([0.2 / 20, 0.8 + 0.2 / 20])
    hidden = rows.filter(pc.equal(rows["slot"], -1))
    assert hidden["p"].null_count == hidden["propensity"].null_count == hidden.num_rows
    assert not hidden["s"].null_count
    flags = dict(zip(rows["request_id"].to_pylist(), rows["randomised"].to_pylist(), strict=True))
    assert flags == {number: answer.slate.randomised for number, answer in answers.items()}
    assert 0.1 < np.mean(list(flags.values())) < 0.3


# Ray or Spark: five functions on (day, bucket of users), whose union is the whole

BUCKETS = 3


@pytest.fixture(scope="module")
def day() -> str:
    return day_name(SPEC.first_day_us + 3 * DAY_US)


def test_every_user_is_in_one_bucket_and_buckets_are_even() -> None:
    users = np.arange(30_000)
    held = np.stack([part.holds(users) for part in parts(["2026-01-05"], BUCKETS)])
    assert (held.sum(axis=0) == 1).all()
    assert (np.abs(held.mean(axis=1) - 1 / BUCKETS) < 0.01).all()
    assert (bucket_of(users, BUCKETS) == np.argmax(held, axis=0)).all()
    with pytest.raises(ValueError, match="count from 0"):
        Part("2026-01-05", 3, 3)


def test_labels_of_parts_are_the_labels(market: Home, day: str) -> None:
    lake = Lake.of(market)
    clicks, as_of = lake.read("clicks"), watermark_us(market)
    whole = labels(Part(day).read(lake, "impressions"), clicks, as_of, WINDOW_US)
    found = [labels(part.read(lake, "impressions"), clicks, as_of, WINDOW_US) for part in parts([day], BUCKETS)]
    assert all(0 < part.num_rows < whole.num_rows for part in found)
    assert pa.concat_tables(found).sort_by("impression_id").equals(whole.sort_by("impression_id"))


def events_of(lake: Lake, part: Part) -> DayEvents:
    before = Part(day_name(int(np.datetime64(part.day, "us").astype(int)) - DAY_US), part.bucket, part.buckets)
    today = part.read(lake, "impressions")
    window = pa.concat_tables([before.read(lake, "impressions"), today])
    return day_events(today, lake.read("clicks", days=[part.day]), window, Ads.of(lake.read("ads")))


def test_aggregates_of_parts_are_the_aggregates(market: Home, day: str) -> None:
    lake, end_us = Lake.of(market), SPEC.first_day_us + 4 * DAY_US
    whole = aggregate.update(aggregate.empty_state(), events_of(lake, Part(day)), end_us)
    found = [aggregate.update(aggregate.empty_state(), events_of(lake, part), end_us) for part in parts([day], BUCKETS)]
    # A user's counters lie in one part, so they are the same to the last bit.
    keys = np.concatenate([state["user"].keys for state in found])
    order = np.argsort(keys)
    np.testing.assert_array_equal(keys[order], whole["user"].keys)
    for name, sums in whole["user"].sums.items():
        np.testing.assert_array_equal(np.concatenate([state["user"].sums[name] for state in found])[order], sums, name)
    # Those of ads, campaigns, placements, slots and categories add up.
    for group in ("ad", "campaign", "placement", "slot", "category", "all"):
        for name in ("impressions", "clicks"):
            total = np.zeros(len(whole[group].keys))
            for state in found:
                total[np.searchsorted(whole[group].keys, state[group].keys)] += state[group].sums[name]
            np.testing.assert_allclose(total, whole[group].sums[name], rtol=1e-5, err_msg=f"{group} {name}")
    rows, _ = recent.update(recent.empty_state(), events_of(lake, Part(day)))
    pieces = [recent.update(recent.empty_state(), events_of(lake, part))[0] for part in parts([day], BUCKETS)]
    order = np.lexsort([np.concatenate([piece[name] for piece in pieces]) for name in ("user_recent_until", "user_id")])
    for name, values in rows.items():
        np.testing.assert_array_equal(np.concatenate([piece[name] for piece in pieces])[order], values, name)


def test_as_of_joins_of_parts_are_the_join(market: Home, day: str) -> None:
    lake, source = Lake.of(market), AsOfSource(market, SPEC.entities, SPEC.context)
    requests = [from_impressions(part.read(lake, "impressions"), SPEC.context) for part in parts([day], BUCKETS)]
    whole_requests = from_impressions(Part(day).read(lake, "impressions"), SPEC.context)
    whole, found = source.fetch(whole_requests), [source.fetch(part) for part in requests]
    place, order = (np.argsort(ids) for ids in (whole_requests.row_id, np.concatenate([r.row_id for r in requests])))
    for name, values in whole.columns.items():
        together = np.concatenate([part.columns[name] for part in found])[order]
        assert together.tobytes() == values[place].astype(together.dtype).tobytes(), name
    for name, state in whole.views.items():
        together = np.concatenate([part.views[name].snapshot for part in found])[order]
        np.testing.assert_array_equal(together, state.snapshot[place])


def test_samples_of_parts_are_the_sample(market: Home, day: str) -> None:
    def sampled(part: Part) -> set[int]:
        rows = part.read(Lake.of(market), "impressions", ["request_id", "user_id"])
        ids = rows["request_id"].to_numpy()
        return set(ids[uniform(ids, 1) < 0.3].tolist())

    found = [sampled(part) for part in parts([day], BUCKETS)]
    assert set().union(*found) == sampled(Part(day))
    assert sum(map(len, found)) == len(set().union(*found)), "a request is in one part"


def test_scores_of_parts_are_the_scores(market: Home, day: str, artefact: Artefact) -> None:
    whole = pa.Table.from_batches(score_part(market, Part(day), artefact), SCHEMA).sort_by("impression_id")
    found = [pa.Table.from_batches(score_part(market, part, artefact), SCHEMA) for part in parts([day], BUCKETS)]
    together = pa.concat_tables(found).sort_by("impression_id")
    np.testing.assert_allclose(together["p"].to_numpy(), whole["p"].to_numpy(), rtol=0, atol=1e-6)
    assert together.drop_columns(["s", "p"]).equals(whole.drop_columns(["s", "p"]))


# Redis, Postgres, S3


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_every_online_store_refuses_an_older_event(tmp_path: Path, kind: str, request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue("redis_server") if kind == "redis" else ""
    store, recently = open_store(Home(tmp_path), url), view("user_recent")
    for minute, value, written in ((10, 1.0, 1), (5, 2.0, 0), (10, 3.0, 1), (15, 4.0, 1)):
        at = SPEC.first_day_us + minute * MINUTE_US
        state = {name: np.zeros((1, *values.shape[1:]), values.dtype) for name, values in recent.empty_state().items()}
        state["user_id"][:] = 7
        state["user_recent_until"][:] = at
        state["user_impressions_1h"][:] = value
        assert push(store, "user_recent", recent.rows_table(state)) == (written, 1 - written)
    held = layout(recently).unpack(store.rows((recently,), key_bytes(recently, [7]))["user_recent"])
    assert held.numbers[0, layout(recently).at["user_impressions_1h"]].tolist() == [4.0]
    store.close()


def test_two_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    noon = SPEC.first_day_us

    def rows(first: int, count: int) -> pa.Table:
        ids, times = pa.array(range(first, first + count)), pa.array([noon] * count).cast(CLICKS.field("arrived_at").type)
        table = pa.Table.from_arrays([ids, ids, times, times], schema=CLICKS)
        return table.append_column(pa.field("day", pa.string(), nullable=False), pa.repeat(day_name(noon), count))

    Lake(tmp_path).append("clicks", rows(0, 1))
    failures: list[BaseException] = []

    def write(who: int) -> None:
        try:
            for number in range(8):
                Lake(tmp_path).append("clicks", rows(1000 * who + number * 10, 10), (f"writer-{who}", number))
        except BaseException as error:  # noqa: BLE001 - a thread's failure must reach the test
            failures.append(error)

    writers = [threading.Thread(target=write, args=(who,)) for who in (1, 2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert not failures
    found = Lake(tmp_path).read("clicks", ["click_id"])["click_id"].to_pylist()
    assert sorted(found) == [0, *range(1000, 1080), *range(2000, 2080)]


def test_a_lake_under_a_url_goes_through_ingest_and_features(
    market: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infra.settings._in_use", [])
    chosen = Settings(home=tmp_path / "state", lake_url=f"file://{tmp_path}/store")
    use(chosen)
    home = small_market.fill(chosen.base())
    assert not home.lake.exists()
    assert (tmp_path / "store" / home.root.name / "impressions/_delta_log").is_dir()
    local, remote = Lake.of(market), Lake.of(home)
    assert remote.tables() == local.tables()
    assert all(remote.read(name).equals(local.read(name)) for name in remote.tables())
    made, same = (sorted(path.relative_to(h.features) for path in h.features.rglob("*.parquet")) for h in (home, market))
    assert made == same
    assert all((home.features / path).read_bytes() == (market.features / path).read_bytes() for path in made)


def test_places_of_state_are_settings_that_take_urls() -> None:
    assert {"lake_url", "online_url", "mlflow_url", "prefect_url"} <= set(Settings.model_fields)
    with pytest.raises(ExplainedError, match="unknown online store"):
        open_store(Home(Path("nowhere")), "postgres://nowhere")
