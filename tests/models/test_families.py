"""What every family promises: learns, scores the same however it is asked, continues, and survives a trip through a folder."""

import json
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pytest
from synthetic import SPEC, Clicks, clicks, with_columns

from models import plots
from models.artefact import ArtefactError, load
from models.contract import Dataset
from models.encode import Encoder
from models.evaluate import report
from models.family import BASE_RATE, FAMILIES, family
from models.importance import permutation_importance
from models.metrics import logit_log_loss, normalised_entropy, signal_captured
from models.position import PositionBias, learn_position
from models.train import Trained, train_family


class Setting(NamedTuple):
    train: Dataset
    valid: Dataset
    calibrate: Dataset
    test: Clicks
    encoder: Encoder
    position: PositionBias
    trained: dict[str, Trained]


@pytest.fixture(scope="module")
def setting() -> Setting:
    train, valid, calibrate = clicks(40_000, 1, 7).data, clicks(8000, 2, 1, 7).data, clicks(8000, 3, 1, 8).data
    encoder = Encoder.learn(train.columns, SPEC)
    position = learn_position(train, encoder)
    trained = {
        name: train_family(name, train, valid, calibrate, SPEC, 1, position, encoder=encoder) for name in (*FAMILIES, BASE_RATE)
    }
    return Setting(train, valid, calibrate, clicks(20_000, 4, 2, 9), encoder, position, trained)


# Share of the knowable signal on this set, measured when the families were written (logistic 0.64, xgboost 0.83, dcnv2
# 0.82), less a margin for other versions of the libraries.  The base rate's own share is what position alone tells.
FLOORS = {BASE_RATE: 0.30, "logistic": 0.58, "xgboost": 0.76, "dcnv2": 0.72}


@pytest.mark.parametrize("name", [*FAMILIES, BASE_RATE])
def test_each_family_captures_its_share_of_the_signal_and_is_calibrated(setting: Setting, name: str) -> None:
    artefact = setting.trained[name].artefact
    data, truth = setting.test
    p = artefact.probability(artefact.score(data.columns), data.slot)
    assert signal_captured(p, truth) > FLOORS[name]
    found = report(p, data)["calibration"]
    assert found["low"] < 1.1
    assert found["high"] > 0.9


@pytest.mark.parametrize("name", [*FAMILIES, BASE_RATE])
def test_row_order_and_batch_size_do_not_change_scores(setting: Setting, name: str) -> None:
    artefact, data = setting.trained[name].artefact, setting.test.data.take(np.arange(300))
    whole = artefact.score(data.columns)
    assert whole.dtype == np.float32
    order = np.random.default_rng(0).permutation(300)
    assert artefact.score(data.take(order).columns) == pytest.approx(whole[order], abs=2e-6)
    one_by_one = [artefact.score(data.take(np.array([row])).columns)[0] for row in range(50)]
    assert one_by_one == pytest.approx(whole[:50], abs=2e-6)
    assert len(artefact.score(data.take(np.arange(0)).columns)) == 0


@pytest.mark.parametrize("name", [*FAMILIES, BASE_RATE])
def test_a_saved_artefact_scores_the_same_to_the_last_bit(setting: Setting, name: str, tmp_path: Path) -> None:
    artefact, data = setting.trained[name].artefact, setting.test.data
    saved = artefact.save(tmp_path)
    assert artefact.save(tmp_path) == saved == artefact.hash
    again = load(tmp_path, saved)
    assert (again.score(data.columns) == artefact.score(data.columns)).all()
    assert again.metadata == json.loads(json.dumps(artefact.metadata))
    assert again.configuration_hash == artefact.configuration_hash
    again._saved.clear()
    assert again.hash == saved, "what was loaded must save to the same content"
    assert [path.name for path in tmp_path.iterdir()] == [saved]
    assert not [path for path in (tmp_path / saved).iterdir() if path.suffix in (".pkl", ".pt", ".pickle")]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_warm_start_continues_from_the_old_model(setting: Setting, name: str) -> None:
    old = setting.trained[name]
    newer = clicks(8000, 11, 2, 7).data
    warm = train_family(name, newer, setting.valid, setting.calibrate, SPEC, 1, setting.position, warm_start=old.artefact)
    cold = train_family(name, newer, setting.valid, setting.calibrate, SPEC, 1, setting.position)
    offset = setting.position.offset(setting.valid.slot)
    before = logit_log_loss(old.artefact.model.score(setting.valid.columns) + offset, setting.valid.label)
    assert warm.fit_report.history[0] == pytest.approx(before, abs=0.003)
    assert warm.fit_report.history[0] < cold.fit_report.history[0]
    assert warm.fit_report.valid_log_loss < cold.fit_report.valid_log_loss + 0.0005
    if name == "xgboost":
        grown, ungrown = (cast(Any, found.artefact.model).booster for found in (warm, old))
        assert grown.num_boosted_rounds() > ungrown.num_boosted_rounds()


