"""As-of replay: are the values of a training set what was known at each request's time?  And where not, what do they look like?

The values are recomputed from the store for a sample of its impressions (`monitoring.gate.ledger`).  How a wrong value is wrong
tells one bug from another: wrong only where somebody clicked, constant for each user or ad, or on the way to a later value.
Pure; called by `monitoring.gate.audit`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from infra.clock import DAY_US, day_name
from models.contract import Dataset
from monitoring.comparison import differs
from monitoring.findings import Finding
from monitoring.gate.auc import auc
from monitoring.gate.columns import I64, Array, Bool, codes, crossed, keys
from monitoring.gate.encoding import label_statistic
from monitoring.gate.signs import sign

LEARNED_MISMATCH = 0.0005  # share of replayed values that may differ: rounding of decayed sums to float32 at a tie
CLICKED_ONLY = 20.0  # times as often wrong where clicked as where not
CONSTANT = 0.9  # share of neighbours with one key, on different days, that hold one value
ELSEWHERE, RICH = (
    0.5,
    0.05,
)  # share of wrong values that are other rows' right ones; distinct values a row that make this no luck
TOWARDS_LATER = 0.3  # correlation of the error with the change still to come
GIVES_AWAY, TELLS = (
    0.97,
    0.85,
)  # AUC of the wrong values alone: the label itself; or, where they are not later ones, made from it
FEW_ROWS = 8  # fewer wrong rows than this tell nothing about what is wrong with them
VOUCHED_ROWS, VOUCHED_CLICKS = 400, 40  # compared without a mismatch: a column that replay vouches for

Later = Callable[[I64], Sequence[Mapping[str, Array]]]


@dataclass(frozen=True, slots=True)
class Replayed:
    """Feature values recomputed for k impressions, `row_id` [k] ascending."""

    row_id: I64
    columns: Mapping[str, Array]  # as in the set, [k] each
    later: Later | None = None  # row ids -> their features as seen at later moments; asked only about wrong rows


@dataclass(frozen=True, slots=True)
class Compared:
    """What replay found, and the columns that it vouches for."""

    findings: list[Finding]
    vouched: frozenset[str]
    rows: int


def compare(data: Dataset, replayed: Replayed, part: I64) -> Compared:
    """Columns of the set whose values are not what was known at the request's time, with what their errors look like.

    `part` [n] says which part of the set a row stands in.
    """
    at = np.minimum(np.searchsorted(replayed.row_id, data.row_id), max(len(replayed.row_id) - 1, 0))
    rows = np.flatnonzero(replayed.row_id[at] == data.row_id) if len(replayed.row_id) else np.zeros(0, np.int64)
    at = at[rows]
    clicked = data.label[rows].astype(bool)
    limit = max(LEARNED_MISMATCH * len(rows), 2.0)
    enough = len(rows) >= VOUCHED_ROWS and clicked.sum() >= VOUCHED_CLICKS
    found, vouched, bad = [], set(), {}
    for name, again in replayed.columns.items():
        if name not in data.columns:
            continue
        wrong = differs(data.columns[name][rows], again[at])
        if wrong.sum() > limit:
            bad[name] = wrong
        elif enough and not wrong.any():
            vouched.add(name)
    grouped = cache(lambda: crossed(keys(data)))  # made only where something is wrong
    ahead = _ahead(replayed, data.row_id[rows], bad)
    for name, wrong in bad.items():
        symptom, evidence = _look(data, name, rows, at, wrong, clicked, replayed, ahead, part, grouped)
        first = int(data.time_us[rows[wrong]].min())
        found.append(sign("as-of-replay", symptom, name, float(wrong.sum() / limit), {
            "rows": len(wrong), "mismatches": int(wrong.sum()), "rate": float(wrong.mean()), **evidence,
        }, day_name(first)))  # fmt: skip
    return Compared(found, frozenset(vouched), len(rows))


def _ahead(replayed: Replayed, ids: I64, bad: Mapping[str, Bool]) -> tuple[I64, Sequence[Mapping[str, Array]]]:
    """Ids of wrong rows (ascending) and their features as they were seen later."""
    if replayed.later is None or not bad:
        return np.zeros(0, np.int64), []
    wanted = np.unique(ids[np.logical_or.reduce(list(bad.values()))])[:2000]
    return wanted, replayed.later(wanted)


def _look(
    data: Dataset,
    name: str,
    rows: I64,
    at: I64,
    wrong: Bool,
    clicked: Bool,
    replayed: Replayed,
    ahead: tuple[I64, Sequence[Mapping[str, Array]]],
    part: I64,
    grouped: Callable[[], Mapping[str, I64]],
) -> tuple[str, dict[str, Any]]:
    """(symptom, evidence) of one column's errors."""
    rate_clicked = float(wrong[clicked].mean()) if clicked.any() else 0.0
    rate_rest = float(wrong[~clicked].mean()) if not clicked.all() else 0.0
    evidence: dict[str, Any] = {"rate_clicked": rate_clicked, "rate_not_clicked": rate_rest}
    if rate_clicked > CLICKED_ONLY * rate_rest:
        return "replay-clicked-only", evidence
    values, truth = data.columns[name][rows], replayed.columns[name][at]
    key, constant = _constant_by(data, name, rows[wrong], part[rows[wrong]])
    evidence |= {"constant_by": key, "constant": constant}
    if values.ndim != 1 or wrong.sum() < FEW_ROWS:
        return "replay-mismatch", evidence
    made_of, same = label_statistic(values[wrong], rows[wrong], grouped(), data.label.astype(bool), part)
    if made_of:
        return "replay-key-constant", {**evidence, "constant_by": made_of, "constant": same}
    number, telling = values.dtype.kind == "f" and truth.dtype.kind == "f", False
    if number and wrong.sum() >= FEW_ROWS and 0 < clicked[wrong].sum() < wrong.sum():
        area = auc(np.nan_to_num(values[wrong].astype(np.float64), nan=-np.inf), clicked[wrong])[0]
        evidence["auc_of_wrong"] = float(area)
        if max(area, 1 - area) >= GIVES_AWAY:
            return "replay-label", evidence
        telling = max(area, 1 - area) >= TELLS
    later = _towards(values, truth, data.row_id[rows], wrong, name, ahead) if number else 0.0
    elsewhere = _elsewhere(values[wrong], replayed.columns[name])
    evidence |= {"towards_later": later, "known_elsewhere": elsewhere}
    if elsewhere >= ELSEWHERE:
        return "replay-later", evidence
    if constant >= CONSTANT:
        return "replay-key-constant", evidence
    if later >= TOWARDS_LATER:
        return "replay-later", evidence
    return ("replay-label" if telling else "replay-mismatch"), evidence


