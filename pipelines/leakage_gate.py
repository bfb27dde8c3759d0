"""The leakage audit on a candidate training set, with what it needs from the lake: recomputed features, control totals, and
the reference that the last accepted set left behind.  Called by the training flow before anything is trained, and by drills.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features.batch import RequestBatch
from features.sources import AsOfSource
from infra.clock import DAY_US, day_name
from infra.home import Home
from infra.lake import Lake
from models.contract import Dataset
from monitoring import leakage
from monitoring.auc import AucTable
from monitoring.findings import Checks
from pipelines.sources.contract import SourceSpec
from pipelines.training import SERVICE, Parts


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the audit found, and the AUC table that becomes the next reference if the set is accepted."""

    checks: Checks
    table: AucTable

    def for_gates(self) -> dict[str, Any]:
        """The form that `models.gates.decide` takes."""
        pages = self.checks.pages
        return {"passed": not pages, "reasons": [str(finding) for finding in pages]}


def audit_parts(home: Home, spec: SourceSpec, parts: Parts, window_us: int) -> Verdict:
    """Every check of the audit on the four parts of a training set."""
    named = parts.by_name()
    again = {name: _replay(home, spec, data, parts.requests) for name, data in named.items()}
    checks, table = leakage.audit(named, _reference(home), again, _totals(home, named, window_us))
    return Verdict(checks, table)


def keep_reference(home: Home, verdict: Verdict) -> None:
    """Remember an accepted set's AUC table."""
    home.writing(_path(home)).write_text(json.dumps(verdict.table.as_json()))


def _path(home: Home) -> Path:
    return home.reports / "leakage_reference.json"


def _reference(home: Home) -> AucTable | None:
    path = _path(home)
    return AucTable.from_json(json.loads(path.read_text())) if path.exists() else None


def _replay(home: Home, spec: SourceSpec, data: Dataset, requests: RequestBatch) -> leakage.Replayed:
    """Features of a sample of rows, computed again from the snapshots as they were available at each request's time."""
    rows = leakage.replay_sample(data)
    at = np.searchsorted(requests.row_id, data.row_id[rows], sorter=(order := np.argsort(requests.row_id)))
    picked = order[at]
    sample = RequestBatch(
        requests.row_id[picked],
        requests.time_us[picked],
        requests.user_id[picked],
        requests.ad_id[picked],
        {name: values[picked] for name, values in requests.context.items()},
    )
    again = AsOfSource(home, spec.entities, spec.context, SERVICE).fetch(sample)
    return leakage.Replayed(rows, again.columns)


def _totals(home: Home, parts: dict[str, Dataset], window_us: int) -> dict[str, leakage.Totals]:
    """Impressions and clicked impressions of each event day, counted from the raw tables without going through the join."""
    first = min(int(data.time_us.min()) for data in parts.values()) // DAY_US
    last = max(int(data.time_us.max()) for data in parts.values()) // DAY_US
    lake, wanted = Lake.of(home), day_name(first * DAY_US)
    have = [day for day in lake.days("impressions") if day >= wanted]
    impressions = lake.read("impressions", ["impression_id", "event_timestamp"], have)
    shown_us = _int(impressions["event_timestamp"])
    clicks = lake.read("clicks", ["impression_id", "event_timestamp"], [d for d in lake.days("clicks") if d >= wanted])
    order = np.argsort(ids := _int(impressions["impression_id"]))
    clicked_id = _int(clicks["impression_id"])
    at = order[np.minimum(np.searchsorted(ids, clicked_id, sorter=order), len(ids) - 1)]
    counts = (ids[at] == clicked_id) & (_int(clicks["event_timestamp"]) - shown_us[at] <= window_us)
    day = shown_us // DAY_US
    hits = day[np.unique(at[counts])]
    return {
        day_name(d * DAY_US): leakage.Totals(int(np.count_nonzero(day == d)), int(np.count_nonzero(hits == d)))
        for d in range(first, last + 1)
    }


def _int(column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    return pc.cast(column, pa.int64()).to_numpy()
