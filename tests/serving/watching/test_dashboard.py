"""The Grafana dashboard of infra/grafana, as far as it can be judged without Grafana."""

import json
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import pytest

DASHBOARD: dict[str, Any] = json.loads((Path(__file__).parents[3] / "infra" / "grafana" / "clickproof.json").read_text())
PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
ROWS = [panel for panel in DASHBOARD["panels"] if panel["type"] == "row"]
GRAFANA_11 = 39  # its schemaVersion; newer Grafana reads it too


def expressions() -> list[str]:
    """Every query, with Grafana's variables filled in."""
    found = [target["expr"] for panel in PANELS for target in panel["targets"]]
    found += [one["expr"].removesuffix(" > 0") for one in DASHBOARD["annotations"]["list"]]
    return [one.replace("$__rate_interval", "1m").replace("$instance", ".*") for one in found]


def test_it_is_a_dashboard_of_grafana_11_that_asks_which_prometheus() -> None:
    assert DASHBOARD["schemaVersion"] == GRAFANA_11
    variables = {one["name"]: one for one in DASHBOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    assert not any("$" in one for one in expressions())


def test_ids_are_unique_and_rows_have_panels() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    assert len(ROWS) >= 5
    types = [panel["type"] for panel in DASHBOARD["panels"]]
    assert types[0] == "row"
    assert all("row" not in pair for pair in pairwise(types) if pair[0] == pair[1])
    assert types[-1] != "row"


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_panel_says_what_it_shows_in_which_unit(panel: dict[str, Any]) -> None:
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["targets"]
    assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    for part in (panel, *panel["targets"]):
        assert part["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def cells(panel: dict[str, Any]) -> set[tuple[int, int]]:
    at = panel["gridPos"]
    return {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}


def test_panels_lie_side_by_side() -> None:
    for panel in DASHBOARD["panels"]:
        assert cells(panel)
        assert all(0 <= x < 24 for x, _ in cells(panel)), panel["title"]
    for one, other in combinations(DASHBOARD["panels"], 2):
        assert not cells(one) & cells(other), (one["title"], other["title"])
