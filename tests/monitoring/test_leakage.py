"""The leakage audit: silent on clean sets, and naming the column on each way a set can know its own answer."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.clock import DAY_US
from models.contract import Dataset
from monitoring.gate.auc import AucTable, auc, auc_by_day, jumps
from monitoring.gate.audit import Account, audit
from monitoring.gate.copies import target_copies
from monitoring.gate.replay import Replayed
from monitoring.gate.split import content_hash
from monitoring.gate.totals import Known

FIRST_DAY = 20_454
CLEAN_SETS = 30


def log(seed: int, days: int = 9, a_day: int = 1500) -> Dataset:
    """Clicks with user and context effects, 12 numeric features of different strength, a counter and two categories."""
    rng = np.random.default_rng(seed)
    n = days * a_day
    day = np.sort(rng.integers(0, days, n))
    time_us = np.sort((FIRST_DAY + day) * DAY_US + rng.integers(0, DAY_US, n))
    day = time_us // DAY_US - FIRST_DAY
    user = rng.integers(0, a_day // 8, n)
    taste, context = rng.normal(size=a_day // 8)[user] * 0.6, rng.normal(size=n) * 0.5
    logit = taste + context - 3 + 0.1 * rng.normal(size=days)[day]
    label = rng.random(n) < 1 / (1 + np.exp(-logit))
    columns: dict[str, np.ndarray] = {}
    for j in range(12):
        weight = rng.normal(size=2) * (j % 3 > 0)
        values = weight[0] * (1 + 0.15 * rng.normal(size=days)[day]) * taste + weight[1] * context + rng.normal(size=n)
        values[rng.random(n) < 0.2 * (j % 4 == 0)] = np.nan
        columns[f"x{j}"] = values.astype(np.float32)
    columns["clicks_1h"] = (rng.poisson(0.3, n) * 0.6).astype(np.float32)
    columns["device"] = np.array(["mobile", "tv", "desktop"])[rng.integers(0, 3, n)]
    columns["hour"] = time_us // (DAY_US // 24) % 24
    return Dataset(
        columns, label.astype(np.uint8), rng.integers(0, 4, n).astype(np.int16), time_us, user, rng.integers(1, 1 << 60, n),
        np.zeros(n, bool),
    )  # fmt: skip


def between(data: Dataset, first: int, last: int) -> Dataset:
    day = data.time_us // DAY_US - FIRST_DAY
    return data.take((day >= first) & (day < last))


def parts(data: Dataset) -> dict[str, Dataset]:
    return {"train": between(data, 2, 7), "valid": between(data, 7, 8), "calibrate": between(data, 8, 9)}


def account(data: Dataset) -> Account:
    """What a store says that holds exactly these rows."""
    order = np.argsort(data.row_id)
    true = data.take(order)
    known = Known(true.row_id, true.time_us, true.group, true.slot.astype(np.int64), true.label)
    return Account(known, Replayed(true.row_id, true.columns), [], frozenset())


def with_column(data: Dataset, name: str, values: np.ndarray) -> Dataset:
    return replace(data, columns={**data.columns, name: values})


def leak_clicks(data: Dataset, share: float, seed: int = 0) -> Dataset:
    """The counter includes the very click it is used to predict, in a share of rows."""
    hit = (np.random.default_rng(seed).random(len(data)) < share) & (data.label == 1)
    return with_column(data, "clicks_1h", data.columns["clicks_1h"] + hit.astype(np.float32))


def test_audit_is_silent_on_clean_sets_with_and_without_history() -> None:
    alarmed = []
    for seed in range(CLEAN_SETS):
        data = log(seed)
        reference = auc_by_day(between(data, 0, 5)) if seed % 2 else None
        checks, _ = audit(parts(data), reference, account(between(data, 2, 9)) if seed % 3 else None)
        assert {"auc-cap", "target-copy", "out-of-fold", "split-overlap", "time-order"} <= set(checks.ran)
        assert ("as-of-replay" in checks.ran) == bool(seed % 3)
        alarmed += [str(f) for f in checks.findings]
    assert alarmed == []


def test_a_checkup_survives_json() -> None:
    data = log(1)
    checks, table = audit(parts(leak_clicks(data, 0.5)), auc_by_day(between(data, 0, 5)))
    raw = json.loads(json.dumps(checks.as_json()))
    assert raw["skipped"].keys() == {"as-of-replay", "row-rebuild", "control-totals"}
    again = AucTable.from_json(json.loads(json.dumps(table.as_json())))
    assert again.features == table.features
    np.testing.assert_array_equal(again.auc, table.auc)


@pytest.mark.parametrize("seed", range(4))
def test_a_counter_that_includes_its_click_jumps_and_is_named_first(seed: int) -> None:
    data = log(seed)
    checks, _ = audit(parts(leak_clicks(data, 0.5)), auc_by_day(between(data, 0, 5)))
    worst = max((f for f in checks.findings if f.check == "auc-jump"), key=lambda f: f.excess)
    assert (worst.subject, worst.bug_class, worst.severity) == ("clicks_1h", "post-click-feature", "page")


def test_a_leak_on_days_audited_before_shows_at_a_tenth_of_the_rows() -> None:
    data = log(3)
    found = jumps(auc_by_day(leak_clicks(data, 0.1)), auc_by_day(data))
    assert [f.subject for f in found] == ["clicks_1h"]


def test_being_null_where_nobody_clicked_is_a_leak() -> None:
    data = log(4)
    values = data.columns["x1"].copy()
    values[(data.label == 0) & (np.random.default_rng(0).random(len(data)) < 0.6)] = np.nan
    found = jumps(auc_by_day(with_column(data, "x1", values)), auc_by_day(between(data, 0, 5)))
    assert "x1" in {f.subject for f in found} or "x1" in {
        f.subject for f in audit(parts(with_column(data, "x1", values)))[0].findings
    }


def test_replay_finds_one_leaked_row_in_a_hundred_clicks_and_sees_it_among_clicked_rows_only() -> None:
    data = between(log(5), 2, 7)
    leaked = leak_clicks(data, 0.05)
    checks, _ = audit({"train": leaked}, None, account(data))
    (found,) = [f for f in checks.findings if f.check == "as-of-replay"]
    assert (found.subject, found.bug_class) == ("clicks_1h", "post-click-feature")
    assert found.evidence["rate_clicked"] > 0.02
    assert found.evidence["rate_not_clicked"] == 0


def test_copies_of_the_target_are_named_alone_and_in_pairs() -> None:
    data = log(6)
    noise = np.random.default_rng(1).normal(size=len(data)).astype(np.float32)
    clicked = data.label.astype(np.float32)
    data = with_column(with_column(data, "casual", clicked - noise), "registered", noise)
    data = with_column(data, "was_opened", np.where(data.label == 1, "yes", "no"))
    assert {f.subject for f in target_copies(data, set(data.columns))} == {"casual", "registered", "was_opened"}


def test_rows_on_both_sides_are_found_by_id_and_under_a_new_id() -> None:
    split = parts(log(7))
    again = split["train"].take(np.arange(10))
    fresh = replace(again, row_id=again.row_id + 1)
    for twin, kinds in ((again, {"id"}), (fresh, {"content"})):
        valid = Dataset(
            {n: np.concatenate([v, twin.columns[n]]) for n, v in split["valid"].columns.items()},
            *(np.concatenate([getattr(split["valid"], f), getattr(twin, f)])
              for f in ("label", "slot", "time_us", "group", "row_id", "randomised")),
        )  # fmt: skip
        checks, _ = audit({**split, "valid": valid})
        found = [f for f in checks.findings if f.check == "split-overlap"]
        assert {f.evidence["by"] for f in found} == kinds
        assert {f.bug_class for f in checks.findings} == {"split-duplicates"}
        assert all((f.subject, f.evidence["between"]) == ("split", "train / valid") for f in found)


def test_lost_rows_and_clicks_show_against_control_totals() -> None:
    data = between(log(8), 2, 7)
    lost = data.take(np.arange(len(data)) != np.flatnonzero(data.label)[3])
    checks, _ = audit({"train": lost}, None, account(data))
    (found,) = checks.findings
    assert (found.check, found.subject, found.evidence["rows"], found.evidence["clicks"]) == ("control-totals", "rows", 1, 1)


def test_content_hash_ignores_the_id_and_sees_every_column() -> None:
    data = between(log(9), 0, 1)
    base = content_hash(data)
    np.testing.assert_array_equal(base, content_hash(replace(data, row_id=data.row_id + 5)))
    for name, values in data.columns.items():
        changed = values.copy()
        changed[0] = "new" if values.dtype.kind == "U" else 99
        differs = content_hash(with_column(data, name, changed)) != base
        assert differs[0]
        assert differs.sum() == 1


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=4, max_size=40))
def test_auc_equals_the_share_of_ordered_pairs(rows: list[tuple[int, bool]]) -> None:
    values, label = np.array([v for v, _ in rows], float), np.array([c for _, c in rows])
    if label.sum() < 2 or (~label).sum() < 2:
        assert np.isnan(auc(values, label)[0])
        return
    pairs = [(p > n) + 0.5 * (p == n) for p in values[label] for n in values[~label]]
    assert auc(values, label)[0] == pytest.approx(float(np.mean(pairs)))
