"""Splits, totals and labels: what is wrong with the rows of a set, however its columns look."""

from dataclasses import replace

import numpy as np
import pytest
from test_gate_columns import clicks, halves

from infra.clock import DAY_US, HOUR_US
from models.contract import Dataset
from monitoring.gate.auc import auc_by_day
from monitoring.gate.columns import Scope, concatenate
from monitoring.gate.split import interleaved, ordered_by_label, overlaps
from monitoring.gate.totals import Known, odd_labels, off_totals


def by_day(seed: int) -> dict[str, Dataset]:
    data = clicks(seed)
    day = data.time_us // DAY_US - 20_454
    return {"train": data.take(day < 4), "test": data.take(day >= 4)}


def known(data: Dataset) -> Known:
    true = data.take(np.argsort(data.row_id))
    return Known(true.row_id, true.time_us, true.group, true.slot.astype(np.int64), true.label)


def test_a_clean_split_is_clean() -> None:
    for seed in range(5):
        parts = by_day(seed)
        assert overlaps(parts).findings == interleaved(parts) == ordered_by_label(parts) == []


@pytest.mark.parametrize(("moved_us", "symptom"), [(0, "same-content"), (30_000_000, "near-copy"), (2 * DAY_US, "near-copy")])
def test_an_event_logged_again_is_found_whatever_its_id_and_time(moved_us: int, symptom: str) -> None:
    parts = by_day(1)
    again = parts["train"].take(np.arange(40))
    again = replace(again, row_id=again.row_id + 1, time_us=again.time_us + moved_us)
    found = overlaps({**parts, "test": concatenate([parts["test"], again])}).findings
    assert {(f.symptom, f.subject, f.bug_class) for f in found} == {(symptom, "split", "split-duplicates")}
    assert found[0].evidence["between"] == "train / test"
    assert found[0].evidence["rows"] == 40


def test_without_a_column_that_marks_rows_near_copies_are_skipped_with_the_reason() -> None:
    plain = {n: replace(p, columns={"place": p.columns["place"]}) for n, p in by_day(2).items()}
    checks = overlaps(plain)
    assert [f for f in checks.findings if f.evidence["by"] != "content but not time"] == []
    assert "marks a row" in checks.skipped["near-copies"]


def test_a_random_split_is_a_group_leak_and_says_how_many_users_are_on_both_sides() -> None:
    data = clicks(3)
    luck = np.random.default_rng(0).random(len(data))
    (found,) = interleaved({"train": data.take(luck < 0.7), "test": data.take(luck >= 0.7)})
    assert (found.bug_class, found.subject, found.evidence["between"]) == ("group-leak", "split", "train / test")
    assert found.evidence["users_on_both_sides"] > 400


def test_rows_sorted_by_label_give_it_away() -> None:
    parts = by_day(4)
    train = parts["train"].take(np.argsort(parts["train"].label, kind="stable"))
    assert [f.symptom for f in ordered_by_label({**parts, "train": train})] == ["row-order"]


def test_a_cut_day_is_named_with_its_hours() -> None:
    data = clicks(5)
    last = data.time_us >= 20_459 * DAY_US + 18 * HOUR_US
    scope = Scope({"train": (20_454 * DAY_US, 20_460 * DAY_US)})
    (found,) = off_totals(data.take(~last), known(data).within(scope))
    assert (found.symptom, found.since, found.evidence["hours"]) == ("rows-lost", "2026-01-06", 6)
    assert found.evidence["rows"] == last.sum()


def test_rows_nobody_knows_and_labels_that_differ_are_counted() -> None:
    data = clicks(6)
    strange = replace(data, row_id=np.where(np.arange(len(data)) < 3, 7, data.row_id), label=data.label.copy())
    strange.label[10:15] ^= 1
    found = {(f.symptom, f.subject): f.evidence["rows"] for f in off_totals(strange, known(data))}
    assert found == {("rows-lost", "rows"): 3, ("rows-unknown", "rows"): 3, ("labels-off", "label"): 5}


def test_swapped_classes_are_seen_without_a_store() -> None:
    parts = halves(clicks(7))
    swapped = {n: replace(p, label=1 - p.label) for n, p in parts.items()}
    whole, history = concatenate(list(swapped.values())), auc_by_day(concatenate(list(parts.values())))
    assert {f.symptom for f in odd_labels(swapped, auc_by_day(whole), history)} >= {"click-rate"}
    assert odd_labels(parts, history, history) == []


def test_a_scope_holds_a_share_of_users_whole() -> None:
    data = clicks(8)
    held = Scope({"train": (20_454 * DAY_US, 20_460 * DAY_US)}, 0.3, 5).holds(data.time_us, data.group)
    assert 0.2 < held.mean() < 0.4
    assert not set(data.group[held]) & set(data.group[~held])
