"""The leakage audit on a candidate training set, with what it needs from a home: recomputed features, control totals, rebuilt
rows, and the reference that the last accepted set left.  Called by the training flow before anything is trained, and by drills.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from features.batch import RequestBatch
from features.catalogue import VIEWS
from features.snapshots import days as snapshot_days
from features.sources import AsOfSource
from infra.clock import DAY_US, day_name
from infra.home import Home
from infra.lake import Lake, watermark_us
from models.contract import Dataset
from monitoring.auc import AucTable
from monitoring.findings import Checks
from monitoring.leakage import Replayed, Totals, audit, concatenate, replay_sample
from monitoring.rebuild import VIEW, rebuild_check
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
    """Every check of the audit on the parts of a training set; labels are as of the lake's watermark."""
    named = parts.by_name()
    whole = concatenate(list(named.values()))
    source = AsOfSource(home, spec.entities, spec.context, SERVICE)
    again = {name: _replay(source, data, parts.requests) for name, data in named.items()}
    slow = [f.name for view in VIEWS if view.refresh == "batch" and view.entity in spec.entities for f in view.features]
    first, last = int(whole.time_us.min()) // DAY_US, int(whole.time_us.max()) // DAY_US
    totals = count_totals(home, first * DAY_US, (last + 1) * DAY_US, watermark_us(home), window_us)
    checks, table = audit(named, reference_of(home), again, totals, slow)
    if VIEW in {view.name for view in source.views}:
        stored = set(snapshot_days(home, VIEW))
        days = [day_name(day * DAY_US) for day in range(first, last + 1)]
        checks.record("row-rebuild", rebuild_check(home, [day for day in days if day in stored], "placement" in spec.context))
    else:
        checks.skip("row-rebuild", f"this source has no {VIEW}")
    return Verdict(checks, table)


def reference_of(home: Home) -> AucTable | None:
    """The AUC table of the last accepted training set; None where none was accepted."""
    path = _path(home)
    return AucTable.from_json(json.loads(path.read_text())) if path.exists() else None


def keep_reference(home: Home, verdict: Verdict) -> None:
    """Remember the AUC table of a set whose model was promoted, so that the next audit has history to compare with."""
    path = home.writing(_path(home))
    beside = path.with_name(f".{path.name}.part")
    beside.write_text(json.dumps(verdict.table.as_json()))
    beside.replace(path)


def _path(home: Home) -> Path:
    return home.artefacts / "leakage_reference.json"


def _replay(source: AsOfSource, data: Dataset, requests: RequestBatch) -> Replayed:
    """Features of a sample of rows, computed again from the snapshots as they were available at each request's time."""
    rows = replay_sample(data)
    order = np.argsort(requests.row_id)
    at = order[np.searchsorted(requests.row_id, data.row_id[rows], sorter=order)]
    context = {name: values[at] for name, values in requests.context.items()}
    sample = RequestBatch(requests.row_id[at], requests.time_us[at], requests.user_id[at], requests.ad_id[at], context)
    return Replayed(rows, source.fetch(sample).columns)


def count_totals(home: Home, first_us: int, end_us: int, as_of_us: int, window_us: int) -> dict[str, Totals]:
    """Mature impressions and clicked ones of each event day in [first_us, end_us), counted in SQL straight from the lake.

    Kept apart from `features.labels` and the assembly on purpose: a control total that shares their code shares their mistakes.
    """
    lake = Lake.of(home)
    connection = duckdb.connect()
    connection.register("impressions", lake.scan("impressions"))
    connection.register("clicks", lake.scan("clicks"))
    found = connection.execute(
        """
        WITH shown AS (
            SELECT impression_id, epoch_us(event_timestamp) AS at FROM impressions
            WHERE epoch_us(event_timestamp) >= $first AND epoch_us(event_timestamp) < $end
              AND epoch_us(arrived_at) <= $as_of AND epoch_us(event_timestamp) + $window <= $as_of
        ), clicked AS (
            SELECT DISTINCT impression_id FROM clicks JOIN shown USING (impression_id)
            WHERE epoch_us(arrived_at) <= $as_of AND epoch_us(event_timestamp) - at BETWEEN 0 AND $window
        )
        SELECT at // $a_day AS day, count(*), count(clicked.impression_id)
        FROM shown LEFT JOIN clicked USING (impression_id) GROUP BY 1 ORDER BY 1
        """,
        {"first": first_us, "end": end_us, "as_of": as_of_us, "window": window_us, "a_day": DAY_US},
    ).fetchall()
    connection.close()
    return {day_name(int(day) * DAY_US): Totals(int(rows), int(clicks)) for day, rows, clicks in found}
