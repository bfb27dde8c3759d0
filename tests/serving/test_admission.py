"""Who may get traffic: real models of a small market, and what can be wrong with them."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_models import FAMILIES, SPEC, EveryFamily

from features.online import OnlineSource
from infra.lake import watermark_us
from models.artefact import MANIFEST, Artefact, load
from models.baseline import BaseRate
from models.contract import FeatureSpec
from models.encode import Encoder, Vocabulary
from serving.admission import ROWS, Admission, Probe, examine, probe


@pytest.fixture(scope="module")
def market(every_family: EveryFamily) -> EveryFamily:
    return every_family


@pytest.fixture(scope="module")
def asked(market: EveryFamily) -> Iterator[Probe]:
    home, hashes = market
    source = OnlineSource(home, SPEC.entities, SPEC.context)
    yield probe(load(home.artefacts, hashes["logistic"]), source, watermark_us(home))
    source.close()


@pytest.fixture
def root(market: EveryFamily, tmp_path: Path) -> Path:
    """A copy of the artefacts to damage."""
    shutil.copytree(market[0].artefacts, tmp_path / "artefacts")
    return tmp_path / "artefacts"


def rehashed(folder: Path) -> str:
    """The artefact whose files were changed, under the name that its content has now."""
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for path in sorted(folder.iterdir())
        if path.name != MANIFEST
    }
    manifest = json.dumps({"files": files}, indent=1, sort_keys=True).encode()
    (folder / MANIFEST).write_bytes(manifest)
    name = hashlib.sha256(manifest).hexdigest()[:16]
    os.replace(folder, folder.parent / name)
    return name


def overwritten(folder: Path, file: str, change: Callable[[dict[str, Any]], None]) -> str:
    """The artefact with arrays of an npz changed."""
    with np.load(folder / file) as arrays:
        kept: dict[str, Any] = {name: arrays[name].copy() for name in arrays.files}
    change(kept)
    np.savez(folder / file, **kept)
    return rehashed(folder)


def refused(found: Admission) -> str:
    """The reasons, of an artefact that was refused."""
    assert found.artefact is None
    assert found.reasons
    return "; ".join(found.reasons)


# Good ones


@pytest.mark.parametrize("family", FAMILIES)
def test_a_sound_model_is_admitted_and_comes_loaded(market: EveryFamily, asked: Probe, family: str) -> None:
    home, hashes = market
    found = examine(home.artefacts, hashes[family], asked)
    assert found.reasons == ()
    assert found.artefact is not None
    assert (found.artefact.family, found.artefact.hash) == (family, hashes[family])


def test_the_probe_is_the_same_every_time_and_like_the_homes_own_rows(market: EveryFamily, asked: Probe) -> None:
    home, hashes = market
    source = OnlineSource(home, SPEC.entities, SPEC.context)
    again = probe(load(home.artefacts, hashes["logistic"]), source, watermark_us(home))
    source.close()
    for name, values in asked.columns.items():
        np.testing.assert_array_equal(values, again.columns[name], err_msg=name)
        assert len(values) == ROWS
    assert asked.varies
    assert np.isnan(asked.columns["ad_ctr"]).sum() == np.sum(asked.columns["ad_id"] == 2**62) == ROWS // 16
    assert len(np.unique(asked.columns["device"])) > 2
    assert np.nanstd(asked.columns["user_ctr"]) > 0


def test_a_model_of_fewer_columns_is_admitted(market: EveryFamily, asked: Probe, tmp_path: Path) -> None:
    home, hashes = market
    model = load(home.artefacts, hashes["logistic"])
    narrow = constant(model, FeatureSpec(("ad_id",), ("ad_ctr",)), asked)
    name = replace(narrow, service="ctr_batch").save(tmp_path)
    assert examine(tmp_path, name, replace(asked, varies=False)).reasons == ()


# Damaged ones


@pytest.mark.parametrize("family", FAMILIES)
def test_a_truncated_file_is_refused_whichever_it_is(market: EveryFamily, asked: Probe, root: Path, family: str) -> None:
    name = market[1][family]
    for path in sorted((root / name).iterdir()):
        whole = path.read_bytes()
        path.write_bytes(whole[:-1])
        assert path.name in refused(examine(root, name, asked))
        path.write_bytes(whole)
    assert examine(root, name, asked).reasons == ()


def test_what_is_not_there_is_refused(asked: Probe, root: Path) -> None:
    for name in ("0" * 16, "..", "../artefacts", ""):
        assert "no artefact" in refused(examine(root, name, asked)) or "does not hash to" in refused(examine(root, name, asked))


def test_files_that_hash_rightly_and_hold_nonsense_are_refused(market: EveryFamily, asked: Probe, root: Path) -> None:
    folder = root / market[1]["logistic"]
    (folder / "encoder.json").write_text("{}")
    assert "can't be loaded: KeyError" in refused(examine(root, rehashed(folder), asked))
    folder = root / market[1]["xgboost"]
    (folder / "trees.ubj").write_bytes(b"no trees")
    assert "can't be loaded" in refused(examine(root, rehashed(folder), asked))


NAN = {
    "logistic": ("logistic.npz", "weights"),
    "xgboost": ("trees.npz", "base"),
    "dcnv2": ("network.npz", None),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_that_are_no_numbers_are_refused(market: EveryFamily, asked: Probe, root: Path, family: str) -> None:
    file, array = NAN[family]

    def ruin(arrays: dict[str, Any]) -> None:
        for name in arrays:
            if array in (None, name):
                arrays[name] = np.full_like(arrays[name], np.nan)

    name = overwritten(root / market[1][family], file, ruin)
    assert refused(examine(root, name, asked)).startswith(f"{ROWS} of {ROWS} scores on the probe are not finite")


def test_one_weight_that_is_no_number_is_refused(market: EveryFamily, asked: Probe, root: Path) -> None:
    """Of the unknown user: most rows are answered well."""

    def ruin(arrays: dict[str, Any]) -> None:
        model = load(root, market[1]["logistic"]).model
        place = model.encoder.spec.categorical.index("user_id")
        arrays["weights"][model.starts[place]] = np.nan  # type: ignore[attr-defined]

    name = overwritten(root / market[1]["logistic"], "logistic.npz", ruin)
    found = refused(examine(root, name, asked))
    assert "scores on the probe are not finite" in found
    assert not found.startswith(f"{ROWS} of")


def test_a_certain_model_is_refused(market: EveryFamily, asked: Probe, root: Path) -> None:
    model = load(root, market[1]["logistic"])
    sure = replace(model, calibrator=replace(model.calibrator, intercept=40.0), _saved=[])
    assert f"{ROWS} of {ROWS} probabilities on the probe are not between 0 and 1" in refused(
        examine(root, sure.save(root), asked)
    )


def test_one_score_for_all_is_refused_unless_the_champion_gives_one_too(market: EveryFamily, asked: Probe, root: Path) -> None:
    model = load(root, market[1]["logistic"])
    name = constant(model, model.spec, asked).save(root)
    assert "one score" in refused(examine(root, name, asked))
    home = market[0]
    source = OnlineSource(home, SPEC.entities, SPEC.context)
    plain = probe(load(root, name), source, watermark_us(home))
    source.close()
    assert not plain.varies
    assert examine(root, name, plain).reasons == ()


def constant(model: Artefact, spec: FeatureSpec, asked: Probe) -> Artefact:
    """A model of some columns that gives every row one score."""
    flat = BaseRate(Encoder.learn(asked.columns, spec, min_count=1))
    flat.level = -3.0
    return replace(model, model=flat, _saved=[])


# Other people's schemas


def test_columns_that_this_home_does_not_serve_are_named(market: EveryFamily, asked: Probe, root: Path) -> None:
    model = load(root, market[1]["logistic"])
    columns = {**asked.columns, "weather": np.zeros(ROWS, np.float32), "moon": np.zeros(ROWS, np.float32)}
    spec = replace(model.spec, numeric=(*model.spec.numeric, "weather", "moon"))
    name = constant(model, spec, replace(asked, columns=columns)).save(root)
    assert "needs the columns weather, moon, which this home does not serve" in refused(examine(root, name, asked))


def test_a_column_for_another_use_is_refused(market: EveryFamily, asked: Probe, root: Path) -> None:
    model = load(root, market[1]["logistic"])
    spec = FeatureSpec((*model.spec.categorical, "user_age"), model.spec.numeric[1:], model.spec.sequence)
    name = constant(model, spec, asked).save(root)
    assert "takes user_age for categorical, which is numeric here" in refused(examine(root, name, asked))


def test_a_vocabulary_of_another_type_is_refused(market: EveryFamily, asked: Probe, root: Path) -> None:
    """Devices as numbers: every value would be unknown, and no score would tell."""
    model = load(root, market[1]["logistic"])
    flat = constant(model, model.spec, asked)
    numbers = Vocabulary(np.arange(3), np.arange(1, 4))
    encoder = replace(flat.encoder, vocabularies={**flat.encoder.vocabularies, "device": numbers})
    broken = BaseRate(encoder)
    name = replace(flat, model=broken, _saved=[]).save(root)
    assert "takes device for numbers, which is text here" in refused(examine(root, name, asked))
