"""What do the mismatches of a feature look like?  From pairs of logged and recomputed values to a symptom and a likely class.

Pure, on arrays of the mismatching rows only: float64 with NaN for numbers, objects with None for categories.  Called by the
replay tier.  Patterns are tried from the simplest on; the first that holds for `HOLDS` of the rows is the answer.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from monitoring.comparison import Array, differs

Mask = npt.NDArray[np.bool_]

HOLDS = 0.7  # share of the mismatching rows that a pattern must explain: benign mismatches lie among them
FEW = 3  # rows below which a pattern is an anecdote
SAME_RATIO = 5e-4  # relative width of "one ratio": float32 logarithms of prices, taken back
NO_UNIT = 0.02  # no two units lie this near: lost digits do
DECAY = 0.4  # a ratio nearer to one (log scale) may be a decayed counter a day or two old, alike for all who were away
SURE = 0.95  # so it must hold for nearly all
DECIMALS = (4, 3, 2, 1, 0, -1, -2)  # grids of roundings that are looked for
DEFAULTS = (0.0, -1.0, 1.0)  # what code fills in by itself


@dataclass(frozen=True, slots=True)
class Pattern:
    """One explanation of a feature's mismatches."""

    symptom: str  # of findings.SYMPTOMS["replay"]
    bug_class: str  # a slug of monitoring.classes
    share: float  # of the mismatching rows that it explains
    evidence: Mapping[str, Any]


# Simpler first: breaks ties between features that mismatch on the same rows, where the simple one is the source.
SIMPLICITY = ("shifted", "to-default", "to-null", "from-null", "permuted", "ratio", "rounded", "older", "mismatch")


def pattern(
    logged: Array,
    again: Array,
    of_day: Array | None = None,
    day_old: Array | None = None,
    has_old: Mask | None = None,
    old: Mask | None = None,
) -> Pattern:
    """The simplest pattern of mismatching values [n].

    `of_day`: the hour of the day of each row by its time; `day_old`: the values as the store stood a day earlier, where
    `has_old` says that they were looked up; `old`: whether the row's view was older than usual.
    """
    candidates = [c for c in _candidates(logged, again, of_day, day_old, has_old, old) if c.share >= HOLDS]
    if len(logged) >= FEW and candidates:
        return candidates[0]
    if logged.dtype.kind == "O":
        return Pattern("mismatch", "category-reencoding", 1.0, {"pairs": _pairs(logged, again)})
    known = ~np.isnan(logged) & ~np.isnan(again)
    gap = logged[known] - again[known]
    return Pattern("mismatch", "stale-features", 1.0, {"median_gap": float(np.median(gap)) if known.any() else 0.0})


def _candidates(
    logged: Array, again: Array, of_day: Array | None, day_old: Array | None, has_old: Mask | None, old: Mask | None
) -> Iterator[Pattern]:
    text = logged.dtype.kind == "O"
    null_now, null_then = _null(logged), _null(again)
    if of_day is not None:
        yield from _shifted(logged, again, of_day)
    if day_old is not None and has_old is not None and has_old.any():
        stale = float((~differs(logged[has_old], day_old[has_old])).mean())
        if stale >= HOLDS and len({*logged.tolist()}) > 1:
            yield Pattern("older", "stale-features", stale, {"equal_to_a_day_old": stale})
    to_null = null_now & ~null_then
    if to_null.any():
        value, most = _mode(again[to_null])
        same = most >= HOLDS and to_null.sum() > FEW and _is_default(value)
        kind = "imputation-difference" if same else "null-spike"
        yield Pattern("to-null", kind, float(to_null.mean()), {"recomputed": value} if same else {})
    from_null = null_then & ~null_now
    if from_null.any():
        value, most = _mode(logged[from_null])
        yield Pattern("from-null", "imputation-difference", float(from_null.mean()), {"logged": value, "one_value": most})
    rest = ~null_now & ~null_then
    if rest.any():
        value, most = _mode(logged[rest])
        several = len({*again[rest].tolist()}) > 1
        if most >= HOLDS and (several or _is_default(value)):
            yield Pattern("to-default", "default-value-skew", float(rest.mean() * most), {"logged": value})
    if old is not None and old.mean() >= HOLDS:
        yield Pattern("older", "stale-features", float(old.mean()), {"older_rows": float(old.mean())})
    if text:
        yield from _permuted(logged, again, rest)
    elif rest.any():
        yield from _ratio(logged[rest], again[rest], float(rest.mean()))
        yield from _rounded(logged[rest], again[rest], float(rest.mean()))


