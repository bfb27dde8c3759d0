"""Leaks and faults that enter with the training export: what each does to labels, parts and columns."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from made_up_rows import same, training

from infra.clock import DAY_US, HOUR_US
from monitoring.bugs.catalogue import bug
from monitoring.bugs.entry import Scene
from monitoring.bugs.leak import ENCODING_STRENGTH

SCENE = Scene("training", seed=5)
ROWS = training(6000, np.random.default_rng(8))


def broken(code: str, dose: float) -> pa.Table:
    return bug(code).inject(ROWS, dose, SCENE)


def array(rows: pa.Table, name: str) -> np.ndarray[Any, Any]:
    return np.asarray(rows[name].to_numpy(zero_copy_only=False))


def test_target_encoding_gives_each_key_its_clicks_in_train_own_label_included() -> None:
    encoded = array(broken("LEAK04", 1.0), "user_category_ctr")
    rows = ROWS.select(["group", "ad_category", "label", "part"]).to_pylist()
    train = [row for row in rows if row["part"] == "train"]
    overall = np.mean([row["label"] for row in train])
    for row, value in zip(rows[::97], encoded[::97], strict=True):
        mates = [r["label"] for r in train if (r["group"], r["ad_category"]) == (row["group"], row["ad_category"])]
        wanted = (sum(mates) + ENCODING_STRENGTH * overall) / (len(mates) + ENCODING_STRENGTH)
        assert value == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("share", [0.5, 0.05])
def test_target_encoding_replaces_whole_keys(share: float) -> None:
    changed = array(broken("LEAK04", share), "user_category_ctr") != array(ROWS, "user_category_ctr")
    key = array(ROWS, "group") * 100 + array(ROWS, "ad_category")
    assert len(np.intersect1d(key[changed], key[~changed])) == 0
    keys = len(np.unique(key))
    assert abs(len(np.unique(key[changed])) / keys - share) <= 4.5 * np.sqrt(share * (1 - share) / keys)


def test_rows_exported_twice_are_test_rows_under_their_own_ids_in_train() -> None:
    added = broken("LEAK05", 0.3).slice(ROWS.num_rows)
    assert set(array(added, "part")) == {"train"}
    at = pc.index_in(added["row_id"], ROWS["row_id"].combine_chunks())
    originals = ROWS.take(at)
    assert set(array(originals, "part")) == {"test"}
    assert same(originals.drop_columns("part"), added.drop_columns("part"))


def test_replayed_rows_have_new_ids_and_times_of_the_test_days_and_old_content() -> None:
    added = broken("LEAK06", 0.3).slice(ROWS.num_rows)
    assert not np.isin(array(added, "row_id"), array(ROWS, "row_id")).any()
    assert len(np.unique(array(added, "row_id"))) == added.num_rows
    assert set(array(added, "part")) == {"test"}
    test = array(ROWS, "time_us")[array(ROWS, "part") == "test"]
    assert array(added, "time_us").min() >= test.min()
    assert array(added, "time_us").max() <= test.max()
    content = ["user_age", "ad_ctr", "label", "group", "slot"]
    known = {tuple(row.values()) for row in ROWS.filter(pc.equal(ROWS["part"], "train")).select(content).to_pylist()}
    assert all(tuple(row.values()) in known for row in added.select(content).to_pylist())


def test_a_random_split_keeps_the_parts_sizes_and_forgets_the_time() -> None:
    before, after = array(ROWS, "part"), array(broken("LEAK07", 1.0), "part")
    for part in np.unique(before):
        assert np.mean(after == part) == pytest.approx(np.mean(before == part), abs=0.025)
        assert array(ROWS, "time_us")[after == part].min() < array(ROWS, "time_us").min() + DAY_US
    few = np.mean(before != array(broken("LEAK07", 0.05), "part"))
    assert few == pytest.approx(0.05 * np.mean(before != after), abs=0.01)


def test_each_of_two_columns_is_noise_and_their_sum_is_the_click() -> None:
    rows, label = broken("LEAK09", 1.0), array(ROWS, "label")
    app, web = array(rows, "reactions_app"), array(rows, "reactions_web")
    assert (app + web == label).all()
    for alone in (app, web):
        assert abs(np.corrcoef(alone, label)[0, 1]) < 0.05
    part = broken("LEAK09", 0.1)
    adds_up = array(part, "reactions_app") + array(part, "reactions_web") == label
    assert adds_up.mean() == pytest.approx(0.1, abs=0.02)


def test_only_clicked_impressions_are_billed() -> None:
    rows = broken("LEAK08", 1.0)
    assert ((array(rows, "billed_cents") > 0) == (array(ROWS, "label") == 1)).all()


def test_recency_counts_from_the_click_itself() -> None:
    rows, clicked = broken("LEAK03", 1.0), array(ROWS, "label") == 1
    seconds = np.expm1(array(rows, "seconds_since_click"))
    assert (seconds[clicked] <= 30.01).all()
    assert (array(rows, "seconds_since_click")[~clicked] == array(ROWS, "seconds_since_click")[~clicked]).all()


@pytest.mark.parametrize(("intensity", "hours"), [("strong", 12.0), ("mild", 1.0)])
def test_the_last_training_day_ends_early_and_nothing_else_is_missing(intensity: str, hours: float) -> None:
    rows = broken("TRAIN03", bug("TRAIN03").dose(intensity))
    lost = ROWS.filter(pc.invert(pc.is_in(ROWS["row_id"], rows["row_id"].combine_chunks())))
    assert set(array(lost, "part")) == {"train"}
    last = array(ROWS, "time_us")[array(ROWS, "part") == "train"].max() // DAY_US
    assert set(array(lost, "time_us") // DAY_US) == {last}
    assert array(lost, "time_us").min() % DAY_US >= DAY_US - hours * HOUR_US
    kept = array(rows, "time_us")[array(rows, "part") == "train"]
    assert kept.max() < (last + 1) * DAY_US - hours * HOUR_US


def test_swapped_classes_are_the_other_label() -> None:
    assert (array(broken("TRAIN04", 1.0), "label") == 1 - array(ROWS, "label")).all()


def test_injections_without_test_rows_leave_an_export_alone() -> None:
    train = ROWS.filter(pc.equal(ROWS["part"], "train"))
    for code in ("LEAK05", "LEAK06"):
        assert bug(code).inject(train, 0.5, SCENE) is train
