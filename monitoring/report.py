"""The report that people look at: Evidently's view of the latest day against the week before, on a few columns and predictions.

It is a picture, not the alarm: Evidently's verdict compares a static reference with fixed thresholds, so its "drift detected"
is left to the reader while `monitoring.daily` decides.  Called by `clickproof report`.
"""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from features.batch import F32, Array
from features.catalogue import Entity
from features.requests import from_impressions
from features.sources import AsOfSource
from features.spec import feature_spec
from infra.errors import ExplainedError
from infra.home import Home
from infra.lake import Lake
from monitoring.daily import sampled_impressions

WORKSPACE, PROJECT = "evidently", "clickproof"  # the folder beside the reports, and the one project in it
WEEK = 7
ROWS = 3000  # a day and a reference week are each cut down to this many rows: enough to see shapes, small enough to open
# Shown where the source has them.  With the prediction they are ten: what Evidently's table shows without paging.
SHOWN = (
    "device", "placement", "user_country", "hour", "user_ctr", "user_category_ctr", "ad_ctr", "user_clicks_1d", "ad_age_days"
)  # fmt: skip


class Scoring(Protocol):
    """The part of an artefact that gives the probability of a click."""

    def score(self, columns: "dict[str, Array]") -> F32: ...
    def probability(self, s: F32, slot: Array) -> npt.NDArray[np.float64]: ...


def write_report(
    home: Home,
    entities: Sequence[Entity],
    context: Sequence[str],
    service: str,
    model: Scoring | None = None,
    day: str | None = None,
) -> Path:
    """Write home.reports/drift-DAY.html and return its path: `day` (the latest by default) against the seven days before it.
    The same report is added to the Evidently workspace home.reports/evidently.

    With `model`, its predictions for the same rows are one of the columns.  ExplainedError where there is nothing to
    compare with.
    """
    days = Lake.of(home).days("impressions")
    day = day or (days[-1] if days else "")
    before = [d for d in days if d < day][-WEEK:]
    if day not in days or not before:
        raise ExplainedError(f"the report compares a day with those before it; the lake has {', '.join(days) or 'no days'}")
    spec = feature_spec(entities, context, service)
    there = [name for name in SHOWN if name in (*spec.categorical, *spec.numeric)]
    names = there or [*spec.categorical, *spec.numeric][: len(SHOWN)]
    source = AsOfSource(home, entities, context, service)
    reference = _columns(home, before, ROWS // len(before), context, source, names, model)
    current = _columns(home, [day], ROWS, context, source, names, model)
    path = home.writing(home.reports / f"drift-{day}.html")
    _draw(reference, current, {n for n in names if n in spec.categorical}, path, f"{before[0]} to {before[-1]}", day)
    return path


def _columns(
    home: Home,
    days: Sequence[str],
    rows_a_day: int,
    context: Sequence[str],
    source: AsOfSource,
    names: Sequence[str],
    model: Scoring | None,
) -> dict[str, Array]:
    rows = pa.concat_tables([sampled_impressions(home, day, context, rows_a_day) for day in days])
    features = dict(source.fetch(from_impressions(rows, context)).columns)
    chosen: dict[str, Array] = {}
    if model is not None:
        chosen["predicted_click"] = model.probability(model.score(features), rows["slot"].to_numpy())
    for name in names:
        values = features[name]
        chosen[name] = values.astype(np.str_) if values.dtype.kind == "i" else values
    return chosen


def _draw(
    reference: dict[str, Array], current: dict[str, Array], categorical: set[str], path: Path, week: str, day: str
) -> None:
    import pandas as pd
    from evidently import DataDefinition, Dataset, Report
    from evidently.metrics import RowCount
    from evidently.presets import DataDriftPreset

    definition = DataDefinition(
        numerical_columns=[name for name in reference if name not in categorical],
        categorical_columns=[name for name in reference if name in categorical],
    )
    now, then = (
        Dataset.from_pandas(pd.DataFrame({n: _plain(v) for n, v in columns.items()}), data_definition=definition)
        for columns in (current, reference)
    )
    at = datetime.fromisoformat(f"{day}T00:00:00+00:00")
    snapshot = Report([RowCount(), DataDriftPreset(columns=list(reference))]).run(now, then, timestamp=at, name=day)
    beside = path.with_name(f".{path.name}.part")
    snapshot.save_html(str(beside))
    # Evidently names neither the days it compares nor the page.
    head = (
        f"<h1 style='font: 600 22px sans-serif; margin: 24px'>{day} (current) against {week} (reference)</h1>"
        "<p style='font: 14px sans-serif; margin: 24px'>A sample of impressions; open a row for its distributions. Whether a "
        "day pages is decided by <code>clickproof monitor</code>, which knows how much days differ by themselves.</p>"
    )
    html = beside.read_text(encoding="utf-8")
    html = html.replace("<body>", f"<body>{head}", 1).replace("<head>", f"<head><title>Drift, {day}</title>", 1)
    beside.write_text(html, encoding="utf-8")
    beside.replace(path)
    keep(snapshot, path.with_name(WORKSPACE), day)


def keep(snapshot: Any, folder: Path, day: str) -> None:
    """Add the report to the workspace that `clickproof ui evidently` opens, in place of an earlier one of the same day."""
    from evidently.ui.workspace import Workspace

    workspace = Workspace.create(str(folder))
    found = workspace.search_project(PROJECT)
    project = found[0] if found else workspace.create_project(PROJECT)
    for run in workspace.list_runs(project.id):
        kept = workspace.get_run(project.id, run)
        if kept is not None and kept.name == day:
            workspace.delete_run(project.id, run)
    workspace.add_run(project.id, snapshot)


def _plain(values: Array) -> Array:
    """Floats in double precision and texts as objects, which is what pandas keeps them as."""
    return values.astype(np.float64) if values.dtype.kind == "f" else values.astype(object)
