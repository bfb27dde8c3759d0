"""Engines give what the model gives, and the one that takes less time is chosen; int8 only behind its gate."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from time import process_time_ns

import numpy as np
import pytest
import torch
import xgboost
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import SPEC, clicks

from models.artefact import Artefact, load
from models.boosted_trees import BoostedTrees
from models.contract import F32, Array, Dataset
from models.dcnv2 import SETTINGS, Eager, Network
from models.engines import int8
from models.engines.choice import SIZES, WORTH, Choice, agree, choose, use_fastest
from models.engines.compiled_trees import DEEPEST, ROWS, CompiledTrees
from models.engines.engine import Engine, HasEngines, Inputs
from models.engines.network import graph
from models.engines.one_engine import computed_by
from models.engines.session import OnnxRuntime
from models.engines.trees import Forest, InplacePredict
from models.family import family
from models.train import train_family

LARGEST = np.finfo(np.float32).max
ODD = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, LARGEST, -LARGEST, 1e-45, -1e-45], np.float32)
AS_TRAINED = {"objective": "binary:logistic", "tree_method": "hist", "nthread": 1}


def booster(seed: int, depth: int, rounds: int, **parameters: float | str) -> xgboost.Booster:
    """Trees grown on noise with ties, gaps and heavy tails: their shape is what luck makes it."""
    rng = np.random.default_rng(seed)
    table = np.stack([rng.normal(size=300), rng.integers(0, 5, 300), np.exp(5 * rng.normal(size=300))], axis=1)
    table[rng.random(table.shape) < 0.2] = np.nan
    label = (rng.random(300) < 0.3).astype(np.float32)
    chosen = {**AS_TRAINED, "max_depth": depth, "base_score": 0.5, "min_child_weight": 0.5, "eta": 0.7, **parameters}
    return xgboost.train(chosen, xgboost.DMatrix(table.astype(np.float32), label), rounds)


def at_the_splits(forest: Forest, n: int, rng: np.random.Generator) -> F32:
    """Rows exactly on thresholds, one step of a float below and above them, infinite, missing and other odd values."""
    table = forest.made_up(n, rng)
    below, above = (np.nextafter(table, np.float32(side)) for side in (-np.inf, np.inf))
    return np.choose(rng.choice(4, table.shape, p=[0.4, 0.25, 0.25, 0.1]), [table, below, above, rng.choice(ODD, table.shape)])


def rounding(forest: Forest) -> float:
    """How far two orders of adding the trees' leaves in float32 can be apart (Higham 2002, section 4.2), for any row."""
    largest = np.zeros(forest.tree.max() + 2)
    np.maximum.at(largest, forest.tree[forest.left < 0], np.abs(forest.value[forest.left < 0]))
    largest[-1] = abs(forest.base)
    return float(2 * len(largest) * np.finfo(np.float32).eps * largest.sum())


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(0, 12), st.sampled_from([0.5, 0.03, 0.9]))
def test_the_graph_of_any_trees_gives_what_xgboost_gives(seed: int, depth: int, rounds: int, base_score: float) -> None:
    trees = booster(seed, depth, rounds, base_score=base_score)
    forest = Forest.of(trees)
    ours, theirs = OnnxRuntime(forest.graph()), InplacePredict(trees)
    rng = np.random.default_rng(seed)
    for n in (400, 20, 1, 0):
        table = at_the_splits(forest, n, rng)
        found, expected = ours((table,)), theirs((table,))
        assert found.shape == expected.shape == (n,)
        assert found.dtype == expected.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=0, atol=rounding(forest))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(0, 12), st.sampled_from([0.5, 0.03, 0.9]))
def test_any_trees_compiled_give_what_a_walk_from_node_to_node_gives(
    seed: int, depth: int, rounds: int, base_score: float
) -> None:
    forest = Forest.of(booster(seed, depth, rounds, base_score=base_score))
    ours = CompiledTrees.of(forest)
    assert ours is not None
    rng = np.random.default_rng(seed)
    for n in (int(ROWS) + 7, 20, 1, 0):
        table = at_the_splits(forest, n, rng)
        found = ours((table,))
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, [walked(forest, row) for row in table])


def walked(forest: Forest, row: F32) -> np.float32:
    """The margin of one row, from node to node as the booster's file has them, added up as XGBoost does."""
    margin = np.float32(forest.base)
    at = {(int(tree), int(node)): i for i, (tree, node) in enumerate(zip(forest.tree, forest.node, strict=True))}
    for tree in range(int(forest.tree.max()) + 1):
        i = at[tree, 0]
        while forest.left[i] >= 0:
            value = row[forest.feature[i]]
            left = forest.missing_left[i] if np.isnan(value) else value < forest.value[i]
            i = at[tree, int(forest.left[i] if left else forest.right[i])]
        margin += forest.value[i]
    return margin


