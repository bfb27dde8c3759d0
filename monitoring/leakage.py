"""The leakage audit: what a candidate training set must pass before anything is trained on it.

Pure: sets of rows in, findings that name the column out; reading and replaying is the caller's work.  Called by the
training flow as a gate, by retraining and by the leakage drill.  The opening story: a public MLOps template trains on two
columns that add up to its target, and strict types, validation and full test coverage did not notice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from features.ids import mix, text_id, uniform
from infra.clock import DAY_US, day_name
from models.contract import Dataset
from monitoring.auc import AucTable, above_cap, auc, auc_by_day, click_rates, jumps
from monitoring.findings import Checks, Finding

Array = npt.NDArray[Any]
I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]

REPLAY_ROWS = 4000  # of each class
COPY_AUC = 0.99  # a column that orders clicks this well is the target in disguise
LEARNED_MISMATCH = 0.0005  # share of replayed values that may differ: rounding of decayed sums to float32 at a tie
SALT = 0x5245504C


@dataclass(frozen=True, slots=True)
class Totals:
    """Rows and clicks that the labelled impressions of a day hold, counted without going through the join."""

    rows: int
    clicks: int


@dataclass(frozen=True, slots=True)
class Replayed:
    """Feature values recomputed for some rows of a candidate set: `rows` [k] are indexes, `columns` as in the set, [k]
    each."""

    rows: I64
    columns: Mapping[str, Array]


def audit(
    parts: Mapping[str, Dataset],
    reference: AucTable | None,
    replayed: Mapping[str, Replayed],
    totals: Mapping[str, Totals] | None,
    slow: Sequence[str] = (),
) -> tuple[Checks, AucTable]:
    """Every check on a candidate set given as parts in time order (train, valid, ...); also its AUC table, the next
    reference.

    `reference` is the AUC table of the last accepted set, None where none was accepted; `replayed` maps part names to
    recomputed values of some of their rows; `totals` maps event days to counts.  Checks that miss their input are
    skipped with the reason.
    """
    checks = Checks()
    whole = concatenate(list(parts.values()))
    table = auc_by_day(whole)
    if reference is None:
        checks.skip("auc-jump", "no training set was accepted before; the cap alone stands")
    else:
        checks.record("auc-jump", jumps(table, reference))
    checks.record("auc-cap", above_cap(table, slow))
    checks.record("target-copy", target_copies(whole))
    for name, again in replayed.items():
        checks.record(f"as-of-replay {name}", replay_mismatches(parts[name], again))
    if not replayed:
        checks.skip("as-of-replay", "no recomputed values were given")
    checks.record("split-overlap", overlaps(parts))
    if totals is None:
        checks.skip("control-totals", "no totals were given")
    else:
        checks.record("control-totals", off_totals(whole, totals))
    return checks, table


def concatenate(parts: Sequence[Dataset]) -> Dataset:
    """Rows of several data sets with the same columns, one after the other."""

    def join(pick: str) -> Array:
        return np.concatenate([getattr(part, pick) for part in parts])

    columns = {name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns}
    return Dataset(columns, join("label"), join("slot"), join("time_us"), join("group"), join("row_id"), join("randomised"))


def replay_sample(data: Dataset, most: int = REPLAY_ROWS) -> I64:
    """Indexes of the rows to recompute, ascending: by hashed id, up to `most` clicked and as many not clicked.

    Leaks change the rows that were clicked, so an even sample of all rows would mostly look where nothing happens.
    """
    luck = uniform(data.row_id, SALT)
    chosen = []
    for clicked in (1, 0):
        rows = np.flatnonzero(data.label == clicked)
        chosen.append(rows[np.argsort(luck[rows], kind="stable")[:most]])
    return np.sort(np.concatenate(chosen))


def differs(left: Array, right: Array) -> npt.NDArray[np.bool_]:
    """Row by row, whether two columns disagree: NaN equals NaN; floats to 1e-5 relative and 1e-6 absolute; all else
    exactly."""
    if left.dtype.kind == "f" and right.dtype.kind == "f":
        unequal = ~np.isclose(left, right, rtol=1e-5, atol=1e-6, equal_nan=True)
    else:
        unequal = np.asarray(left != right)
    return np.asarray(unequal.any(axis=1) if unequal.ndim == 2 else unequal, dtype=np.bool_)


def replay_mismatches(data: Dataset, replayed: Replayed) -> list[Finding]:
    """Columns whose values are not what was known at the request's time; evidence splits the rate by clicked and not
    clicked."""
    clicked = data.label[replayed.rows].astype(bool)
    found = []
    for name, again in replayed.columns.items():
        if name not in data.columns:
            continue
        wrong = differs(data.columns[name][replayed.rows], again)
        limit = max(LEARNED_MISMATCH * len(wrong), 2)
        if wrong.sum() <= limit:
            continue
        first = int(data.time_us[replayed.rows[np.flatnonzero(wrong)]].min())
        found.append(
            Finding("as-of-replay", "label-leakage", name, "page", {
                "rows": len(wrong), "mismatches": int(wrong.sum()), "rate": float(wrong.mean()),
                "rate_clicked": float(wrong[clicked].mean()) if clicked.any() else 0.0,
                "rate_not_clicked": float(wrong[~clicked].mean()) if not clicked.all() else 0.0,
            }, day_name(first), float(wrong.sum() / limit))
        )  # fmt: skip
    return found


def content_hash(data: Dataset) -> U64:
    """A hash [n] of everything in a row but its id: equal for an event that was logged again under a new id."""
    state = mix(data.time_us, data.group, data.slot.astype(np.int64), data.label.astype(np.int64))
    for name, values in sorted(data.columns.items()):
        for column in values.T if values.ndim == 2 else (values,):
            if column.dtype.kind == "f":
                state = mix(state, np.ascontiguousarray(column, dtype=np.float64).view(np.int64))
            elif column.dtype.kind in "US":
                words, codes = np.unique(column, return_inverse=True)
                state = mix(state, np.array([text_id(str(word)) for word in words], dtype=np.int64)[codes])
            else:
                state = mix(state, column.astype(np.int64))
        state = mix(state, text_id(name))
    return state


def overlaps(parts: Mapping[str, Dataset]) -> list[Finding]:
    """Rows that stand on both sides of a split or twice in a part, by id or by content; parts that overlap in time."""
    found = []
    content = {name: content_hash(part) for name, part in parts.items()}
    ids = {name: part.row_id for name, part in parts.items()}
    keys: list[tuple[str, Mapping[str, Array]]] = [("id", ids), ("content", content)]
    for kind, of in keys:
        for name, values in of.items():
            twice = len(values) - len(np.unique(values))
            if twice:
                found.append(_overlap("duplicate-rows", f"{name}", kind, twice, len(values)))
        for one, other in combinations(of, 2):
            both = int(np.isin(of[other], of[one]).sum())
            if both:
                found.append(_overlap("split-overlap", f"{one} / {other}", kind, both, len(of[other])))
    filled = [(name, part) for name, part in parts.items() if len(part)]
    for (one, earlier), (other, later) in pairwise(filled):
        if earlier.time_us.max() >= later.time_us.min():
            late = int((earlier.time_us >= later.time_us.min()).sum())
            found.append(_overlap("split-overlap", f"{one} / {other}", "time", late, len(earlier)))
    return found


def _overlap(bug_class: str, subject: str, kind: str, rows: int, of: int) -> Finding:
    return Finding("split-overlap", bug_class, subject, "page", {"by": kind, "rows": rows, "of": of}, None, float(rows))


def target_copies(data: Dataset) -> list[Finding]:
    """Columns that are the target in disguise: alone (their order gives clicks away), or as the sum or difference of two."""
    label = data.label.astype(bool)
    if not label.any() or label.all():
        return []
    found = []
    rows = replay_sample(data)
    y = label[rows]
    numeric: dict[str, Array] = {}
    for name, values in data.columns.items():
        if values.ndim != 1:
            continue
        if values.dtype.kind == "f":
            numeric[name] = values.astype(np.float64)
            area = auc(np.nan_to_num(numeric[name][rows], nan=-np.inf), y)[0]
            opposite = auc(np.nan_to_num(numeric[name][rows], nan=np.inf), y)[0]
        elif len(np.unique(values[rows])) > len(rows) // 4:
            continue  # an identifier: it cannot say anything about rows it has not seen
        else:
            area = opposite = auc(click_rates(values[rows], y, data.row_id[rows]), y)[0]
        best = max(area, 1 - area, opposite, 1 - opposite)
        if best >= COPY_AUC:
            found.append(
                Finding("target-copy", "label-leakage", name, "page", {"auc": float(best), "limit": COPY_AUC}, None,
                        float((best - 0.5) / (COPY_AUC - 0.5)))
            )  # fmt: skip
    told = {finding.subject for finding in found}
    names = [name for name in numeric if name not in told]
    few = np.concatenate([np.flatnonzero(y)[:128], np.flatnonzero(~y)[:128]])
    for one, other in combinations(names, 2):
        for sign in (1.0, -1.0):
            if np.allclose(numeric[one][rows[few]] + sign * numeric[other][rows[few]], y[few], rtol=0, atol=1e-4):
                share = float(np.isclose(numeric[one] + sign * numeric[other], label, rtol=0, atol=1e-4).mean())
                word = "sum" if sign > 0 else "difference"
                evidence = {"with": other, "as": word, "rows_reproduced": share}
                found.append(Finding("target-copy", "label-leakage", one, "page", evidence, None, share / 0.5))
                found.append(
                    Finding("target-copy", "label-leakage", other, "page", {**evidence, "with": one}, None, share / 0.5)
                )
    return found


def off_totals(data: Dataset, totals: Mapping[str, Totals]) -> list[Finding]:
    """Event days whose rows or clicks in the set differ from the control totals."""
    days, place = np.unique(data.time_us // DAY_US, return_inverse=True)
    rows = np.bincount(place, minlength=len(days))
    clicks = np.bincount(place, weights=data.label, minlength=len(days)).astype(int)
    have = {day_name(int(d) * DAY_US): Totals(int(r), int(c)) for d, r, c in zip(days, rows, clicks, strict=True)}
    found = []
    for day in sorted(have.keys() | totals.keys()):
        is_, should = have.get(day, Totals(0, 0)), totals.get(day, Totals(0, 0))
        for subject, got, want in (("rows", is_.rows, should.rows), ("clicks", is_.clicks, should.clicks)):
            if got != want:
                evidence = {"day": day, "set": got, "total": want}
                found.append(
                    Finding("control-totals", "lost-or-extra-rows", subject, "page", evidence, day, float(abs(got - want)))
                )
    return found
