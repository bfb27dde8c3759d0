"""The generated parts of docs/watching.md: every metric, and every alert.  Registered in `pipelines.page_blocks`."""

from typing import Any

import yaml

from pipelines.figures import ROOT
from pipelines.markdown import table
from serving.exposition import FAMILIES


def metrics_table() -> str:
    """Every metric of /metrics, from the table that prints them."""
    rows = [(f"`{one.name}`", one.kind, ", ".join(f"`{label}`" for label in one.labels), one.said) for one in FAMILIES]
    return table(["metric", "type", "labels", "meaning"], rows)


def alerts_table() -> str:
    """Every alert, from infra/prometheus/alerts.yml."""
    groups = yaml.safe_load((ROOT / "infra" / "prometheus" / "alerts.yml").read_text())["groups"]
    rows = [_row(rule) for group in groups for rule in group["rules"]]
    return table(["alert", "severity", "when", "for"], rows)


def _row(rule: dict[str, Any]) -> tuple[str, str, str, str]:
    page, _, anchor = rule["annotations"]["runbook"].removeprefix("docs/").partition("#")
    when = " ".join(rule["expr"].split()).replace("|", "\\|")
    return f"[{rule['alert']}]({page}#{anchor})", rule["labels"]["severity"], f"`{when}`", rule.get("for", "at once")


BLOCKS = {"metrics": metrics_table, "alerts": alerts_table}