def test_compiled_trees_give_what_xgboost_gives_bit_by_bit() -> None:
    trees = booster(5, 6, 60)
    forest = Forest.of(trees)
    ours = CompiledTrees.of(forest)
    assert ours is not None
    table = at_the_splits(forest, 2000, np.random.default_rng(5))
    np.testing.assert_array_equal(ours((table,)), InplacePredict(trees)((table,)))


def test_trees_too_deep_to_be_laid_out_whole_have_no_compiled_engine() -> None:
    deep = {"grow_policy": "lossguide", "max_leaves": 40, "min_child_weight": 0.0, "eta": 0.01, "lambda": 0.0}
    forest = Forest.of(booster(6, 0, 30, **deep))
    assert CompiledTrees.of(forest) is None
    assert CompiledTrees.of(Forest.of(booster(6, DEEPEST, 3, min_child_weight=0.0))) is not None


def test_one_threshold_off_by_one_float_would_be_seen() -> None:
    trees = booster(1, 3, 4)
    forest = Forest.of(trees)
    values = forest.value.copy()
    values[0] = np.nextafter(values[0], np.float32(np.inf))
    table = at_the_splits(forest, 400, np.random.default_rng(1))
    off = OnnxRuntime(replace(forest, value=values).graph())((table,)) - InplacePredict(trees)((table,))
    assert np.abs(off).max() > 100 * rounding(forest)


def test_single_leaves_and_nodes_that_pruning_cut_off_are_understood() -> None:
    leaves = Forest.of(booster(2, 4, 5, gamma=1e6))
    assert len(leaves.tree) == 5
    trees = booster(2, 6, 5, gamma=2.0, tree_method="exact")
    grown = json.loads(trees.save_raw("json"))["learner"]["gradient_booster"]["model"]["trees"]
    assert sum(int(tree["tree_param"]["num_deleted"]) for tree in grown) > 0
    forest = Forest.of(trees)
    assert len(forest.tree) == sum(int(t["tree_param"]["num_nodes"]) - int(t["tree_param"]["num_deleted"]) for t in grown)
    table = at_the_splits(forest, 500, np.random.default_rng(2))
    np.testing.assert_allclose(OnnxRuntime(forest.graph())((table,)), InplacePredict(trees)((table,)), atol=rounding(forest))


@pytest.mark.parametrize("wrong", [{"objective": "reg:squarederror"}, {"booster": "dart"}])
def test_other_boosters_are_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="no sum of trees"):
        Forest.of(booster(3, 2, 2, **wrong))


def test_categorical_splits_are_refused_and_ours_are_plain(trained: dict[str, Artefact]) -> None:
    codes = np.random.default_rng(0).integers(0, 9, (300, 1)).astype(np.float32)
    rows = xgboost.DMatrix(codes, (codes[:, 0] % 2), feature_types=["c"], enable_categorical=True)
    with pytest.raises(ValueError, match="categorical split"):
        Forest.of(xgboost.train(AS_TRAINED, rows, 2))
    model = trained["xgboost"].model
    assert isinstance(model, BoostedTrees)
    assert model.small  # codes of small columns are among its inputs, as floats
    assert len(model.forest().tree) > 100


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(1, 90), max_size=4), st.lists(st.integers(1, 20), max_size=2), st.integers(1, 5), st.integers(0, 999)
)
def test_the_graph_of_any_network_gives_what_torch_gives(sizes: list[int], pools: list[int], numbers: int, seed: int) -> None:
    torch.manual_seed(seed)
    network = Network(tuple(sizes), tuple(pools), numbers, {**SETTINGS, "hidden": [8, 5]})
    with torch.no_grad():
        for weight in network.parameters():
            weight.normal_(0, 0.5)
    ours = OnnxRuntime(graph({name: value.numpy() for name, value in network.state_dict().items()}, numbers))
    rng = np.random.default_rng(seed)
    for n in (37, 1, 0):
        codes = rng.integers(0, sizes, (n, len(sizes))) if sizes else np.zeros((n, 0), np.int64)
        dense = rng.normal(size=(n, numbers)).astype(np.float32)
        inputs = (codes, dense, *(rng.integers(-1, size, (n, 3)) for size in pools))
        found, expected = ours(inputs), Eager(network)(inputs)
        assert found.shape == expected.shape == (n,)
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)


