"""Bugs from outside the tree: the examples and the page's own example load and run; what is malformed is named."""

import re
from pathlib import Path

import numpy as np
import pytest
from made_up_rows import rows_for, same

from infra.errors import ExplainedError
from monitoring.bugs.catalogue import BUGS, bug, load

ROOT = Path(__file__).parents[3]
SOUND = """
from monitoring.bugs.entry import Bug
FIELDS = dict(
    code="MINE01", name="mine", bug_class="bots", stage="market", tables=("clicks",), subject="user", story="It happens.",
    looks_like="It shows.", doses={"strong": 1.0, "mild": 0.1, "trace": 0.01}, dose_means="share",
    inject=lambda rows, dose, scene: rows,
)
"""


def written(folder: Path, text: str, name: str = "mine.py") -> Path:
    (folder / name).write_text(text)
    return folder


def test_the_example_pack_loads_and_does_what_it_says() -> None:
    found = load(ROOT / "docs" / "examples" / "bugs")
    assert {entry.code for entry in found} == {"CACHE01", "CACHE02", "NIGHT01"}
    assert not {entry.code for entry in found} & {entry.code for entry in BUGS}
    for entry in found:
        rows, scene = rows_for(entry, entry.tables[0], 4000)
        assert same(entry.inject(rows, 0.0, scene), rows)
        broken = entry.inject(rows, 1.0, scene)
        if entry.code == "NIGHT01":
            assert broken.num_rows / rows.num_rows == pytest.approx(0.75, abs=0.03)  # spread evenly over the day
            continue
        others = [name for name in rows.column_names if name != entry.subject]
        assert same(rows.select(others), broken.select(others))
        assert broken[entry.subject].type == rows[entry.subject].type
        if entry.code == "CACHE01":
            assert (broken["ad_coec"].to_numpy() <= 1).all()
        else:
            assert broken["ad_format"].to_pylist().count("video") == rows["ad_format"].to_pylist().count("banner")


def test_the_example_of_the_page_runs_as_it_stands(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "bugs.md").read_text()
    example = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    assert example is not None
    (entry,) = load(written(tmp_path, example[1]))
    assert bug("tablets-as-tv", (*BUGS, entry)) is entry
    rows, scene = rows_for(entry, "features", 4000)
    was, found = (np.asarray(t["device"].to_pylist()) for t in (rows, entry.inject(rows, 0.3, scene)))
    assert set(was[was != found]) == {"tablet"}
    assert np.mean(found[was == "tablet"] == "tv") == pytest.approx(0.3, abs=0.06)


def test_a_sound_file_loads(tmp_path: Path) -> None:
    assert load(written(tmp_path, SOUND + "BUGS = [Bug(**FIELDS)]"))[0].code == "MINE01"


@pytest.mark.parametrize(("change", "field", "said"), [
    ("bug_class='gremlins'", "bug_class", "post-click-feature"),
    ("also_classes=('gremlins',)", "also_classes", "gremlins"),
    ("stage='basement'", "stage", "traffic, market"),
    ("tables=('impressions',)", "tables", "clicks"),
    ("tables=()", "tables", "clicks"),
    ("doses={'strong': 1.0, 'mild': 0.1}", "doses", "'trace' is missing"),
    ("doses={'strong': 1.0, 'mild': 0.1, 'trace': 0}", "doses", "above 0"),
    ("calibration_shift={'huge': 1.0}", "calibration_shift", "strong, mild, trace"),
    ("code='mine 1'", "code", "MINE01"),
    ("name='My Bug'", "name", "lost-column"),
    ("story='  '", "story", "in words"),
    ("inject=None", "inject", "rows, dose, scene"),
])  # fmt: skip
def test_a_malformed_field_is_named_with_its_file(tmp_path: Path, change: str, field: str, said: str) -> None:
    text = SOUND + f"BUGS = (Bug(**(FIELDS | dict({change}))),)"
    with pytest.raises(ExplainedError) as refused:
        load(written(tmp_path, text))
    for part in ("mine.py", f": {field}: ", said):
        assert part in str(refused.value)


@pytest.mark.parametrize(("text", "said"), [
    ("BUGS = (1,)", "holds int"),
    ("x = 1", "BUGS: it must be a tuple"),
    ("BUGS = ()", "BUGS: it must be a tuple"),
    ("import nothing_of_that_name", "ModuleNotFoundError"),
    ("def", "SyntaxError"),
    (SOUND + "BUGS = (Bug(**FIELDS, colour='red'),)", "colour"),
    (SOUND + "BUGS = (Bug(**FIELDS), Bug(**FIELDS))", "code: 'MINE01' is taken"),
])  # fmt: skip
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ExplainedError, match=r"mine\.py") as refused:
        load(written(tmp_path, text))
    assert said in str(refused.value)


def test_a_code_of_another_file_or_a_folder_without_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExplainedError, match=r"no \*\.py file"):
        load(tmp_path)
    with pytest.raises(ExplainedError, match="is not a folder"):
        load(tmp_path / "elsewhere")
    written(tmp_path, SOUND + "BUGS = (Bug(**FIELDS),)", "a.py")
    written(tmp_path, SOUND + "BUGS = (Bug(**FIELDS | dict(code='MINE02')),)", "b.py")
    with pytest.raises(ExplainedError, match=r"b\.py: MINE02: name: 'mine' is taken already, in .*a\.py"):
        load(tmp_path)
