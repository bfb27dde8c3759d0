"""Signs in single columns: encodings that hold their own labels, regions that only a click explains, sums, gains, and names."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.clock import DAY_US
from models.contract import Dataset
from monitoring.findings import SYMPTOMS
from monitoring.gate.auc import auc
from monitoring.gate.copies import target_copies
from monitoring.gate.diagnosis import RULES, gate_diagnosis, settled
from monitoring.gate.encoding import evenness, label_statistic, own_labels
from monitoring.gate.signs import CLASS_OF, sign
from monitoring.gate.together import auc_difference, gains

ROWS, USERS = 8_000, 500


def clicks(seed: int, rows: int = ROWS) -> Dataset:
    """Users of different taste on six days, a rate known beforehand, and other honest columns."""
    rng = np.random.default_rng(seed)
    user = rng.integers(0, USERS, rows)
    taste = 0.7 * rng.normal(size=USERS)
    time_us = np.sort(20_454 * DAY_US + rng.integers(0, 6 * DAY_US, rows))
    other = rng.normal(size=(rows, 6))
    label = rng.random(rows) < 1 / (1 + np.exp(3.2 - taste[user] - 0.4 * other[:, 0]))
    columns: dict[str, np.ndarray] = {f"x{i}": other[:, i].astype(np.float32) for i in range(6)}
    columns["user_rate"] = (0.04 * np.exp(taste + 0.3 * rng.normal(size=USERS)))[user].astype(np.float32)
    columns["user_id"] = user.astype(np.int64)
    columns["place"] = rng.integers(0, 5, rows)
    return Dataset(columns, label.astype(np.uint8), np.zeros(rows, np.int16), time_us, user.astype(np.int64),
                   rng.integers(1, 1 << 60, rows), np.zeros(rows, bool))  # fmt: skip


def with_column(data: Dataset, name: str, values: np.ndarray) -> Dataset:
    return replace(data, columns={**data.columns, name: values.astype(np.float32)})


def encoded(data: Dataset, key: np.ndarray, strength: float = 5.0) -> np.ndarray:
    shown, clicked = np.bincount(key), np.bincount(key, data.label)
    return ((clicked + strength * data.label.mean()) / (shown + strength))[key]


def halves(data: Dataset) -> dict[str, Dataset]:
    rows = np.arange(len(data))
    return {"train": data.take(rows < len(data) * 2 // 3), "test": data.take(rows >= len(data) * 2 // 3)}


@pytest.mark.parametrize("seed", range(3))
def test_an_encoding_that_holds_its_own_labels_is_told_from_an_honest_rate(seed: int) -> None:
    data = clicks(seed)
    data = with_column(data, "leaked", encoded(data, data.columns["user_id"]))
    (found,) = own_labels(halves(data), set(data.columns))
    assert (found.subject, found.bug_class) == ("leaked", "target-encoding")
    assert found.evidence["key"].startswith("user_id")


def test_an_encoding_by_a_crossed_key_of_some_rows_is_found_among_them() -> None:
    data = clicks(4)
    key = data.columns["user_id"] * 5 + data.columns["place"]
    rows = np.flatnonzero(np.random.default_rng(0).random(len(data)) < 0.2)
    grouped = {"place": data.columns["place"], "user_id x place": key}
    values, part = encoded(data, key)[rows].astype(np.float32), np.zeros(len(data), np.int64)
    name, share = label_statistic(values, rows, grouped, data.label.astype(bool), part)
    assert name.startswith("user_id x place")
    assert share >= 0.9
    honest = data.columns["user_rate"][rows]
    assert label_statistic(honest, rows, grouped, data.label.astype(bool), part) == ("", 0.0)


def test_out_of_fold_encodings_are_honest() -> None:
    data = clicks(5)
    key, fold = data.columns["user_id"], np.random.default_rng(1).integers(0, 5, len(data))
    values = np.empty(len(data))
    for one in range(5):
        rest = fold != one
        shown, clicked = np.bincount(key[rest], minlength=USERS), np.bincount(key[rest], data.label[rest], USERS)
        values[~rest] = ((clicked + 0.2) / (shown + 5))[key[~rest]]
    assert own_labels(halves(with_column(data, "honest", values)), {"honest"}) == []


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000))
def test_evenness_of_honest_cells_is_about_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    key = rng.integers(0, 120, 4_000)
    label = rng.random(4_000) < rng.uniform(0.03, 0.3, 120)[key]
    found = evenness(key, np.argsort(np.argsort(rng.random(120)))[key], label)
    assert found is not None
    assert found.share > 0.75 or found.log10_p > -6  # a false alarm needs both


def test_a_by_product_of_the_click_and_a_copy_of_the_label_have_different_names() -> None:
    data = clicks(6)
    rng = np.random.default_rng(2)
    dwell = data.label * (rng.random(ROWS) < 0.3) * rng.exponential(20, ROWS)
    flipped = np.where(rng.random(ROWS) < 0.05, 1 - data.label, data.label)
    for name, values, expected in (("dwell", dwell, "post-click-feature"), ("opened", flipped, "target-derived-column")):
        findings = settled(target_copies(with_column(data, name, values), {name}))
        assert {(f.subject, f.bug_class) for f in findings} == {(name, expected)}


def test_columns_that_add_up_to_the_target_are_named_with_their_partner_alone() -> None:
    data = clicks(7)
    noise = np.random.default_rng(3).normal(size=ROWS).astype(np.float32)
    data = with_column(with_column(data, "casual", data.label - noise), "registered", noise)
    findings = [f for f in target_copies(data, set(data.columns)) if f.symptom == "target-sum"]
    assert {(f.subject, f.evidence["with"]) for f in findings} == {("casual", "registered"), ("registered", "casual")}
    third = np.random.default_rng(4).normal(size=ROWS).astype(np.float32)
    three = with_column(with_column(data, "casual", data.label - noise - third), "third", third)
    assert {f.subject for f in target_copies(three, set(three.columns))} == {"casual", "registered", "third"}


def test_honest_columns_are_no_copies() -> None:
    for seed in range(5):
        data = clicks(100 + seed)
        assert target_copies(data, set(data.columns)) == []


def test_a_noisy_copy_adds_more_than_an_honest_column() -> None:
    data = clicks(8, 20_000)
    rng = np.random.default_rng(5)
    vouched = {*(f"x{i}" for i in range(6)), "user_rate"}
    noisy = with_column(data, "new", data.label + 0.9 * rng.normal(size=len(data)))
    assert [f.subject for f in gains(noisy, vouched, {"new"})] == ["new"]
    assert gains(with_column(data, "new", data.columns["x0"] + rng.normal(size=len(data))), vouched, {"new"}) == []


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000))
def test_a_difference_of_aucs_is_that_of_the_aucs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    one, other, label = rng.integers(0, 5, 60), rng.integers(0, 5, 60), rng.random(60) < 0.4
    if 2 <= label.sum() <= 58:
        gain, _ = auc_difference(one, other, label)
        assert gain == pytest.approx(auc(one, label)[0] - auc(other, label)[0])


def test_every_sign_is_a_symptom_with_a_class_and_a_rule() -> None:
    assert set(CLASS_OF) == set(SYMPTOMS["gate"])
    for symptom, slug in CLASS_OF.items():
        (hypothesis,) = gate_diagnosis(settled([sign("check", symptom, "x", 2.0, {})]))
        assert hypothesis.bug_class == slug or symptom in ("target-sum", "target-region")
        assert 0 < hypothesis.score <= 1
    assert [weight for _, weight, _ in RULES] == sorted((weight for _, weight, _ in RULES), reverse=True)


def test_duplicates_explain_totals_that_are_off_and_a_wrong_value_beats_a_high_auc() -> None:
    ranked = gate_diagnosis([
        sign("control-totals", "rows-unknown", "rows", 50.0, {}),
        sign("split-overlap", "same-content", "train / test", 50.0, {}),
    ])  # fmt: skip
    assert [h.bug_class for h in ranked] == ["split-duplicates", "partial-training-day"]
    findings = settled([sign("auc-jump", "auc-jump", "x", 9.0, {}), sign("row-rebuild", "rebuild-mismatch", "x", 2.0, {})])
    assert {f.bug_class for f in findings} == {"point-in-time-violation"}