@dataclass(frozen=True)
class Made:
    """An engine that doubles its first column and takes the processor time it is told to."""

    name: str
    us: float = 0.0
    off: float = 0.0

    def __call__(self, inputs: Inputs) -> F32:
        until = process_time_ns() + self.us * 1e3
        while process_time_ns() < until:
            pass
        return np.asarray(2 * inputs[0][:, 0] + self.off, np.float32)


class MadeUpModel:
    """A model with the engines it is given."""

    family = "made up"

    def __init__(self, *engines: Engine) -> None:
        self.own = engines
        self.choice: Choice | None = None

    def engines(self) -> tuple[Engine, ...]:
        return self.own

    def engine(self, n: int) -> Engine:
        return self.own[0] if self.choice is None else self.choice.engine(n)

    def inputs(self, columns: Mapping[str, Array]) -> Inputs:
        return (columns["x"][:, None],)

    def made_up(self, n: int, rng: np.random.Generator) -> Inputs:
        return (rng.normal(size=(n, 2)).astype(np.float32),)

    def use_engines(self, choice: Choice | None) -> None:
        self.choice = choice


def test_the_faster_engine_is_used_and_the_reason_has_both_times() -> None:
    model = MadeUpModel(Made("slow", 400.0), Made("fast"))
    reason = use_fastest(model)  # type: ignore[arg-type]
    assert [model.engine(n).name for n in (0, 1, 20, 5000)] == ["fast"] * 4
    assert reason.startswith("any n: fast ")
    assert all(f"at n={n}" in reason for n in SIZES)
    assert "us of slow" in reason


def test_an_engine_that_gives_something_else_is_left_out_however_fast() -> None:
    model = MadeUpModel(Made("slow", 400.0), Made("wrong", off=0.001))
    assert "wrong left out: 0.001 off" in use_fastest(model)  # type: ignore[arg-type]
    assert model.engine(1).name == "slow"
    assert agree([Made("own"), Made("none", off=np.nan)], (np.ones((3, 2), np.float32),))[0] == [Made("own")]
    use_fastest(model, Made("allowed", off=0.001))  # type: ignore[arg-type]
    assert model.engine(1).name == "allowed"


def test_a_family_without_engines_says_so(trained: dict[str, Artefact]) -> None:
    assert use_fastest(trained["logistic"].model) == "logistic has one engine"
    with pytest.raises(TypeError, match="logistic model has no engines"):
        computed_by(trained["logistic"], Made("any"))


COST = st.tuples(st.floats(1.0, 300.0), st.floats(0.1, 20.0))  # microseconds a call, and a row


@given(st.lists(COST, min_size=1, max_size=3))
def test_no_choice_is_much_slower_than_the_fastest_at_any_size(costs: list[tuple[float, float]]) -> None:
    def us(n: int) -> list[float]:
        return [call + row * n for call, row in costs]

    engines = [Made(str(i)) for i in range(len(costs))]
    choice = choose(engines, {n: us(n) for n in SIZES})
    assert list(choice.limits) == sorted(set(choice.limits))
    assert len(choice.engines) == len(choice.limits) + 1
    for n in SIZES:
        taken = us(n)[int(choice.engine(n).name)]
        assert taken == us(n)[0] or taken == min(us(n)) <= WORTH * us(n)[0]
        assert taken <= min(us(n)) / WORTH
    if len(costs) == 2:  # with straight lines and two engines, the border is where they cross
        for n in range(1, SIZES[-1] + 1):
            assert us(n)[int(choice.engine(n).name)] <= min(us(n)) / WORTH + 1e-9


def test_the_border_lies_where_the_lines_cross() -> None:
    own, other = (100.0, 1.0), (20.0, 3.0)  # equal at 40 rows
    choice = choose([Made("own"), Made("other")], {n: [call + row * n for call, row in (own, other)] for n in SIZES})
    assert choice.limits == (40,)
    assert [choice.engine(n).name for n in (1, 40, 41, 10_000)] == ["other", "other", "own", "own"]
    assert choice.reason == (
        "n <= 40: other 23 us against 101 us of own at n=1, 80 us against 120 us of own at n=20; "
        "n > 40: own 200 us against 320 us of other at n=100, 1100 us against 3020 us of other at n=1000"
    )


@pytest.fixture(scope="module")
def rows() -> Dataset:
    return clicks(4000, 5, 4, 9).data


@pytest.fixture(scope="module")
def trained() -> dict[str, Artefact]:
    train, valid, calibrate = clicks(8000, 1, 7).data, clicks(4000, 2, 1, 7).data, clicks(4000, 3, 1, 8).data
    made = {name: train_family(name, train, valid, calibrate, SPEC, 1) for name in ("logistic", "xgboost", "dcnv2")}
    return {name: each.artefact for name, each in made.items()}


