"""Is the split clean?  Rows that stand on both sides, by id or by content, parts that interleave in time, labels that the order
of the rows gives away.  Pure; called by `monitoring.gate.audit`.
"""

from collections.abc import Mapping
from itertools import combinations

import numpy as np
import numpy.typing as npt

from features.ids import mix, text_id
from infra.clock import DAY_US, day_name
from models.contract import Dataset
from monitoring.findings import Checks, Finding
from monitoring.gate.columns import Array, Bool, concatenate
from monitoring.gate.signs import sign

U64 = npt.NDArray[np.uint64]

SAME_TIME_US = 60_000_000  # an event logged again may carry a time that is off by up to a minute
FINGERPRINT = 0.5  # a column of numbers with this share of distinct values marks a row nearly by itself
TOLERATED = 2  # near copies that chance may make
CLUSTERED = 0.5  # share of clicked rows followed by a clicked row of another request: in order of time some 5%
SALT = 0x53504C54


def fingerprints(data: Dataset) -> list[str]:
    """Columns that hardly hold a value twice: two rows that agree in them and in all else are one event."""
    found = []
    for name, values in data.columns.items():
        if values.ndim == 1 and values.dtype.kind == "f" and len(values):
            known = values[np.isfinite(values)]
            if len(known) > 0.5 * len(values) and len(np.unique(known)) >= FINGERPRINT * len(known):
                found.append(name)
    return found


def content_hash(data: Dataset) -> U64:
    """A hash [n] of user, slot and every column, but neither id nor time: equal for an event that was logged again."""
    state = mix(SALT, data.group, data.slot.astype(np.int64), data.label.astype(np.int64))
    total = np.zeros(len(data), np.uint64)
    with np.errstate(over="ignore"):
        for name, values in sorted(data.columns.items()):
            for place, column in enumerate(values.T if values.ndim == 2 else (values,)):
                # A column's bits times an odd number of its own, added up: multilinear hashing (Lemire and Kaser 2014).
                total += _bits(column) * (mix(text_id(name), place) | np.uint64(1))
    return mix(state, total)


def _bits(column: Array) -> U64:
    if column.dtype.kind == "f":
        return np.ascontiguousarray(column, dtype=np.float32).view(np.uint32).astype(np.uint64) + np.uint64(1)
    if column.dtype.kind in "US":
        words, at = np.unique(column, return_inverse=True)
        return np.array([text_id(str(word)) for word in words], dtype=np.uint64)[at]
    return column.astype(np.uint64)


def overlaps(parts: Mapping[str, Dataset]) -> Checks:
    """Rows that stand on both sides of a split or twice in a part: by id, by content, by content at nearly the same time or
    with any time at all where a column marks rows."""
    checks = Checks()
    found = []
    content = {name: content_hash(part) for name, part in parts.items()}
    marks = fingerprints(concatenate(list(parts.values())))
    for one, other in [(name, name) for name in parts] + list(combinations(parts, 2)):
        here, there = parts[one], parts[other]
        between = one if one == other else f"{one} / {other}"
        ids = _twice(here.row_id, there.row_id, one == other)
        if ids.any():
            found.append(_copies("same-id", between, "id", there, ids))
        copies = _twice(content[one], content[other], one == other) & ~ids
        if not copies.any():
            continue
        apart = _time_apart(here, content[one], there, content[other], copies, one == other)
        if (apart == 0).any():
            same = copies.copy()
            same[copies] = apart == 0
            found.append(_copies("same-content", between, "content", there, same))
        near = copies.copy()
        near[copies] = (apart > 0) & ((apart <= SAME_TIME_US) | _marked(there, copies, marks))
        if near.sum() > TOLERATED:
            found.append(_copies("near-copy", between, "content but not time", there, near))
    checks.record("split-overlap", found)
    if not marks:
        checks.skip("near-copies", "no column marks a row: copies with a new id and time cannot be told from neighbours")
    return checks


