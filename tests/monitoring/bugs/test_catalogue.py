"""Every entry of the catalogue: its fields are sound, and its injection keeps the promises that runners rely on."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_rows import Linear, features, rows_for, same

from infra.errors import ExplainedError
from monitoring.bugs.catalogue import BUGS, bug
from monitoring.bugs.entry import Bug, Scene
from monitoring.bugs.outside import INTENSITIES, faults
from monitoring.classes import CLASSES

TABLES = [pytest.param(entry, name, id=f"{entry.code}-{name}") for entry in BUGS for name in entry.tables if name != "model"]
MODELS = [pytest.param(entry, id=entry.code) for entry in BUGS if entry.stage == "model"]
# What the findings of the daily drift check still call it.
OLD_NAMES = {"feature-drift": "covariate-shift"}
GROWS = ("LEAK05", "LEAK06", "LEAK08", "LEAK09", "DATA03", "DATA04", "DRIFT04", "DRIFT06", "DATA06")
KEY = {"clicks": "click_id", "impressions": "impression_id", "requests": "request_id", "predictions": "impression_id"}


@pytest.mark.parametrize("entry", BUGS, ids=lambda entry: entry.code)
def test_the_fields_of_an_entry_are_sound(entry: Bug) -> None:
    entry = replace(entry, bug_class=OLD_NAMES.get(entry.bug_class, entry.bug_class))
    assert list(faults(entry)) == []
    assert entry.subject not in entry.also or len(entry.also) > 1
    assert entry.doses["strong"] > entry.doses["mild"] > entry.doses["trace"]
    assert bug(entry.code.lower()).code == bug(entry.name.upper()).code == entry.code


def test_codes_and_names_are_there_once_and_every_class_has_a_bug() -> None:
    assert len({entry.code for entry in BUGS}) == len({entry.name for entry in BUGS}) == len(BUGS)
    assert {OLD_NAMES.get(entry.bug_class, entry.bug_class) for entry in BUGS} == {known.slug for known in CLASSES}


def test_bugs_that_are_judged_at_the_gate_enter_before_training() -> None:
    gate = {known.slug for known in CLASSES if known.judged == "gate"}
    for entry in BUGS:
        if OLD_NAMES.get(entry.bug_class, entry.bug_class) in gate:
            assert entry.stage in ("feature", "training")
        else:
            assert entry.stage != "training"


def test_an_unknown_bug_or_intensity_lists_what_there_is() -> None:
    with pytest.raises(ExplainedError, match=r"LEAK01 \(label-leakage\), .*DRIFT01 \(feature-drift\)"):
        bug("GREMLIN")
    with pytest.raises(KeyError, match="strong, mild, trace"):
        bug("LEAK01").dose("wild")


@pytest.mark.parametrize(("entry", "name"), TABLES)
def test_an_injection_is_pure_keeps_the_schema_and_does_nothing_at_dose_0(entry: Bug, name: str) -> None:
    rows, scene = rows_for(entry, name, 600)
    kept = pa.table({c: rows[c].combine_chunks() for c in rows.column_names}, schema=rows.schema)
    assert same(entry.inject(rows, 0.0, scene), rows)
    first, second = (entry.inject(rows, entry.doses["strong"], scene) for _ in range(2))
    assert same(first, second)
    assert same(rows, kept)
    added = set(first.column_names) - set(rows.column_names)
    assert added <= {entry.subject, *entry.also}
    assert first.select(rows.column_names).schema == rows.schema
    assert not same(first.select(rows.column_names), rows) or added
    empty = rows.slice(0, 0)
    assert entry.inject(empty, 0.5, replace(scene, tables={n: t.slice(0, 0) for n, t in scene.tables.items()})).equals(empty)


@pytest.mark.parametrize(("entry", "name"), TABLES)
def test_only_the_stated_columns_change(entry: Bug, name: str) -> None:
    rows, scene = rows_for(entry, name, 600)
    changed = entry.inject(rows, entry.doses["strong"], scene)
    if entry.code in GROWS:
        assert same(changed.slice(0, rows.num_rows).select(rows.column_names), rows) or entry.code == "DRIFT06"
        return
    if changed.num_rows < rows.num_rows:  # some are lost, and the others are as they were
        key = rows.column_names[0]
        assert same(changed, rows.filter(pa.compute.is_in(rows[key], changed[key])))
        return
    stated = {entry.subject, *entry.also, "event_timestamp", "available_at", "arrived_at"} | {
        "LEAK07": {"part"}, "SERVE07": {"p"},
    }.get(entry.code, set())  # fmt: skip
    assert {c for c in rows.column_names if not same(rows.select([c]), changed.select([c]))} <= stated


@pytest.mark.parametrize(("entry", "name"), [param for param in TABLES if param.values[0].stage != "training"])
@settings(max_examples=6, deadline=None)
@given(cuts=st.lists(st.integers(0, 240), max_size=5), seed=st.integers(0, 99), intensity=st.sampled_from(INTENSITIES[:2]))
def test_chunks_of_any_size_fare_like_the_whole(entry: Bug, name: str, cuts: list[int], seed: int, intensity: str) -> None:
    rows, scene = rows_for(entry, name, 240, seed)
    bounds = sorted({0, 240, *cuts})
    unit = np.arange(rows.num_rows) // 20 * 20 if name == "candidates" else np.arange(rows.num_rows)
    parts = []
    for low, high in pairwise(bounds):
        if entry.stage == "market":  # an hour's impressions, and the clicks on them
            shown = scene.tables["impressions"].slice(low, high - low)
            part = rows.filter(pa.compute.is_in(rows["impression_id"], shown["impression_id"]))
            parts.append(entry.inject(part, entry.doses[intensity], replace(scene, tables={"impressions": shown})))
        else:
            part = rows.filter(pa.array((unit >= low) & (unit < high)))
            parts.append(entry.inject(part, entry.doses[intensity], scene))
    whole, pieces = entry.inject(rows, entry.doses[intensity], scene), pa.concat_tables(parts)
    key = KEY.get(name)
    if key:  # rows that are added stand behind those they are added to
        order = [(key, "ascending"), *((c, "ascending") for c in ("arrived_at",) if c in rows.column_names)]
        whole, pieces = whole.sort_by(order), pieces.sort_by(order)
    assert same(whole, pieces)


@pytest.mark.parametrize("entry", MODELS)
def test_a_broken_artefact_declares_the_sound_one_and_fares_alike_row_by_row(entry: Bug) -> None:
    rows = features(400, np.random.default_rng(5))
    columns = {c: rows[c].to_numpy(zero_copy_only=False) for c in rows.column_names}
    champion, slot = Linear(), np.arange(400) % 4
    scene = Scene("model", seed=3, artefacts={"previous": Linear(0.4), "logistic": Linear(2.0)})
    assert entry.inject(champion, 0.0, scene) is champion
    broken = entry.inject(champion, entry.doses["strong"], scene)
    assert (broken.hash, broken.encoder_hash, broken.weight) == (champion.hash, champion.encoder_hash, champion.weight)
    s = broken.score(columns)
    assert s.dtype == np.float32
    p = broken.probability(s, slot)
    assert not np.array_equal(s, champion.score(columns))
    assert np.array_equal(champion.score(columns), Linear().score(columns))
    for at in (slice(0, 1), slice(1, 90), slice(90, 400)):
        part = broken.score({name: values[at] for name, values in columns.items()})
        assert np.array_equal(part, s[at])
        assert np.array_equal(broken.probability(part, slot[at]), p[at])
