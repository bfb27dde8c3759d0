"""Rules and alerts of infra/prometheus: valid, shown firing and silent, each with a severity and a runbook."""

import re
import subprocess
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from real_prometheus import RULES, asked, program

from monitoring.findings import Severity

ROOT = Path(__file__).parents[3]
ALERTS: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((RULES / "alerts.yml").read_text())["groups"] for rule in group["rules"]
]
NAMES = [rule["alert"] for rule in ALERTS]


def promtool(*arguments: str, folder: Path = RULES) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program("promtool"), *arguments], capture_output=True, text=True, cwd=folder, check=False)


@pytest.mark.parametrize("what", [("check", "config", "prometheus.yml"), ("test", "rules", "alerts_test.yml")])
def test_promtool_is_content(what: tuple[str, ...]) -> None:
    done = promtool(*what)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_threshold_that_nobody_reaches_is_noticed(tmp_path: Path) -> None:
    for path in RULES.glob("*.yml"):
        (tmp_path / path.name).write_text(path.read_text())
    alerts = (tmp_path / "alerts.yml").read_text()
    tests = yaml.safe_load((tmp_path / "alerts_test.yml").read_text())
    tests["tests"] = [one for one in tests["tests"] if "overload" in one["name"]]
    (tmp_path / "alerts.yml").write_text(
        alerts.replace("clickproof_shed:ratio_rate5m > 0.01", "clickproof_shed:ratio_rate5m > 1")
    )
    (tmp_path / "alerts_test.yml").write_text(yaml.safe_dump(tests))
    done = promtool("test", "rules", "alerts_test.yml", folder=tmp_path)
    assert done.returncode != 0
    assert "ClickproofShedding" in done.stdout + done.stderr


def test_each_alert_is_shown_firing() -> None:
    shown = re.findall(r'alertname="(\w+)",alertstate="firing"', (RULES / "alerts_test.yml").read_text())
    assert set(shown) == set(NAMES)
    assert len(NAMES) == len(set(NAMES))


@pytest.mark.parametrize("rule", ALERTS, ids=NAMES)
def test_an_alert_says_how_bad_it_is_what_happened_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"].keys() == {"severity"}
    assert rule["labels"]["severity"] in get_args(Severity)
    assert rule["annotations"].keys() == {"summary", "runbook"}
    assert rule["annotations"]["summary"].endswith(".")
    page, anchor = rule["annotations"]["runbook"].split("#")
    assert anchor == rule["alert"].lower()
    assert anchor in {slug(title) for title in re.findall(r"^#+ (.*)$", (ROOT / page).read_text(), re.MULTILINE)}


def slug(title: str) -> str:
    """The anchor of a heading, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def test_selectors_and_labels_are_found_in_an_expression() -> None:
    found = asked(
        'sum by (job, le) (rate(a_total{x="}",y=~"5.."}[5m] offset 1h)) / on (z) group_left (w) b:c:d > 2 * 1e3 '
        "and time() - e or vector(0)"
    )
    assert found.selectors == ['a_total{x="}",y=~"5.."}', "b:c:d", "e"]
    assert found.labels == {"job", "le", "z", "w"}


@pytest.mark.parametrize("page", ["runbooks.md", "watching.md"])
def test_links_lead_to_chapters_that_are_there(page: str) -> None:
    docs = ROOT / "docs"
    for name, anchor in re.findall(r"\]\(([\w-]+\.md)?#([\w-]+)\)", (docs / page).read_text()):
        titles = re.findall(r"^#+ (.*)$", (docs / (name or page)).read_text(), re.MULTILINE)
        assert anchor in {slug(title) for title in titles}, (page, anchor)