def _shifted(logged: Array, again: Array, of_day: Array) -> Iterator[Pattern]:
    """An hour of the day (the recomputed value is the hour of the row's time) that is logged some hours off."""
    then, now = _whole(again), _whole(logged)
    if then is None or now is None or (then == of_day).mean() < HOLDS:
        return
    if now.min() < 0 or now.max() > 23:
        return
    hours, counts = np.unique((now - then) % 24, return_counts=True)
    share = counts.max() / len(now)
    shift = int(hours[np.argmax(counts)])
    if shift:
        yield Pattern("shifted", "time-zone-shift", float(share), {"hours": shift if shift <= 12 else shift - 24})


def _permuted(logged: Array, again: Array, rest: Mask) -> Iterator[Pattern]:
    """Each category became one other category."""
    if not rest.any():
        return
    became: dict[str, Counter[str]] = {}
    for then, now in zip(again[rest].tolist(), logged[rest].tolist(), strict=True):
        became.setdefault(then, Counter())[now] += 1
    held = sum(counts.most_common(1)[0][1] for counts in became.values())
    images = {counts.most_common(1)[0][0] for counts in became.values()}
    if len(images) >= HOLDS * len(became):
        yield Pattern("permuted", "category-reencoding", held / len(logged), {"pairs": _pairs(logged, again)})


def _pairs(logged: Array, again: Array) -> list[str]:
    """The commonest changes, as text."""
    changes = Counter(zip(map(str, again.tolist()), map(str, logged.tolist()), strict=True))
    return [f"{then} > {now}" for (then, now), _ in changes.most_common(4)]


def _ratio(logged: Array, again: Array, known: float) -> Iterator[Pattern]:
    """A constant factor, in the values or in what they are the logarithm (log, log1p) of."""
    forms = {
        "": (logged, again),
        "exp ": (np.exp(np.clip(logged, -60, 60)), np.exp(np.clip(again, -60, 60))),
        "expm1 ": (np.expm1(np.clip(logged, -60, 60)), np.expm1(np.clip(again, -60, 60))),
    }
    for form, (now, then) in forms.items():
        usable = np.abs(then) > 1e-12
        if usable.sum() < FEW or np.ptp(then[usable]) == 0:
            continue
        ratio = now[usable] / then[usable]
        middle = float(np.median(ratio))
        if middle == 0 or not np.isfinite(middle) or abs(middle - 1) < NO_UNIT:
            continue
        share = float((np.abs(ratio - middle) <= SAME_RATIO * abs(middle)).mean() * usable.mean())
        if share >= (HOLDS if middle < 0 or abs(np.log(middle)) > DECAY else SURE):
            yield Pattern("ratio", "unit-change", share * known, {"ratio": middle, "of": form.strip() or "value"})
            return


def _rounded(logged: Array, again: Array, known: float) -> Iterator[Pattern]:
    """Fewer digits than recomputed: half precision, or a decimal grid (rounded or cut)."""
    with np.errstate(over="ignore"):
        half = again.astype(np.float16).astype(np.float64)
    cut = (again.astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32).astype(np.float64)
    for name, value in (("float16", half), ("bfloat16", cut)):
        share = float(np.isclose(logged, value, rtol=1e-6, atol=1e-9).mean())
        if share >= HOLDS:
            yield Pattern("rounded", "cast-or-rounding", share * known, {"to": name})
            return
    for decimals in DECIMALS:
        scale = 10.0**decimals
        slack = 1e-4 + 1e-7 * np.abs(again * scale)  # float32 has no more digits
        on_grid = np.abs(logged * scale - np.round(logged * scale)) <= slack
        near = np.abs(logged - again) * scale <= 1 + slack
        fine = np.abs(again * scale - np.round(again * scale)) > 3 * slack
        share = float((on_grid & near & fine & (slack < 0.05)).mean())
        if share >= HOLDS:
            yield Pattern("rounded", "cast-or-rounding", share * known, {"to": f"{decimals} decimals"})
            return


def _null(values: Array) -> Mask:
    if values.dtype.kind == "O":
        return np.array([value is None for value in values.tolist()], dtype=bool)
    return np.asarray(np.isnan(values), dtype=bool)


def _mode(values: Array) -> tuple[Any, float]:
    """The commonest value and its share; numbers count as equal to six digits."""
    shown = values if values.dtype.kind == "O" else np.array([float(f"{v:.6g}") for v in values.tolist()])
    value, count = Counter(shown.tolist()).most_common(1)[0]
    return value, count / len(values)


def _is_default(value: Any) -> bool:
    return value in DEFAULTS or value in ("", "0", "-1", "unknown", "other", "none", "null", "nan")


def _whole(values: Array) -> npt.NDArray[np.int64] | None:
    """Values as whole numbers, None where some aren't."""
    try:
        numbers = np.array([float(v) for v in values.tolist()])
    except (TypeError, ValueError):
        return None
    if np.isnan(numbers).any() or (numbers != np.floor(numbers)).any():
        return None
    return np.asarray(numbers.astype(np.int64))
