"""Doses: an injection changes the share of rows that its entry says, and reaches the rows that its story is about."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from made_up_rows import DAY, Linear, features, of_schema, rows_for, same

from features.schemas import PREDICTIONS, TIME
from infra.clock import DAY_US, MINUTE_US
from monitoring.bugs.catalogue import BUGS, bug
from monitoring.bugs.entry import Bug, Scene
from monitoring.bugs.outside import INTENSITIES

N = 20_000
# Doses that are no shares of rows have tests of their own, here or with their story.
OTHERWISE = ("LEAK01", "LEAK04", "LEAK07", "LEAK09", "DRIFT06", "DRIFT07", "DRIFT08", "DATA09", "TRAIN03", "SERVE07")
SHARES = [
    pytest.param(entry, name, id=f"{entry.code}-{name}")
    for entry in BUGS
    for name in entry.tables
    if entry.code not in OTHERWISE and entry.stage != "model"
]
# The part of the rows that a full dose changes, where that isn't every row: who there is to change, in made-up rows.
REACH = {
    "LEAK03": 0.2,  # clicked
    "LEAK05": 0.1,  # in test
    "LEAK06": 0.7,  # in train
    "LEAK08": 0.2,
    "SKEW06": 0.5,  # two of four countries
    "SKEW14": 0.2,  # nulls
    "DRIFT01": 0.75,  # three of four devices
    "DRIFT03": 0.3,  # clicks, of impressions
    "DRIFT04": 0.3,
    "DRIFT05": 0.3 / 6,  # one of six placements
    "DATA02": 0.3 / 4,
    "DATA05": 1.0,
    "DATA06": 0.7 * 0.9,  # nine in ten of what had no click
    "DATA11": 0.25,
    "EXP01": 0.5,
    "EXP02": 0.5,
    "EXP03": 0.5,
    "TRAIN02": 0.3 * 0.3,  # randomised and clicked
}


def changed(before: pa.Table, after: pa.Table) -> int:
    """How many rows are other than they were, gone, or new."""
    if before.num_rows != after.num_rows:
        return abs(after.num_rows - before.num_rows)
    if before.num_columns != after.num_columns:
        return int((after["billed_cents"].to_numpy() > 0).sum())
    differs = np.zeros(before.num_rows, np.bool_)
    for name in before.column_names:
        if not pa.types.is_list(before[name].type):
            differs |= _differs(before[name], after[name])
    return int(differs.sum())


def _differs(one: pa.ChunkedArray, other: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    unequal = pc.fill_null(pc.not_equal(one, other), True).to_numpy()
    if pa.types.is_floating(one.type):
        unequal &= ~(np.isnan(one.to_numpy()) & np.isnan(other.to_numpy()))
    return unequal


@pytest.mark.parametrize(("entry", "name"), SHARES)
def test_a_dose_is_the_share_of_the_rows_that_can_change(entry: Bug, name: str) -> None:
    rows, scene = rows_for(entry, name, N)
    whole = changed(rows, entry.inject(rows, 1.0, scene))
    reach = REACH.get(entry.code, 1.0)
    assert whole / N == pytest.approx(reach, rel=0.12)  # a permutation of topics leaves one or two in place
    for intensity in INTENSITIES:
        share = entry.doses[intensity]
        found = changed(rows, entry.inject(rows, share, scene)) / whole
        # Rows of one user, ad or request fare alike: up to 20 candidates' luck is hashed apart, so rows are the unit.
        assert abs(found - share) <= 4.5 * np.sqrt(share * (1 - share) / whole) + 1 / whole


@pytest.mark.parametrize(("entry", "name"), SHARES)
def test_another_seed_hits_other_rows(entry: Bug, name: str) -> None:
    rows, scene = rows_for(entry, name, 600)
    other = Scene(scene.table, scene.seed + 1, scene.onset_us, scene.tables)
    share = 0.4
    assert not same(entry.inject(rows, share, scene), entry.inject(rows, share, other))


@pytest.mark.parametrize("code", ["SERVE03", "SERVE04", "SERVE05"])
@pytest.mark.parametrize("intensity", INTENSITIES)
def test_a_broken_model_scores_its_share_of_users(code: str, intensity: str) -> None:
    rows = features(N, np.random.default_rng(2))
    columns = {c: rows[c].to_numpy(zero_copy_only=False) for c in rows.column_names}
    share, scene = bug(code).dose(intensity), Scene("model", 4, artefacts={"previous": Linear(0.3)})
    found = np.mean(bug(code).inject(Linear(), share, scene).score(columns) != Linear().score(columns))
    assert abs(found - share) <= 4.5 * np.sqrt(share * (1 - share) / N)


@pytest.mark.parametrize("intensity", INTENSITIES)
def test_minutes_missing_takes_whole_blocks_of_ten_minutes(intensity: str) -> None:
    days, entry = 60, bug("DATA09")
    rows = of_schema(PREDICTIONS, 100 * days, np.random.default_rng(3))
    at = pa.array(DAY + np.arange(100 * days) * DAY_US // 100)
    rows = rows.set_column(rows.schema.get_field_index("event_timestamp"), rows.schema.field("event_timestamp"), at.cast(TIME))
    kept = entry.inject(rows, entry.dose(intensity), Scene("predictions", 5))
    block = {
        name: pc.cast(t["event_timestamp"], pa.int64()).to_numpy() // (10 * MINUTE_US)
        for name, t in (("all", rows), ("kept", kept))
    }
    lost = np.setdiff1d(block["all"], block["kept"])
    assert kept.num_rows == np.sum(~np.isin(block["all"], lost))
    share, blocks = entry.dose(intensity), len(np.unique(block["all"]))
    assert abs(len(lost) / blocks - share) <= 4.5 * np.sqrt(share * (1 - share) / blocks)


@pytest.mark.parametrize(("intensity", "factor"), [("strong", 10.0), ("mild", 1 / 0.9), ("trace", 1 / 0.995)])
def test_uncorrected_downsampling_multiplies_the_odds(intensity: str, factor: float) -> None:
    rows = features(500, np.random.default_rng(2))
    columns = {c: rows[c].to_numpy(zero_copy_only=False) for c in rows.column_names}
    s = bug("TRAIN01").inject(Linear(), bug("TRAIN01").dose(intensity), Scene("model", 1)).score(columns)
    np.testing.assert_allclose(np.exp(s - Linear().score(columns).astype(np.float64)), factor, rtol=1e-5)


@pytest.mark.parametrize("intensity", INTENSITIES)
def test_coarse_scores_lie_on_their_grid(intensity: str) -> None:
    rows, scene = rows_for(bug("SERVE07"), "predictions", 2000)
    step = bug("SERVE07").dose(intensity)
    p = bug("SERVE07").inject(rows, step, scene)["p"].to_numpy().astype(np.float64)
    before = rows["p"].to_numpy()
    assert np.abs(p / step - np.round(p / step)).max() < 1e-3
    assert p.min() > 0
    assert np.abs(p - before)[before > step].max() <= step / 2 * 1.001
    rows = features(500, np.random.default_rng(2))
    columns = {c: rows[c].to_numpy(zero_copy_only=False) for c in rows.column_names}
    logit_step = bug("SERVE06").dose(intensity)
    s = bug("SERVE06").inject(Linear(), logit_step, scene).score(columns).astype(np.float64)
    assert np.abs(s / logit_step - np.round(s / logit_step)).max() < 1e-3
    assert np.abs(s - Linear().score(columns)).max() <= logit_step / 2 * 1.001