@pytest.mark.parametrize("name", FAMILIES)
def test_a_warm_start_from_another_family_is_refused(setting: Setting, name: str) -> None:
    other = setting.trained[BASE_RATE].artefact
    with pytest.raises(TypeError, match="cannot start from a base_rate model"):
        train_family(name, setting.valid, setting.valid, setting.calibrate, SPEC, 1, setting.position, warm_start=other)


@pytest.mark.parametrize("name", [*FAMILIES, BASE_RATE])
def test_an_update_moves_predictions_towards_what_was_seen_and_leaves_the_original_alone(setting: Setting, name: str) -> None:
    artefact = setting.trained[name].artefact
    rows = setting.test.data.take(np.arange(400))
    news = with_columns(rows, ad_id=np.full(400, 777_777), user_id=np.full(400, 888_888))
    clicked = Dataset(news.columns, np.ones(400, np.uint8), news.slot, news.time_us, news.group, news.row_id, news.randomised)
    before = artefact.score(news.columns)
    updated = artefact.updated(clicked)
    assert updated.score(news.columns).mean() > before.mean() + 0.01
    assert (artefact.score(news.columns) == before).all()
    assert updated.hash != artefact.hash


@pytest.mark.parametrize("name", FAMILIES)
def test_unknown_categories_and_missing_numbers_give_finite_scores(setting: Setting, name: str) -> None:
    artefact, data = setting.trained[name].artefact, setting.test.data.take(np.arange(64))
    columns = {}
    for column, values in data.columns.items():
        if values.dtype.kind == "U":
            columns[column] = np.full(len(values), "never seen before")
        elif values.dtype.kind == "i":
            columns[column] = np.full(values.shape, -1)
        else:
            columns[column] = np.full(len(values), np.nan, np.float32)
    s = artefact.score(columns)
    assert np.isfinite(s).all()
    assert np.abs(s - artefact.score(data.columns).mean()).max() < 5


@pytest.mark.parametrize("name", FAMILIES)
def test_more_of_what_people_like_scores_higher(setting: Setting, name: str) -> None:
    artefact, data = setting.trained[name].artefact, setting.test.data.take(np.arange(2000))
    worse = artefact.score({**data.columns, "ad_ctr": np.full(2000, -1, np.float32)})
    better = artefact.score({**data.columns, "ad_ctr": np.full(2000, 1, np.float32)})
    assert better.mean() > worse.mean() + 0.2


def test_a_damaged_artefact_is_refused_and_the_file_is_named(setting: Setting, tmp_path: Path) -> None:
    saved = setting.trained["logistic"].artefact.save(tmp_path)
    weights = tmp_path / saved / "logistic.npz"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    with pytest.raises(ArtefactError, match=r"logistic\.npz has \d+ bytes instead of \d+: truncated"):
        load(tmp_path, saved)
    weights.write_bytes(whole[:-100] + bytes(100))
    with pytest.raises(ArtefactError, match=r"logistic\.npz has the right length and other content"):
        load(tmp_path, saved)
    weights.unlink()
    with pytest.raises(ArtefactError, match=r"logistic\.npz is missing"):
        load(tmp_path, saved)
    weights.write_bytes(whole)
    manifest = tmp_path / saved / "manifest.json"
    manifest.write_text(manifest.read_text() + " ")
    with pytest.raises(ArtefactError, match="was changed"):
        load(tmp_path, saved)
    with pytest.raises(ArtefactError, match=f"there are \\['{saved}'\\]"):
        load(tmp_path, "nothing")


def test_rows_that_cannot_teach_are_refused(setting: Setting) -> None:
    silent = setting.train.take(setting.train.label == 0)
    with pytest.raises(ValueError, match=r"training rows: \d+ with 0 clicks"):
        train_family("logistic", silent, setting.valid, setting.calibrate, SPEC, 1)
    with pytest.raises(KeyError, match="no model family 'forest'; there are logistic, xgboost, dcnv2"):
        family("forest")


@pytest.mark.parametrize("name", FAMILIES)
def test_importance_finds_what_matters(setting: Setting, name: str) -> None:
    found = permutation_importance(setting.trained[name].artefact, setting.test.data, rows=4000)
    rises = {row["feature"]: row["ne_rise"] for row in found}
    assert set(rises) == set(SPEC.names)
    assert rises["seen"] < 0.01 < max(rises["ad_ctr"], rises["ad_id"])


def test_plots_are_written_as_png_with_a_transparent_background(setting: Setting, tmp_path: Path) -> None:
    artefact, data = setting.trained["logistic"].artefact, setting.test.data
    p = artefact.probability(artefact.score(data.columns), data.slot)
    rows = [{"feature": "a", "ne_rise": 0.1, "spread": 0.01}, {"feature": "b", "ne_rise": 0.0, "spread": 0.0}]
    files = [
        plots.reliability(tmp_path / "reliability.png", p, data),
        plots.ne_by_day(tmp_path / "ne.png", {"logistic": p, "base": np.full(len(p), data.label.mean())}, data),
        plots.importance(tmp_path / "importance.png", rows),
    ]
    for file in files:
        content = file.read_bytes()
        assert content.startswith(b"\x89PNG")
        assert content[25] == 6, "colour type 6: with an alpha channel"
    assert normalised_entropy(p, data.label) < 1
