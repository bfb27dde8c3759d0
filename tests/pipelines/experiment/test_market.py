"""A/B tests in the market and in the log: the same luck in every world, the truth beside, and errors that say what to do."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from as_a_user import MainJob, clickproof

from features.ids import uniform
from features.schemas import TIME
from features.sources import AsOfSource
from infra import branch
from infra.clock import DAY_US
from infra.errors import ExplainedError
from infra.home import Home
from infra.lake import Lake, watermark_us
from monitoring.experiment.user_days import METRICS, UserDays
from pipelines.experiment.arms import artefact_of, challenger
from pipelines.experiment.logged import history
from pipelines.experiment.market import Market
from pipelines.experiment.pages import read_out
from pipelines.experiment.run import logged, simulated
from pipelines.plant.serving import features_of, predictions
from pipelines.sources.registry import source_of
from serving.assignment import Assignment
from serving.champion import champion
from serving.rollout import A_A, assignment

LOOKS = 2


@pytest.fixture(scope="module")
def market(main_job: MainJob) -> Market:
    """The tiny home's market for two evenings; each world is run once."""
    return Market(Home(main_job.home.root, writable=False), main_job.settings, LOOKS, shown=False)


@pytest.fixture(scope="module")
def tested(main_job: MainJob, market: Market) -> dict[str, Any]:
    """The champion against the ranker before it."""
    return simulated(main_job.home, main_job.settings, market, ("legacy", "champion"))


def same(one: UserDays, other: UserDays, rows: np.ndarray | slice = slice(None)) -> bool:
    return all(
        np.array_equal(getattr(one, name)[rows], getattr(other, name)[rows])
        for name in ("user", "requests", "impressions", "clicks")
    )


def test_a_split_that_gives_everybody_one_arm_is_that_arms_world(market: Market) -> None:
    all_b = Assignment("salt", ("a", "b"), (0.0, 1.0))
    split, whole = market.split(("legacy", "champion"), all_b), market.everybody("champion")
    assert same(split.did, whole.did)
    assert same(split.expected, whole.expected)


def test_users_meet_the_same_luck_in_every_world_until_an_arm_changes_it(market: Market) -> None:
    legacy, model = market.everybody("legacy"), market.everybody("champion")
    assert np.array_equal(legacy.did.requests[:, 0], model.did.requests[:, 0])  # nobody had seen anything that morning
    assert not np.array_equal(legacy.did.clicks, model.did.clicks)
    for run in (legacy, model):
        did, expected = run.did.clicks.sum(), run.expected.clicks.sum()
        assert abs(did - expected) < 4.5 * np.sqrt(expected)
        assert (run.expected.clicks <= run.expected.impressions).all()


def test_the_read_out_is_of_all_users_and_beside_it_stands_the_truth(tested: dict[str, Any], market: Market) -> None:
    assert json.loads(json.dumps(tested, allow_nan=False)) == tested
    assert len(tested["days"]) == LOOKS
    entered = sum(column[-1] for column in tested["ratio"]["users"])
    split = market.split(("legacy", "champion"), assignment(A_A)).did
    assert entered == split.entered()[:, -1].sum()
    worlds = [market.everybody(name).expected for name in ("legacy", "champion")]
    for name, found in tested["metrics"].items():
        for look in range(LOOKS):
            a, b = (x[:, look].sum() / y[:, look].sum() for x, y in (METRICS[name](world) for world in worlds))
            assert found["truth"][look] == pytest.approx(b / a - 1)
            for one in (found, found["unadjusted"]):
                assert one["lift"][look] == pytest.approx(one["b"][look] / one["a"][look] - 1)
    assert tested["false"]["metrics"]["ctr"]["sequential"][-1] <= 0.05
    assert tested["plan"]["metrics"]["ctr"]["daily"][LOOKS - 1] > tested["plan"]["metrics"]["ctr"]["once"][LOOKS - 1]
    text = read_out(tested)
    assert "true lift" in text
    assert "as planned" in text