@pytest.mark.parametrize("name", ["xgboost", "dcnv2"])
def test_a_model_scores_the_same_with_any_of_its_engines_and_keeps_its_hash(
    trained: dict[str, Artefact], rows: Dataset, name: str, tmp_path: Path
) -> None:
    saved = trained[name].save(tmp_path)
    artefact = load(tmp_path, saved)
    expected = artefact.score(rows.columns)
    model = artefact.model
    assert isinstance(model, HasEngines)
    for engine in model.engines():
        np.testing.assert_allclose(computed_by(artefact, engine).score(rows.columns), expected, rtol=0, atol=5e-6)
    use_fastest(model)
    np.testing.assert_allclose(artefact.score(rows.columns), expected, rtol=0, atol=5e-6)
    assert replace(artefact, _saved=[]).hash == saved  # written again, with engines chosen


@pytest.mark.parametrize("name", ["xgboost", "dcnv2"])
def test_a_model_that_learns_or_changes_threads_forgets_its_engines(
    trained: dict[str, Artefact], rows: Dataset, name: str, tmp_path: Path
) -> None:
    artefact = load(tmp_path, trained[name].save(tmp_path))
    only = Made("constant")
    served = computed_by(artefact, only)
    assert served.updated(rows).model.choice is None
    assert served.model.engine(1) is only  # the one that is served goes on as it was
    served.model.use_threads(1)
    assert (served.score(rows.columns) == artefact.score(rows.columns)).all()


def test_a_fitted_model_forgets_the_engines_of_the_one_before(trained: dict[str, Artefact], rows: Dataset) -> None:
    for name in ("xgboost", "dcnv2"):
        model = family(name)(trained[name].encoder)
        model.use_engines(Choice((Made("constant"),), (), ""))
        offset = np.zeros(len(rows), np.float32)
        model.fit(rows, rows, (offset, offset), seed=0)
        assert model.choice is None


def test_updating_a_model_that_is_served_by_onnx_runtime_works(trained: dict[str, Artefact], rows: Dataset) -> None:
    for name in ("xgboost", "dcnv2"):
        model = trained[name].model
        assert isinstance(model, HasEngines)
        served = computed_by(trained[name], model.engines()[1])
        assert np.isfinite(served.updated(rows).score(rows.columns)).all()


@pytest.fixture(scope="module")
def quantised(trained: dict[str, Artefact]) -> bytes:
    return int8.quantised(trained["dcnv2"].model.graph())  # type: ignore[attr-defined]


def test_int8_is_smaller_moves_p_and_is_judged_by_what_that_costs(
    trained: dict[str, Artefact], quantised: bytes, rows: Dataset, tmp_path: Path
) -> None:
    artefact = trained["dcnv2"]
    assert len(quantised) < 0.6 * len(artefact.model.graph())  # type: ignore[attr-defined]
    gate = int8.judge(artefact, quantised, rows, bound=0.05)
    assert 1e-5 < gate.max_dp < 0.2
    assert gate.passed
    gate.save(tmp_path / "gate.json")
    assert int8.Gate.load(tmp_path / "gate.json") == gate
    engine = int8.engine(artefact, quantised, tmp_path / "gate.json")
    p = artefact.probability(artefact.score(rows.columns), rows.slot)
    assert np.abs(int8.by_request(computed_by(artefact, engine), rows) - p).max() == gate.max_dp


def test_there_is_no_int8_engine_without_a_gate_that_this_graph_passed(
    trained: dict[str, Artefact], quantised: bytes, rows: Dataset, tmp_path: Path
) -> None:
    artefact, record = trained["dcnv2"], tmp_path / "gate.json"
    with pytest.raises(int8.NotPassed, match="no record"):
        int8.engine(artefact, quantised, record)
    gate = int8.judge(artefact, quantised, rows, bound=0.05)
    replace(gate, graph="0" * 64).save(record)
    with pytest.raises(int8.NotPassed, match="not about this one"):
        int8.engine(artefact, quantised, record)
    int8.judge(artefact, quantised, rows, bound=-0.05).save(record)
    with pytest.raises(int8.NotPassed, match="serve float32"):
        int8.engine(artefact, quantised, record)


def test_a_gate_that_can_compute_nothing_does_not_pass(trained: dict[str, Artefact], quantised: bytes, rows: Dataset) -> None:
    gate = int8.judge(trained["dcnv2"], quantised, rows.take(np.arange(1)), bound=1.0)
    assert not gate.passed
    assert "can't be compared" in gate.verdict
