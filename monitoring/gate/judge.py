"""The gate's edge: reads what the leakage audit needs from a home, runs it, and keeps the reference of accepted sets.

`judge` changes nothing; `accept` is called once a model trained on the set has been promoted, so that the next audit has
history to compare with.  Called by the training flow, by retraining and by the leakage drill, which hands it a branch.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from features.catalogue import Entity
from infra.home import Home
from models.contract import Dataset
from monitoring.findings import Checks
from monitoring.gate.auc import AucTable
from monitoring.gate.audit import audit
from monitoring.gate.columns import Scope
from monitoring.gate.ledger import Ledger


def judge(
    home: Home,
    parts: Mapping[str, Dataset],
    entities: Sequence[Entity],
    context: Sequence[str],
    service: str,
    as_of_us: int,
    window_us: int,
    scope: Scope | None = None,
    reference: AucTable | None = None,
) -> tuple[Checks, AucTable]:
    """Audit a candidate set given as parts in time order; (checks, its AUC table for `accept`).

    Labels are as of `as_of_us` with an attribution window of `window_us`.  `scope` is what the set was asked to hold (by
    default the whole days of its parts); `reference` defaults to the one that `accept` kept.
    """
    asked = scope or Scope.of(parts)
    ledger = Ledger(home, entities, context, service, asked.span, as_of_us, window_us)
    return audit(parts, reference or accepted(home), ledger.account, asked, ledger.slow)


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
