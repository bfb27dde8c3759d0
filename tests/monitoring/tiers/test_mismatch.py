"""Each way in which logged values differ from recomputed ones has its pattern, with unrelated mismatches in between."""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest

from monitoring.comparison import comparable, differs
from monitoring.tiers.mismatch import pattern

RNG = np.random.default_rng(5)
VALUES = np.float32(RNG.lognormal(0, 1, 60)).astype(np.float64)
WORDS = np.array([["mobile", "tv", "desktop"][i] for i in RNG.integers(0, 3, 60)], dtype=object)
HOURS = RNG.integers(0, 24, 60)
NEXT = {"mobile": "tv", "tv": "desktop", "desktop": "mobile"}


def hours(shift: int) -> np.ndarray:
    return np.array([str((h + shift) % 24) for h in HOURS], dtype=object)


def words(of: Callable[[str], str | None]) -> np.ndarray:
    return np.array([of(w) for w in WORDS], dtype=object)


CASES = {
    "to-null": (np.full(60, np.nan), VALUES, "null-spike"),
    "to-default": (np.zeros(60), VALUES, "default-value-skew"),
    "from-null": (np.zeros(60), np.full(60, np.nan), "imputation-difference"),
    "ratio": (VALUES * 1000, VALUES, "unit-change"),
    "rounded": (np.round(VALUES, 1), VALUES, "cast-or-rounding"),
    "permuted": (words(NEXT.get), WORDS, "category-reencoding"),
    "shifted": (hours(5), hours(0), "time-zone-shift"),
    "mismatch": (VALUES * RNG.lognormal(0, 0.2, 60), VALUES, "stale-features"),
}


@pytest.mark.parametrize("symptom", CASES)
def test_the_pattern_names_the_symptom_and_the_class(symptom: str) -> None:
    logged, again, kind = CASES[symptom]
    logged = logged.copy()
    if logged.dtype.kind == "f":
        logged[::6] = again[::6] * 1.237 if not np.isnan(again).any() else 3.3
    found = pattern(logged, again, HOURS)
    assert (found.symptom, found.bug_class) == (symptom, kind)


def test_a_unit_of_what_is_logged_as_log1p_keeps_its_factor() -> None:
    found = pattern(np.log1p(VALUES * 100), np.log1p(VALUES))
    assert found.symptom == "ratio"
    assert found.evidence["ratio"] == pytest.approx(100, rel=1e-3)


def test_half_precision_is_a_rounding_and_no_unit() -> None:
    found = pattern(VALUES.astype(np.float16).astype(np.float64), VALUES)
    assert (found.symptom, found.evidence["to"]) == ("rounded", "float16")


def test_values_of_yesterday_are_older_even_where_only_some_were_looked_up() -> None:
    yesterday = VALUES * RNG.lognormal(0, 0.3, 60)
    found = pattern(yesterday, VALUES, day_old=np.where(np.arange(60) % 3, np.nan, yesterday), has_old=np.arange(60) % 3 == 0)
    assert (found.symptom, found.bug_class) == ("older", "stale-features")


def test_a_counter_that_decayed_a_day_is_stale_and_not_in_another_unit() -> None:
    logged = VALUES / 0.9057
    logged[::8] *= 1.1
    assert pattern(logged, VALUES).bug_class == "stale-features"


def test_a_swapped_pair_of_categories_shows_its_pairs() -> None:
    found = pattern(words({"mobile": "tv", "tv": "mobile", "desktop": "x"}.get)[WORDS != "desktop"], WORDS[WORDS != "desktop"])
    assert set(found.evidence["pairs"]) == {"mobile > tv", "tv > mobile"}


@pytest.mark.parametrize("other", [pa.array([3, None, 5]), pa.array([3.0, None, 5.0]), pa.array(["3", None, "5"])])
def test_a_category_is_the_same_however_it_was_stored(other: pa.Array) -> None:
    left, right = comparable(pa.chunked_array([pa.array([3, None, 5])]), pa.chunked_array([other]), categorical=True)
    assert not differs(left, right).any()


def test_numbers_that_became_text_compare_as_text_and_parse_where_they_can() -> None:
    left, right = comparable(pa.chunked_array([["1.5", "x"]]), pa.chunked_array([[1.5, 2.0]]), categorical=False)
    assert differs(left, right).tolist() == [False, True]
    left, right = comparable(pa.chunked_array([["1.5", "2"]]), pa.chunked_array([[1.5, 2.0]]), categorical=False)
    assert not differs(left, right).any()