def _elsewhere(wrong: Array, truth: Array) -> float:
    """The share of wrong values that are right ones of other rows: taken from another time, not made up.  0 where the column
    has so few values that this would be luck."""
    known = truth[np.isfinite(truth)] if truth.dtype.kind == "f" else truth
    distinct = np.unique(known)
    return float(np.isin(wrong, distinct).mean()) if len(distinct) > RICH * max(len(known), 1) else 0.0


def _constant_by(data: Dataset, name: str, rows: I64, part: I64) -> tuple[str, float]:
    """The key of whose rows in one part on different days the largest share hold one value, and that share: 0 where the column
    hardly varies at all, or too few pairs are there."""
    value = codes(data.columns[name][rows]) if data.columns[name].ndim == 1 else np.zeros(len(rows), np.int64)
    day = data.time_us[rows] // DAY_US
    best = ("", 0.0)
    if len(rows) < FEW_ROWS or np.bincount(value).max() > 0.5 * len(rows):
        return best
    candidates = {n: v[rows] for n, v in data.columns.items() if v.ndim == 1 and v.dtype.kind != "f" and n != name}
    for key, of in {**candidates, "group": data.group[rows]}.items():
        code = codes(of)
        code = code * (int(part.max()) + 1) + part
        order = np.lexsort((day, code))
        pair = (code[order][1:] == code[order][:-1]) & (day[order][1:] != day[order][:-1])
        if pair.sum() >= FEW_ROWS:
            share = float((value[order][1:] == value[order][:-1])[pair].mean())
            best = max(best, (key, share), key=lambda found: found[1])
    return best


def _towards(
    values: Array, truth: Array, ids: I64, wrong: Bool, name: str, ahead: tuple[I64, Sequence[Mapping[str, Array]]]
) -> float:
    """The largest correlation, over later moments, of a value's error with the change that was still to come."""
    asked, moments = ahead
    mine = np.flatnonzero(wrong & np.isin(ids, asked))
    best = 0.0
    for columns in moments:
        coming = columns[name][np.searchsorted(asked, ids[mine])].astype(np.float64) - truth[mine]
        error = values[mine].astype(np.float64) - truth[mine]
        known = np.isfinite(coming) & np.isfinite(error)
        if known.sum() >= FEW_ROWS and coming[known].std() > 0 and error[known].std() > 0:
            best = max(best, float(np.corrcoef(coming[known], error[known])[0, 1]))
        gone = np.isnan(truth[mine]) & ~np.isnan(values[mine].astype(np.float64))  # unknown then, known later
        if gone.sum() >= FEW_ROWS and gone.mean() > 0.5:
            best = max(best, float(np.isfinite(columns[name][np.searchsorted(asked, ids[mine])][gone]).mean()))
    return best
