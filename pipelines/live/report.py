"""The Evidently report behind an incident: the hours since its onset against usual ones, drawn when somebody asks.

A picture for people; what pages is decided by the monitors.  Called by the page.
"""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.ids import uniform
from features.requests import context_column
from infra.clock import HOUR_US, to_datetime
from infra.errors import ExplainedError

ROWS = 3000  # of each side: enough to see shapes, small enough to open
COLUMNS = 12  # shown: the incident's subjects first
_ALWAYS = ("device", "placement", "user_country", "hour", "user_ctr", "ad_ctr", "user_clicks_1d", "ad_age_days")
_SALT = 0x52_45_50


def report_html(incident: Mapping[str, Any], logs: Sequence[tuple[int, pa.Table]], usual: pa.Table) -> str:
    """A page of HTML: the log since an incident's onset against a sample of the reference.

    Raises ExplainedError where the hours are no longer at hand."""
    onset_us = min(int(incident.get("onset_us") or incident["opened_us"]), incident["opened_us"] - HOUR_US)
    onset_us -= onset_us % HOUR_US
    lately = [log for at_us, log in logs if onset_us <= at_us < incident["updated_us"]]
    if not lately:
        raise ExplainedError("the hours of this incident are too long ago; a report is drawn from the last two days")
    current = sample(pa.concat_tables(lately, promote_options="default"))
    subjects = [finding["subject"] for finding in incident["evidence"]]
    names = [n for n in dict.fromkeys([*subjects, *_ALWAYS]) if f"f_{n}" in current.column_names][:COLUMNS]
    title = f"Since {to_datetime(onset_us):%Y-%m-%d %H:%M} UTC (current) against the reference days"
    return _draw(_columns(usual, names), _columns(current, names), title)


def sample(log: pa.Table) -> pa.Table:
    """At most about `ROWS` rows of a log, by hash of their ids."""
    chosen = uniform(log["id"].to_numpy(), _SALT) < ROWS / max(log.num_rows, 1)
    return log.filter(pa.array(chosen))


def _columns(log: pa.Table, names: Sequence[str]) -> dict[str, np.ndarray[Any, Any]]:
    found: dict[str, np.ndarray[Any, Any]] = {"predicted_click": log["p"].to_numpy()}
    for name in names:
        column = log[f"f_{name}"]
        if pa.types.is_floating(column.type):
            found[name] = pc.cast(column, pa.float64()).to_numpy()
        else:
            found[name] = context_column(column).astype(np.str_).astype(object)
    return found


def _draw(usual: dict[str, np.ndarray[Any, Any]], lately: dict[str, np.ndarray[Any, Any]], title: str) -> str:
    import pandas as pd
    from evidently import DataDefinition, Dataset, Report
    from evidently.metrics import RowCount
    from evidently.presets import DataDriftPreset

    words = [name for name, values in usual.items() if values.dtype == object]
    definition = DataDefinition(numerical_columns=[n for n in usual if n not in words], categorical_columns=words)
    now, then = (Dataset.from_pandas(pd.DataFrame(side), data_definition=definition) for side in (lately, usual))
    snapshot = Report([RowCount(), DataDriftPreset(columns=list(usual))]).run(now, then)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.html"
        snapshot.save_html(str(path))
        html = path.read_text(encoding="utf-8")
    head = f"<h1 style='font: 600 20px sans-serif; margin: 24px'>{title}</h1>"
    return html.replace("<body>", f"<body>{head}", 1).replace("<head>", f"<head><title>{title}</title>", 1)
