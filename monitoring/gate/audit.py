"""The leakage audit: what a candidate training set must pass before anything is trained on it.

Pure: sets of rows in, findings that name the column out; what the store says about the same rows is the caller's to bring
(`monitoring.gate.ledger`).  Without it the audit judges by the set alone; with it, columns whose sampled values are what was
known at the time are vouched for, and what statistics find odd in them is a notice: an honest column may change its strength.
Called by `monitoring.gate.judge` and by the gauntlet.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from infra.clock import DAY_US
from models.contract import Dataset
from monitoring.findings import Checks, Finding
from monitoring.gate.auc import AucTable, above_cap, auc_by_day, column_of, gaps, jumps
from monitoring.gate.columns import Scope, concatenate, scalar
from monitoring.gate.copies import target_copies
from monitoring.gate.diagnosis import settled
from monitoring.gate.encoding import own_labels
from monitoring.gate.replay import Replayed, compare
from monitoring.gate.split import interleaved, ordered_by_label, overlaps
from monitoring.gate.together import auc_together, gains
from monitoring.gate.totals import Known, odd_labels, off_totals


@dataclass(frozen=True, slots=True)
class Account:
    """What the store says about the rows of an export, without the export."""

    known: Known
    replayed: Replayed
    rebuilt: Sequence[Finding]  # stored rows that are not what raw events say
    doubted: frozenset[str]  # columns made from such rows


def audit(
    parts: Mapping[str, Dataset],
    reference: AucTable | None = None,
    account: Account | None = None,
    scope: Scope | None = None,
    slow: Sequence[str] = (),
) -> tuple[Checks, AucTable]:
    """Every check on a candidate set given as parts in time order (train, valid, ...); also its AUC table, the next
    reference.

    `reference` is the AUC table of the last accepted set, None where none was accepted; `scope` is what the set was asked to
    hold, by default the whole days of its parts; `slow` names features fixed long before a request.  Checks that miss their
    input are skipped with the reason.
    """
    checks = Checks()
    filled = {name: part for name, part in parts.items() if len(part)}
    whole = concatenate(list(filled.values()))
    table = auc_by_day(whole)
    vouched: frozenset[str] = frozenset()
    if account is None:
        for check in ("as-of-replay", "row-rebuild", "control-totals"):
            checks.skip(check, "no store was given to compare with")
    else:
        place = np.repeat(np.arange(len(filled)), [len(part) for part in filled.values()])
        compared = compare(whole, account.replayed, place)
        vouched = compared.vouched - account.doubted
        checks.record("as-of-replay", compared.findings)
        checks.record("row-rebuild", account.rebuilt)
        checks.record("control-totals", off_totals(whole, account.known.within(scope or Scope.of(filled))))
    _statistics(checks, filled, whole, table, reference, vouched, slow)
    checks.merge(overlaps(filled))
    checks.record("time-order", interleaved(filled))
    checks.record("row-order", ordered_by_label(filled))
    checks.record("label-sanity", odd_labels(filled, table, reference))
    checks.findings = settled(checks.findings)
    return checks, table


def _statistics(
    checks: Checks,
    parts: Mapping[str, Dataset],
    whole: Dataset,
    table: AucTable,
    reference: AucTable | None,
    vouched: frozenset[str],
    slow: Sequence[str],
) -> None:
    """What the columns themselves show; of a vouched one only as a notice."""
    suspects = [name for name in scalar(whole) if name not in vouched]
    if reference is None:
        checks.skip("auc-jump", "no training set was accepted before; the cap alone stands")
    else:
        checks.record("auc-jump", _noticed(jumps(table, reference), vouched))
    first = next(iter(parts.values()))
    days = len(np.unique(first.time_us // DAY_US))
    if len(parts) > 1:
        checks.record("auc-gap", _noticed(gaps(table, days), vouched))
    else:
        checks.skip("auc-gap", "the set has one part: there is nothing later to compare with")
    honest = [name for name in table.features if column_of(name) in vouched] if vouched else list(slow)
    together = auc_together(whole, vouched, len(first)) if vouched and len(suspects) else 0.5
    checks.record("auc-cap", _noticed(above_cap(table, honest, together), vouched))
    checks.record("auc-gain", gains(whole, vouched, suspects))
    checks.record("target-copy", target_copies(whole, suspects))
    checks.record("out-of-fold", own_labels(parts, suspects))


def _noticed(findings: Sequence[Finding], vouched: frozenset[str]) -> list[Finding]:
    return [replace(f, severity="notice") if f.subject in vouched else f for f in findings]
