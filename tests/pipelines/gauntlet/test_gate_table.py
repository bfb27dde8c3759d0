"""The gate's table, small: bugs through their interface, exports there and back, and a blind audit."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from features.ids import uniform
from models.contract import Dataset
from monitoring.bugs.entry import Bug, Scene
from monitoring.findings import Checks
from pipelines.gauntlet import exports, gate
from pipelines.gauntlet.exports import Draw, Export, Site, as_parts, as_table
from pipelines.sources.world.config import WorldConfig

CONFIG = replace(WorldConfig.of("tiny", 1_000_077), days=13)


def both_sides(rows: pa.Table, dose: float, scene: Scene) -> pa.Table:
    """A share of training rows once more, in the test part."""
    luck = uniform(rows["row_id"].to_numpy(), scene.seed)
    again = rows.filter(pa.array((luck < dose) & (np.array(rows["part"].to_pylist()) == "train")))
    again = again.set_column(again.column_names.index("part"), "part", pa.array(["test"] * again.num_rows))
    return pa.concat_tables([rows, again])


def higher(rows: pa.Table, dose: float, scene: Scene) -> pa.Table:
    """A share of the view's rows with more clicks than there were."""
    hit = uniform(rows["user_id"].to_numpy(), scene.seed) < dose
    values = rows["user_clicks_7d"].to_numpy() + hit.astype(np.float32)
    return rows.set_column(rows.column_names.index("user_clicks_7d"), "user_clicks_7d", pa.array(values, pa.float32()))


DOSES = {"strong": 0.3, "mild": 0.05}
BUGS = (
    Bug("T1", "twice", "split-duplicates", "training", ("training",), "split", "", "", DOSES, "share of rows", both_sides),
    Bug(
        "T2", "higher", "point-in-time-violation", "feature", ("user_daily",), "user_clicks_7d", "", "", DOSES, "users", higher
    ),
    Bug("T3", "elsewhere", "prior-shift", "market", ("clicks",), "clicks", "", "", DOSES, "factor", lambda rows, *_: rows),
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site.make(tmp_path_factory.mktemp("site"), CONFIG)


def test_the_table_counts_what_was_blocked_and_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "_worlds", lambda *_: [CONFIG])
    seen: list[Export] = []

    def watched(export: Export) -> Checks:
        seen.append(export)
        return judged(export)

    judged = gate.judged
    monkeypatch.setattr(gate, "judged", watched)
    result = json.loads(json.dumps(gate.run(tmp_path / "gate", BUGS, 5, bad=4, good=6), allow_nan=False))
    assert len(seen) == 10
    assert (result["bad_blocked"]["hits"], result["bad_blocked"]["of"]) == (4, 4)
    assert (result["good_blocked"]["hits"], result["good_blocked"]["of"]) == (0, 6)
    assert result["good_blocked"]["high"] < 0.5
    assert set(result["by_class"]) == {"split-duplicates", "point-in-time-violation"}  # the third is judged on the log
    assert all(found["named"] == found["of"] == 2 for found in result["by_class"].values())
    assert result["misses"] == result["false_alarms"] == []
    assert not (tmp_path / "gate").exists()


def test_a_miss_is_told_when_its_world_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole run ended in an error over one missed export with a signal made from the world's truth."""
    monkeypatch.setattr(gate, "_worlds", lambda *_: [CONFIG])
    monkeypatch.setattr(exports, "CHANGES", {name: exports.CHANGES[name] for name in ("noise", "novel")})
    idle = replace(BUGS[1], inject=lambda rows, *_: rows)
    result = gate.run(tmp_path / "gate", (idle,), 5, bad=4, good=1)
    assert len(result["misses"]) == 4
    assert any("novel" in miss["changes"] for miss in result["misses"])
    assert all(miss["rows"] >= 4_500 for miss in result["misses"])


def test_an_export_survives_the_way_to_a_table_and_back(site: Site) -> None:
    parts = Draw.of(site, np.random.default_rng(1)).parts
    again = as_parts(as_table(parts))
    assert list(again) == [name for name in parts if len(parts[name])]
    for name, part in again.items():
        for field in ("label", "slot", "time_us", "group", "row_id"):
            np.testing.assert_array_equal(getattr(part, field), getattr(parts[name], field))
        for column, values in part.columns.items():
            np.testing.assert_array_equal(values, parts[name].columns[column])


def test_draws_differ_and_keep_to_their_scope(site: Site) -> None:
    rng = np.random.default_rng(2)
    draws = [Draw.of(site, rng) for _ in range(8)]
    assert len({draw.scope.span for draw in draws}) > 1
    for draw in draws:
        rows = sum(len(part) for part in draw.parts.values())
        assert rows == draw.scope.holds(site.rows.time_us, site.rows.group).sum() >= 4_500


def test_a_bug_in_the_features_leaves_what_was_accepted_before_as_it_was(site: Site) -> None:
    """Whatever days the two have in common; with none, a whole run ended in an error."""
    rng = np.random.default_rng(4)
    compared = 0
    for _ in range(8):
        draw, export, work = gate._made(gate.Truth(BUGS[1], "strong"), [site], rng)
        assert work is not None
        work.close()
        whole = [name for name, part in export.parts.items() if len(part)]
        values = [(export.parts[name].columns["user_clicks_7d"], draw.parts[name].columns["user_clicks_7d"]) for name in whole]
        assert any((damaged != clean).any() for damaged, clean in values)
        before = draw.history()
        assert (export.reference is None) == (before is None)
        if before is not None and export.reference is not None:
            compared += 1
            assert export.reference.rows == before.rows
            np.testing.assert_array_equal(export.reference.auc, before.auc)
    assert compared


def test_what_a_bug_damages_is_in_the_export(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Good exports may lack columns.  One that lacked the bug's ended a whole run, or counted as damaged without damage."""

    def without(_: Site, rows: Dataset, rng: np.random.Generator) -> Dataset:
        gone = str(rng.choice(["user_clicks_7d", "user_ctr"]))
        return replace(rows, columns={name: values for name, values in rows.columns.items() if name != gone})

    monkeypatch.setattr(exports, "CHANGES", {"fewer": without, "shuffled": exports.CHANGES["shuffled"]})
    rng, lacking = np.random.default_rng(8), 0
    for _ in range(12):
        draw = gate._drawn(BUGS[1], [site], rng)
        lacking += any(name not in draw.parts["train"].columns for name in ("user_clicks_7d", "user_ctr"))
        assert "user_clicks_7d" in draw.parts["train"].columns
    assert lacking  # of the other column
    assert any("user_clicks_7d" not in gate._drawn(None, [site], rng).parts["train"].columns for _ in range(20))


def test_an_error_names_the_bug(site: Site) -> None:
    def bad(rows: pa.Table, dose: float, scene: Scene) -> pa.Table:
        raise KeyError("no such column")

    with pytest.raises(KeyError) as error:
        gate._made(gate.Truth(replace(BUGS[0], inject=bad), "mild"), [site], np.random.default_rng(3))
    assert "bug T1, mild" in error.value.__notes__[0]
