"""Ids: one number or many, the same hash."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from features.ids import derived_id, mix, uniform, uniform_one

WHOLE = st.integers(-(2**63), 2**63 - 1)


@given(st.lists(WHOLE, min_size=1, max_size=4), st.integers(0, 4))
def test_plain_numbers_hash_as_arrays_of_them_do(parts: list[int], arrays_from: int) -> None:
    mixed = [np.array([part]) if place >= arrays_from else part for place, part in enumerate(parts)]
    wanted = mix(*(np.array([part]) for part in parts))
    assert mix(*parts) == wanted[0]
    assert np.all(mix(*mixed) == wanted)
    assert mix(*parts).dtype == wanted.dtype == np.uint64


@given(st.lists(WHOLE, min_size=1, max_size=4))
def test_the_luck_of_one_is_that_of_many(parts: list[int]) -> None:
    assert uniform_one(*parts) == uniform(*parts) == uniform(*(np.array([part]) for part in parts))[0]
    assert 0 <= uniform_one(*parts) < 1


def test_hashes_are_those_of_the_data_made_before() -> None:
    assert int(mix(1, 2, 3)) == 14811618279488048801
    assert int(derived_id(1, 2)) == 7199479353940798044
    assert mix(1, 2) != mix(2, 1)
    assert 0 <= float(uniform(5, 6)) < 1
