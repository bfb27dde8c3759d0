"""Encoding against a brute-force twin, and the promises that serving and online learning rest on."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import SPEC, clicks

from models.contract import FeatureSpec
from models.encode import FEW_ROWS, LIMIT, PADDING, Encoder, Vocabulary

TEXTS = st.lists(st.sampled_from(["", "a", "ab", "b", "zebra", "é"]), min_size=1, max_size=40)
IDS = st.lists(st.integers(-1, 6), min_size=1, max_size=40)


def twin(train: list, column: list, min_count: int, unknown: object) -> list[int]:
    """Codes by dictionary."""
    known = sorted(value for value in set(train) if value != unknown and train.count(value) >= min_count)
    codes = {value: code for code, value in enumerate(known, start=1)}
    return [codes.get(value, 0) for value in column]


@settings(max_examples=60, deadline=None)
@given(train=TEXTS, column=TEXTS, min_count=st.integers(1, 3))
def test_text_codes_equal_those_of_a_dictionary(train: list[str], column: list[str], min_count: int) -> None:
    spec = FeatureSpec(("c",), ())
    encoder = Encoder.learn({"c": np.array(train)}, spec, min_count=min_count)
    assert encoder.codes({"c": np.array(column)})[:, 0].tolist() == twin(train, column, min_count, "")


@settings(max_examples=60, deadline=None)
@given(train=IDS, column=IDS, min_count=st.integers(1, 3))
def test_id_codes_equal_those_of_a_dictionary(train: list[int], column: list[int], min_count: int) -> None:
    spec = FeatureSpec(("c",), ())
    encoder = Encoder.learn({"c": np.array(train, np.int64)}, spec, min_count=min_count)
    assert encoder.codes({"c": np.array(column, np.int64)})[:, 0].tolist() == twin(train, column, min_count, -1)


@settings(max_examples=60, deadline=None)
@given(first=IDS, then=IDS)
def test_growing_keeps_old_codes_and_numbers_new_values_after_them(first: list[int], then: list[int]) -> None:
    empty = Vocabulary(np.zeros(0, np.int64), np.zeros(0, np.int64))
    old = empty.grown(np.array(first, np.int64), 1)
    new = old.grown(np.array(then, np.int64), 1)
    everything = np.array(sorted(set(first) | set(then)), np.int64)
    before, after = old.encode(everything), new.encode(everything)
    assert (after[before > 0] == before[before > 0]).all()
    assert sorted(after[after > 0]) == list(range(1, new.size))
    assert after[everything == -1].sum() == 0


@settings(max_examples=60, deadline=None)
@given(
    train=st.lists(st.floats(-1e4, 1e4, width=32) | st.just(float("nan")), min_size=2, max_size=40),
    column=st.lists(st.floats(-1e4, 1e4, width=32) | st.just(float("nan")), min_size=1, max_size=10),
)
def test_numbers_are_standardised_by_training_rows_and_missing_ones_sit_at_the_mean(
    train: list[float], column: list[float]
) -> None:
    encoder = Encoder.learn({"x": np.array(train, np.float32)}, FeatureSpec((), ("x",)))
    encoded = encoder.encode({"x": np.array(column, np.float32)})
    for value, number, missing in zip(
        column, encoded.numeric[:, 0], encoded.missing[:, 0] if encoder.gaps[0] else np.isnan(column).astype(float), strict=True
    ):
        if np.isnan(value):
            assert (number, missing) == (0.0, 1.0)
            continue
        if encoder.logged[0]:
            value = np.log1p(max(value, 0.0))
        expected = np.clip((value - encoder.mean[0]) / encoder.scale[0], -LIMIT, LIMIT)
        assert number == pytest.approx(expected, rel=1e-3, abs=1e-3)
        assert missing == 0.0


def test_long_tails_of_counts_are_taken_as_logarithms() -> None:
    rng = np.random.default_rng(0)
    columns = {"count": rng.pareto(1.5, 5000).astype(np.float32), "level": rng.normal(0, 1, 5000).astype(np.float32)}
    encoder = Encoder.learn(columns, FeatureSpec((), ("count", "level")))
    assert encoder.logged.tolist() == [True, False]


def test_sequences_keep_their_padding_and_mark_the_unknown() -> None:
    spec = FeatureSpec((), (), ("seen",))
    encoder = Encoder.learn({"seen": np.array([[3, 7, -1], [3, -1, -1]])}, spec, min_count=1)
    (codes,) = encoder.encode({"seen": np.array([[7, 5, -1]])}).sequences
    assert codes.tolist() == [[2, 0, PADDING]]


def test_saved_and_loaded_encoders_are_the_same_to_the_last_bit(tmp_path: Path) -> None:
    data = clicks(4000).data
    encoder = Encoder.learn(data.columns, SPEC)
    encoder.save(tmp_path)
    again = Encoder.load(tmp_path)
    assert again.encoder_hash == encoder.encoder_hash
    one, two = encoder.encode(data.columns), again.encode(data.columns)
    assert (one.codes == two.codes).all()
    assert (one.numeric == two.numeric).all()
    assert again.grown(data.columns, min_count=1).encoder_hash != encoder.encoder_hash


def test_a_missing_column_and_a_wrong_type_are_named() -> None:
    data = clicks(4000).data
    encoder = Encoder.learn(data.columns, SPEC)
    without = {name: column for name, column in data.columns.items() if name != "device"}
    with pytest.raises(KeyError, match="'device' is missing"):
        encoder.encode(without)
    with pytest.raises(TypeError, match="'price' has dtype <U1"):
        encoder.encode({**data.columns, "price": np.full(len(data), "x")})


def test_ids_that_arrive_as_floats_mean_the_same() -> None:
    encoder = Encoder.learn({"c": np.array([1, 2, 2, 3] * 5)}, FeatureSpec(("c",), ()))
    assert encoder.codes({"c": np.array([1.0, np.nan, 3.0, 9.0], np.float32)})[:, 0].tolist() == [1, 0, 3, 0]


@given(st.lists(st.integers(-1, 12), max_size=30), st.integers(0, 12))
def test_a_few_rows_are_encoded_as_many_are(known: list[int], least: int) -> None:
    for values in (np.array(known, np.int64), np.array([str(k) if k >= 0 else "" for k in known], np.str_)):
        vocabulary = Vocabulary(values[:0], np.zeros(0, np.int64)).grown(values, 1)
        column = np.tile(np.append(values, values[:1]), FEW_ROWS)[: FEW_ROWS + least]
        few = [vocabulary.encode(column[low : low + 7]) for low in range(0, len(column), 7)]
        np.testing.assert_array_equal(np.concatenate([np.zeros(0, np.int64), *few]), vocabulary.encode(column))