def test_an_a_a_test_has_no_lift_to_find(main_job: MainJob, market: Market) -> None:
    found = simulated(main_job.home, main_job.settings, market, ("champion", "champion"))
    for metric in found["metrics"].values():
        assert metric["truth"] == [0.0] * LOOKS
        assert metric["called"] is None


def test_a_users_later_days_go_with_the_earlier_ones(tiny_home: Home, main_job: MainJob) -> None:
    """What the sequential intervals rest on: the residual up to a day goes with the residual after it."""
    days = history(tiny_home, main_job.settings, watermark_us(tiny_home) // DAY_US * DAY_US, 60)
    assert days is not None
    for totals in METRICS.values():
        x, y = totals(days)
        residual = x - x.sum(axis=0) / y.sum(axis=0) * y
        for early in range(0, days.looks - 1, 3):
            products = residual[:, early] * (residual[:, -1] - residual[:, early])
            assert products.sum() > -2 * np.sqrt((products**2).sum())


def test_arms_serve_what_they_are_named(tiny_home: Home) -> None:
    serving = champion(tiny_home)
    other = challenger(tiny_home)
    assert other != serving.family
    assert artefact_of(tiny_home, other).family == other
    assert artefact_of(tiny_home, serving.hash[:8]).hash == serving.hash == artefact_of(tiny_home, "champion").hash
    with pytest.raises(ExplainedError, match=f"champion, legacy, .*{serving.hash}"):
        artefact_of(tiny_home, "transformer")


def test_a_test_is_not_longer_than_the_world_is_planned(tiny_home: Home, main_job: MainJob) -> None:
    with pytest.raises(ExplainedError, match="--days 119"):
        Market(tiny_home, main_job.settings, 120)
    Market(tiny_home, main_job.settings, 119)
    with pytest.raises(ExplainedError, match="--log"):
        Market(tiny_home, main_job.settings.model_copy(update={"source": "open-bandit", "data": tiny_home.root}), 2)


Change = Callable[[pa.Table], pa.Table]
Serve = Callable[[Assignment, Change, int], Home]
AB = Assignment("test", ("a", "b"), (0.5, 0.5))


def as_it_is(rows: pa.Table) -> pa.Table:
    return rows


@pytest.fixture
def served(tiny_home: Home, main_job: MainJob) -> Iterator[Serve]:
    """Makes a branch whose last days were served: the champion's predictions for what was shown, as the lake has them."""
    made: list[Home] = []
    spec = source_of(main_job.settings).spec

    def make(assignment: Assignment, change: Change, last: int) -> Home:
        home = branch.create(tiny_home, f"served-{len(made)}")
        made.append(home)
        lake, model = Lake.of(home), champion(home)
        days = lake.days("impressions")[-last:]
        shown = lake.read("impressions", days=days)
        began = pa.scalar(int(np.datetime64(days[0], "us").astype(np.int64)), TIME)
        shown = shown.filter(pc.greater_equal(shown["event_timestamp"], began))
        batch = features_of(AsOfSource(home, spec.entities, spec.context, model.service), shown, spec.context)
        rows = change(predictions(shown, batch, model, assignment))
        lake.append("predictions", rows.append_column("day", pc.strftime(rows["event_timestamp"], "%Y-%m-%d")))
        return home

    yield make
    for home in made:
        branch.drop(home)


def test_a_logged_test_is_read_like_a_simulated_one_without_the_truth(served: Serve, main_job: MainJob) -> None:
    home = served(AB, as_it_is, 3)
    found = logged(home, main_job.settings, None, (None, None))
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    before = history(home, main_job.settings, watermark_us(home) // DAY_US * DAY_US, 2)  # the same days, from the events
    assert before is not None
    assert len(found["days"]) == before.looks == 2
    there = (before.impressions[:, :2] > 0).any(axis=1)  # the test's log holds what was shown, not what was asked
    arm = AB.arms_of(before.user)
    assert [users[-1] for users in found["ratio"]["users"]] == [int((there & (arm == a)).sum()) for a in (0, 1)]
    x, y = METRICS["ctr"](before)
    for a, name in enumerate("ab"):
        rate = x[arm == a].sum(axis=0) / y[arm == a].sum(axis=0)
        assert found["metrics"]["ctr"]["unadjusted"][name] == pytest.approx(
            rate.tolist(), rel=0.02
        )  # pages left before an ad was seen
        assert found["arms"][name] == {"name": name, "models": [champion(home).hash]}
    assert "truth" not in found["metrics"]["ctr"]
    assert "true lift" not in read_out(found)
    one = logged(home, main_job.settings, 1, ("b", None))
    assert one["days"] == found["days"][:1]
    assert (one["arms"]["a"]["name"], one["arms"]["b"]["name"]) == ("b", "a")
    assert one["metrics"]["ctr"]["a"] == pytest.approx(found["metrics"]["ctr"]["b"][:1])


def test_users_who_wander_and_nobody_are_left_out_and_a_lost_arm_is_called(served: Serve, main_job: MainJob) -> None:
    def change(rows: pa.Table) -> pa.Table:
        users = rows["user_id"].to_numpy()
        lost = (np.array(rows["arm"].to_pylist()) == "b") & (uniform(users, 5) < 0.6)
        nobody = pa.array(users % 50 == 1)
        wander = pc.if_else(pa.array(users % 50 == 2), pa.array(np.where(np.arange(len(users)) % 2, "a", "b")), rows["arm"])
        rows = rows.set_column(rows.schema.get_field_index("arm"), "arm", wander)
        unknown = pc.if_else(nobody, pa.scalar(None, pa.int64()), rows["user_id"])
        return rows.set_column(rows.schema.get_field_index("user_id"), "user_id", unknown).filter(pa.array(~lost))

    home = served(AB, change, 99)
    found = logged(home, main_job.settings, None, (None, None))
    assert found["moved"] > 0
    assert found["nobody"] > 0
    assert found["ratio"]["wrong_since"] == 1
    assert (found["plan"], found["metrics"]["ctr"]["unadjusted"]) == (None, None)  # the log begins where the events do
    text = read_out(found)
    assert "do not read this test" in text
    assert f"{found['moved']} users seen in several arms left out" in text


def test_a_log_that_is_no_test_says_what_it_lacks(served: Serve, tiny_home: Home, main_job: MainJob) -> None:
    chosen = main_job.settings
    with pytest.raises(ExplainedError, match="clickproof serve"):
        logged(tiny_home, chosen, None, (None, None))
    with pytest.raises(ExplainedError, match=r"two arms; .* has control"):
        logged(served(Assignment("test"), as_it_is, 3), chosen, None, (None, None))
    home = served(AB, as_it_is, 3)
    with pytest.raises(ExplainedError, match="no arm 'c'; it has a, b"):
        logged(home, chosen, None, ("c", None))
    with pytest.raises(ExplainedError, match="compared with itself"):
        logged(home, chosen, None, ("a", "a"))

    def last_day(rows: pa.Table) -> pa.Table:
        at = pc.cast(rows["event_timestamp"], pa.int64()).to_numpy()
        return rows.filter(pa.array(at >= at.max() // DAY_US * DAY_US))

    with pytest.raises(ExplainedError, match="1 whole days later, but a test needs two"):
        logged(served(AB, last_day, 3), chosen, None, (None, None))


def test_the_command_reads_a_test_out(main_job: MainJob) -> None:
    arguments = ("--size", "tiny", "--days", "1", "--json", "--arm-a", "legacy", "--arm-b", "champion")
    done = clickproof("experiment", *arguments, home=main_job.settings.home)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["arms"]["b"]["models"] == [champion(main_job.home).hash]
    assert len(found["metrics"]["ctr"]["truth"]) == 1
    refused = clickproof("experiment", "--size", "tiny", "--days", "0", home=main_job.settings.home, status=2)
    assert "one day or more" in refused.stderr
