"""Does a set hold the rows and the labels that it should?  Control totals, row by row and hour by hour, against the store's own
account; and without one, what labels must at least look like.  Pure; called by `monitoring.gate.audit`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from infra.clock import DAY_US, HOUR_US, day_name
from models.contract import Dataset
from monitoring.findings import Finding
from monitoring.gate.auc import AucTable
from monitoring.gate.columns import I64, Array, Scope
from monitoring.gate.signs import sign

# A click rate that a part's neighbours, or the sets accepted before, do not come near: three times theirs or a third.
RATE_APART = 3.0
LEAST_CLICKS = 50  # below it a rate is luck
STRONG, INVERTED = 0.07, 0.5  # AUC excess of history's clear columns; how much of it may stand on its head


@dataclass(frozen=True, slots=True)
class Known:
    """Every mature impression of the store in a span of time, `row_id` ascending, all [m]: what labels a set must have."""

    row_id: I64
    time_us: I64
    user: I64
    slot: I64
    label: Array  # 1: clicked

    def within(self, scope: Scope) -> "Known":
        """Those that an export was asked to hold."""
        mine = scope.holds(self.time_us, self.user)
        return Known(self.row_id[mine], self.time_us[mine], self.user[mine], self.slot[mine], self.label[mine])


def off_totals(data: Dataset, known: Known) -> list[Finding]:
    """Rows that the set lacks, rows that no impression stands behind, and rows whose label, time, user or slot is not the
    impression's; with the days and hours where they are."""
    at = np.minimum(np.searchsorted(known.row_id, data.row_id), max(len(known.row_id) - 1, 0))
    there = known.row_id[at] == data.row_id if len(known.row_id) else np.zeros(len(data), np.bool_)
    found = []
    lost = ~np.isin(known.row_id, data.row_id)
    if lost.any():
        found.append(_off("rows-lost", "rows", known.time_us[lost], known.label[lost], len(known.row_id)))
    if not there.all():
        found.append(_off("rows-unknown", "rows", data.time_us[~there], data.label[~there], len(data)))
    for subject, mine, should in (
        ("label", data.label, known.label), ("time", data.time_us, known.time_us),
        ("user", data.group, known.user), ("slot", data.slot, known.slot),
    ):  # fmt: skip
        wrong = there.copy()
        wrong[there] = mine[there] != should[at[there]]
        if wrong.any():
            finding = _off("labels-off", subject, data.time_us[wrong], known.label[at[wrong]], len(data))
            found.append(finding)
    return found


def _off(symptom: str, subject: str, time_us: I64, label: Array, of: int) -> Finding:
    hours, rows = np.unique(time_us // HOUR_US, return_counts=True)
    days = np.unique(time_us // DAY_US)
    evidence = {
        "rows": len(time_us), "of": of, "clicks": int(label.sum()), "days": len(days), "hours": len(hours),
        "worst_day": day_name(int(hours[np.argmax(rows)]) * HOUR_US), "worst_hour": int(hours[np.argmax(rows)]) % 24,
    }  # fmt: skip
    return sign("control-totals", symptom, subject, float(len(time_us)), evidence, day_name(int(time_us.min())))


def odd_labels(parts: Mapping[str, Dataset], table: AucTable, reference: AucTable | None) -> list[Finding]:
    """What labels give away without any store: a click rate that no other part or earlier set comes near; columns that used
    to order clicks well and now order them the other way round."""
    found = []
    counts = {name: (len(part), int(part.label.sum())) for name, part in parts.items() if len(part)}
    before = (sum(reference.rows), sum(reference.clicks)) if reference else None
    for name, (rows, clicks) in counts.items():
        rest = before or tuple(np.sum([c for n, c in counts.items() if n != name] or [(0, 0)], axis=0).tolist())
        if min(rest[1], rest[0]) < LEAST_CLICKS or max(clicks, rows - clicks) < LEAST_CLICKS:
            continue
        low, high = sorted(((clicks + 5) / (rows + 10), (rest[1] + 5) / (rest[0] + 10)))
        spread = np.sqrt(1 / (min(clicks, rows - clicks) + 5) + 1 / (min(rest[1], rest[0] - rest[1]) + 5))
        if np.log(high / low) > np.log(RATE_APART) + 4 * spread:
            evidence = {"click_rate": clicks / rows, "usual": rest[1] / rest[0], "rows": rows}
            found.append(sign("label-sanity", "click-rate", name, float(np.log(high / low) / np.log(RATE_APART)), evidence))
    if reference is not None:
        found += _inverted(table, reference)
    return found


def _inverted(table: AucTable, reference: AucTable) -> list[Finding]:
    """Wrong class index: of the columns whose AUC was clear in history, most now lie on the other side of one half."""
    shared = [name for name in table.features if name in reference.features]
    now = np.array([_mean(table.auc[table.features.index(name)]) for name in shared])
    then = np.array([_mean(reference.auc[reference.features.index(name)]) for name in shared])
    clear = np.isfinite(now) & np.isfinite(then) & (np.abs(then - 0.5) >= STRONG)
    if clear.sum() < 3:
        return []
    kept = float(((now[clear] - 0.5) * np.sign(then[clear] - 0.5)).sum() / np.abs(then[clear] - 0.5).sum())
    if kept > -INVERTED:
        return []
    evidence = {"columns": int(clear.sum()), "auc_kept": kept, "best_then": float(then[clear].max())}
    return [sign("label-sanity", "auc-inverted", "label", kept / -INVERTED, evidence)]


def _mean(values: Array) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else np.nan
