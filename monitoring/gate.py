"""The gate before training: reads what the leakage audit needs from a home, runs it, and keeps the reference of accepted sets.

`judge` changes nothing; `accept` is called once a model trained on the set has been promoted, so that the next audit has
history to compare with.  Called by the training flow, by retraining and by the leakage drill, which hands it a branch.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import duckdb
import numpy as np
import numpy.typing as npt

from features.batch import RequestBatch
from features.catalogue import VIEWS, Entity
from features.snapshots import days as snapshot_days
from features.sources import AsOfSource
from infra.clock import DAY_US, day_name
from infra.home import Home
from infra.lake import Lake
from models.contract import Dataset
from monitoring.auc import AucTable
from monitoring.findings import Checks
from monitoring.leakage import Replayed, Totals, audit, concatenate, replay_sample
from monitoring.rebuild import VIEW, rebuild_check


def judge(
    home: Home,
    parts: Mapping[str, Dataset],
    requests: RequestBatch,
    entities: Sequence[Entity],
    context: Sequence[str],
    service: str,
    as_of_us: int,
    window_us: int,
    reference: AucTable | None = None,
) -> tuple[Checks, AucTable]:
    """Audit a candidate set given as parts in time order; (checks, its AUC table for `accept`).

    `requests` are the requests that the rows of the parts came from, in the same order, parts laid end to end.  Labels are as
    of `as_of_us` with an attribution window of `window_us`.  `reference` defaults to the one that `accept` kept.
    """
    whole = concatenate(list(parts.values()))
    if len(whole) != len(requests) or (whole.row_id != requests.row_id).any():
        raise ValueError(
            f"{len(requests)} requests do not line up with {len(whole)} rows of {', '.join(parts)}: take both from one assembly"
        )
    source = AsOfSource(home, entities, context, service)
    replayed: dict[str, Replayed] = {}
    start = 0
    for name, part in parts.items():
        rows = replay_sample(part)
        if len(rows):
            replayed[name] = Replayed(rows, source.fetch(_some(requests, rows + start)).columns)
        start += len(part)
    slow = [f.name for view in VIEWS if view.refresh == "batch" and view.entity in entities for f in view.features]
    first, last = int(whole.time_us.min()) // DAY_US, int(whole.time_us.max()) // DAY_US
    totals = count_totals(home, first * DAY_US, (last + 1) * DAY_US, as_of_us, window_us)
    checks, table = audit(parts, reference or accepted(home), replayed, totals, slow)
    if VIEW in {view.name for view in source.views}:
        wanted = {day_name(day * DAY_US) for day in range(first, last + 1)}
        days = [day for day in snapshot_days(home, VIEW) if day in wanted]
        checks.record("row-rebuild", rebuild_check(home, days, "placement" in context))
    else:
        checks.skip("row-rebuild", f"{VIEW} is not among the views of {service} that this source fills")
    return checks, table


def _some(requests: RequestBatch, rows: npt.NDArray[np.int64]) -> RequestBatch:
    return RequestBatch(
        requests.row_id[rows], requests.time_us[rows], requests.user_id[rows], requests.ad_id[rows],
        {name: values[rows] for name, values in requests.context.items()},
    )  # fmt: skip


def count_totals(home: Home, first_us: int, end_us: int, as_of_us: int, window_us: int) -> dict[str, Totals]:
    """Mature impressions and clicked ones of each event day in [first_us, end_us), counted in SQL straight from the lake.

    Kept apart from `features.labels` and the assembly on purpose: a control total that shares their code shares their mistakes.
    """
    lake = Lake.of(home)
    with duckdb.connect() as connection:
        connection.register("impressions", lake.scan("impressions"))
        connection.register("clicks", lake.scan("clicks"))
        found = connection.execute(
            """
            WITH shown AS (
                SELECT impression_id, epoch_us(event_timestamp) AS shown_us FROM impressions
                WHERE epoch_us(event_timestamp) >= $first AND epoch_us(event_timestamp) < $end
                  AND epoch_us(arrived_at) <= $as_of AND epoch_us(event_timestamp) + $window <= $as_of
            ), clicked AS (
                SELECT DISTINCT impression_id FROM clicks JOIN shown USING (impression_id)
                WHERE epoch_us(arrived_at) <= $as_of AND epoch_us(event_timestamp) - shown_us BETWEEN 0 AND $window
            )
            SELECT shown_us // $a_day AS day, count(*), count(clicked.impression_id)
            FROM shown LEFT JOIN clicked USING (impression_id) GROUP BY 1 ORDER BY 1
            """,
            {"first": first_us, "end": end_us, "as_of": as_of_us, "window": window_us, "a_day": DAY_US},
        ).fetchall()
    return {day_name(int(day) * DAY_US): Totals(int(rows), int(clicks)) for day, rows, clicks in found}


def _reference_path(home: Home) -> Path:
    return home.artefacts / "leakage_reference.json"


def accepted(home: Home) -> AucTable | None:
    """The AUC table of the last accepted training set; None where none was accepted."""
    path = _reference_path(home)
    return AucTable.from_json(json.loads(path.read_text())) if path.exists() else None


def accept(home: Home, table: AucTable) -> None:
    """Keep the AUC table of a set whose model was promoted."""
    path = home.writing(_reference_path(home))
    beside = path.with_name(f".{path.name}.part")
    beside.write_text(json.dumps(table.as_json()))
    beside.replace(path)