def _twice(one: Array, other: Array, same: bool) -> Bool:
    """Which of `other` stand in `one`; of a part with itself, which stand there before."""
    if not same:
        return np.isin(other, one)
    order = np.argsort(other, kind="stable")
    again = np.zeros(len(other), np.bool_)
    again[order[1:]] = other[order][1:] == other[order][:-1]
    return again


def _time_apart(here: Dataset, one: U64, there: Dataset, other: U64, rows: Bool, same: bool) -> Array:
    """How long in us the rows of `there` are from the row of `here` with the same content that is nearest in time."""
    far = np.iinfo(np.int64).max
    wanted = np.isin(one, other[rows])
    query = np.concatenate([np.zeros(int(wanted.sum()), np.bool_), np.ones(0 if same else int(rows.sum()), np.bool_)])
    key = np.concatenate([one[wanted], other[rows][: query.sum()]])
    time = np.concatenate([here.time_us[wanted], there.time_us[rows][: query.sum()]])
    order = np.lexsort((query, time, key))
    key, time, query = key[order], time[order], query[order]
    apart = np.full(len(key), far)
    for step in (1, -1):  # the nearest row of `here` before, then after
        k, t, source = key[::step], time[::step], ~query[::step]
        last = np.maximum.accumulate(np.where(source, np.arange(len(k)), -1))
        before = np.append(-1, last[:-1])
        known = (before >= 0) & (k[before] == k)
        apart[::step][known] = np.minimum(apart[::step], np.abs(t - t[before]))[known]
    place = np.empty(len(key), np.int64)
    place[order] = np.arange(len(key))
    mine = place[len(place) - int(query.sum()) :] if not same else place[rows[wanted]]
    return apart[mine]


def _marked(data: Dataset, rows: Bool, marks: list[str]) -> Bool:
    if not marks:
        return np.zeros(int(rows.sum()), np.bool_)
    return np.asarray(np.logical_or.reduce([np.isfinite(data.columns[name][rows]) for name in marks]), np.bool_)


def _copies(symptom: str, between: str, by: str, data: Dataset, rows: Bool) -> Finding:
    count = int(rows.sum())
    evidence = {"between": between, "by": by, "rows": count, "of": len(data)}
    first = day_name(int(data.time_us[rows].min()))
    excess = count / TOLERATED if symptom == "near-copy" else float(count)
    return sign("split-overlap", symptom, "split", excess, evidence, first)


def interleaved(parts: Mapping[str, Dataset]) -> list[Finding]:
    """Parts that do not follow each other in time: training knows what came after; and the users found on both sides."""
    found = []
    filled = [(name, part) for name, part in parts.items() if len(part)]
    for at, (one, earlier) in enumerate(filled):
        for other, later in filled[at + 1 :]:
            late = earlier.time_us >= later.time_us.min()
            early = later.time_us <= earlier.time_us.max()
            if not late.any():
                continue
            shared = len(np.intersect1d(earlier.group[late], later.group[early]))
            days = len(np.unique(np.concatenate([earlier.time_us[late], later.time_us[early]]) // DAY_US))
            evidence = {
                "between": f"{one} / {other}", "rows_after": int(late.sum()), "of": len(earlier),
                "rows_before": int(early.sum()), "of_later": len(later), "days": days, "users_on_both_sides": shared,
            }  # fmt: skip
            rows = min(int(late.sum()), int(early.sum()))
            found.append(sign("time-order", "interleaved", "split", float(max(rows, 1)), evidence,
                              day_name(int(later.time_us.min()))))  # fmt: skip
    return found


def ordered_by_label(parts: Mapping[str, Dataset]) -> list[Finding]:
    """Parts in which clicked rows stand together: who reads them in order (or takes the row number along) reads labels."""
    found = []
    for name, part in parts.items():
        clicked = np.flatnonzero(part.label == 1)
        clicked = clicked[clicked < len(part) - 1]
        if len(clicked) < 10 or part.label.mean() > CLUSTERED / 2:
            continue
        share = float(part.label[clicked + 1].mean())
        if share > CLUSTERED:
            evidence = {"clicked_after_clicked": share, "click_rate": float(part.label.mean())}
            found.append(sign("row-order", "row-order", name, share / CLUSTERED, evidence))
    return found
