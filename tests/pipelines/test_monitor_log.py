"""`clickproof monitor log` as a stranger uses it: the tutorial's commands, the answer's shape, the exit status, the errors."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from as_a_user import clickproof

ROOT = Path(__file__).parents[2]
TUTORIAL = (ROOT / "docs" / "monitor-your-log.md").read_text()
MAPPING = ROOT / "docs" / "examples" / "outside-log" / "mapping.yaml"
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", TUTORIAL, re.DOTALL) for line in block.splitlines()]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the tutorial's first command writes; fewer rows than there, for speed."""
    folder = tmp_path_factory.mktemp("shop")
    maker, script, _ = shlex.split(COMMANDS[0])
    assert maker == "python"
    subprocess.run([sys.executable, ROOT / script, folder, "6", "2500"], check=True)
    return folder


def tutorial(command: str, shop: Path, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """One of the tutorial's commands on that folder."""
    _, *words = shlex.split(command.replace("/tmp/shop", str(shop)))
    return clickproof(*(str(ROOT / word) if word.startswith("docs/") else word for word in words), home=tmp_path)


def test_the_tutorial_has_its_four_commands() -> None:
    assert len(COMMANDS) == 4
    assert all(command.startswith("clickproof monitor log ") for command in COMMANDS[1:])


def test_the_tutorials_commands_say_what_the_tutorial_says(shop: Path, tmp_path: Path) -> None:
    normal, broken, replayed = (tutorial(command, shop, tmp_path) for command in COMMANDS[1:])
    assert "no incident" in normal.stdout
    assert "not checked: feature-replay" in normal.stdout
    assert "INCIDENT 1: unit-change in price" in broken.stdout
    assert "look first: " in broken.stdout
    result = json.loads(replayed.stdout.splitlines()[-1])
    assert {"incidents", "checked", "skipped"} <= set(result)
    (incident,) = result["incidents"]
    assert (incident["class"], incident["subject"], incident["severity"]) == ("unit-change", "price", "page")
    assert any(finding["tier"] == "replay" and finding["evidence"]["ratio"] == 100.0 for finding in incident["evidence"])
    assert incident["hypotheses"][0]["class"] == "unit-change"
    assert "feature-replay" in result["checked"]
    assert all(set(skipped) == {"check", "why"} for skipped in result["skipped"])


def test_an_incident_can_fail_the_command_and_a_short_history_is_said(shop: Path, tmp_path: Path) -> None:
    day = sorted((shop / "usual").glob("*.csv"))[0]
    broken = shop / "twice.csv"
    lines = (shop / "normal-day.csv").read_text().splitlines()
    broken.write_text("\n".join([*lines, *lines[1:]]))
    log = ("monitor", "log", "--reference", day, "--window", broken, "--mapping", MAPPING, "--json", "--fail-on-incident")
    result = json.loads(clickproof(*log, home=tmp_path, status=1).stdout.splitlines()[-1])
    assert "duplicated-events" in [incident["class"] for incident in result["incidents"]]
    why = {skipped["check"]: skipped["why"] for skipped in result["skipped"]}
    assert "days" in why["distribution"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("p_click: p_klick", "no column 'p_klick' (mapped as prediction) (did you mean 'p_click'?)"),
        ("numeric: [prize]", "no column 'prize' (mapped as numeric) (did you mean 'price'?)"),
    ],
)
def test_an_error_names_file_column_and_fix(shop: Path, tmp_path: Path, wrong: str, said: str) -> None:
    old, new = ("prediction: p_click", "prediction: p_klick") if "klick" in wrong else ("numeric: [price,", "numeric: [prize,")
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text(MAPPING.read_text().replace(old, new))
    log = ("monitor", "log", "--reference", shop / "usual", "--window", shop / "normal-day.csv", "--mapping", mapping)
    done = clickproof(*log, home=tmp_path, status=2)
    assert said in done.stderr
    assert "2026-03-02.csv" in done.stderr
    assert "it has view_id, shown_at" in done.stderr


def test_the_windows_own_file_is_left_out_of_the_reference(shop: Path, tmp_path: Path) -> None:
    folder = tmp_path / "all"
    shutil.copytree(shop / "usual", folder)
    alone = sorted(folder.glob("*.csv"))[-1]
    for path in sorted(folder.glob("*.csv"))[:-1]:
        path.unlink()
    done = clickproof("monitor", "log", "--reference", folder, "--window", alone, "--mapping", MAPPING, home=tmp_path, status=2)
    assert "holds no file but the window's own" in done.stderr
