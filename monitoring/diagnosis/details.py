"""What the numbers behind a symptom say about its cause: a shift by a factor of 1000 is a unit, one by 8% is a season.

Pure; the ranking adds these log odds to those of the table.  Evidence that is not there says nothing.
"""

import math

from monitoring.diagnosis.observed import Observation

# Factors between units that people mix up: percent, thousand, 1024, seconds and minutes or hours, micros, inch, mile, pound.
UNITS = (60.0, 100.0, 1000.0, 1024.0, 3600.0, 1e4, 1e6, 86_400.0, 10.0, 24.0, 2.54, 1.609344, 2.20462)


def detail(slug: str, each: Observation) -> float:
    """Log odds for a class from the numbers of one of its own observations."""
    rule = _RULES.get(each.symptom)
    return each.strength * rule(slug, each) if rule else 0.0


def is_unit(ratio: float, tolerance: float = 0.06) -> bool:
    """Whether a ratio is one between units (or its inverse)."""
    size = abs(math.log(ratio)) if ratio > 0 else 0.0
    return any(abs(size - math.log(unit)) < tolerance for unit in UNITS)


def number(each: Observation, *names: str) -> float | None:
    """The first of the named numbers that the evidence has and that is finite."""
    for name in names:
        value = each.evidence.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    return None


def _location(slug: str, each: Observation) -> float:
    """Unit changes are large factors; the world drifts by small ones."""
    ratio = number(each, "ratio")
    if ratio is None or ratio <= 0:
        return 0.0
    large = abs(math.log(ratio)) > math.log(1.8) or is_unit(ratio)
    if slug == "unit-change":
        return 1.0 if large else -0.8
    return -0.5 if large and slug == "covariate-shift" else 0.3 if slug == "covariate-shift" else 0.0


def _invariant(slug: str, each: Observation) -> float:
    """A column that follows the clock and does not any more is a matter of time; one that an owner decides, is not."""
    clock = each.evidence.get("with") in ("time", "hour") or each.evidence.get("sign") == "clock+"
    if slug == "time-zone-shift":
        return (1.0 if number(each, "shift") else 0.3) if clock else -3.0
    return -1.5 if clock else 0.0


def _shares(slug: str, each: Observation) -> float:
    """The world moves shares by some percent of themselves; a value that nobody had, or a bin that is many times as full, was
    made by a mistake."""
    seen, expected = number(each, "seen"), number(each, "expected")
    if seen is None or expected is None:
        return 0.0
    times, label = seen / max(expected, 0.5), str(each.evidence.get("number", ""))
    if label == "other values" and times > 10:  # values without a share of their own, where there were hardly any
        return {"schema-change": 3.5, "category-reencoding": 0.5}.get(slug, -1.5)
    if slug == "covariate-shift":
        return -1.2 if times > 5 else 0.4 if times < 2 else 0.0
    return 0.8 if slug == "unit-change" and times > 5 and " to " in label else 0.0


def _zeros(slug: str, each: Observation) -> float:
    """Zeros that replace nulls come as nulls go."""
    share, nulls = number(each, "share"), number(each, "nulls_change")
    if share is None or nulls is None or share <= 0:
        return 0.0
    replaced = -nulls > max(0.5 * share, 0.002)
    if slug == "imputation-difference":
        return 3.0 if replaced else -2.0
    return -0.7 if replaced and slug == "default-value-skew" else 0.0


def _new(slug: str, each: Observation) -> float:
    """Values that are permuted stay in the vocabulary; a value that nobody has seen is another contract."""
    return {"schema-change": 1.0, "category-reencoding": -2.5}.get(slug, 0.0)


def _pattern(slug: str, each: Observation) -> float:
    """A pattern that holds for every mismatching row is worth more than one that some of them happen to follow."""
    share = number(each, "pattern_share")
    return 0.0 if share is None else 6.0 * (share - 0.9)


def _repeats(slug: str, each: Observation) -> float:
    """Repeats of one value are a constant; repeats of many are a coarser scale."""
    signs = each.evidence.get("signs", {})
    if each.subject != "prediction" or not isinstance(signs, dict) or "distinct+" not in signs:
        return 0.0
    one = signs.get("top+", 0.0) >= 0.85 * signs["distinct+"]
    return {"constant-fallback": 2.0 if one else -1.0, "quantisation": -1.5 if one else 1.0}.get(slug, 0.0)


def _mode(slug: str, each: Observation) -> float:
    return _zeros(slug, each) + _repeats(slug, each)


def _slice(slug: str, each: Observation) -> float:
    """Users that nobody knew and that click several times as often are no people."""
    ratio = number(each, "ratio")
    if each.subject != "user" or ratio is None or ratio < 2:
        return -1.0 if slug == "bots" else 0.0
    return {"bots": 2.0, "concept-drift": -1.0}.get(slug, 0.0)


def _tail(slug: str, each: Observation) -> float:
    ratio = number(each, "ratio")
    if slug != "unit-change" or ratio is None or ratio <= 0:
        return 0.0
    return 1.0 if is_unit(ratio) else 0.3 if abs(math.log(ratio)) > math.log(3) else -0.5


def _residual(slug: str, each: Observation) -> float:
    """A constant offset is a missing correction; spread is a model that sees other columns or is another one."""
    offset, spread, share = number(each, "offset"), number(each, "spread"), number(each, "share")
    if offset is None:
        return 0.0
    # The spread is of the logarithm of sizes, so an offset widens it as well; but an offset moves nearly every row.
    constant = abs(offset) > 2 * abs(spread or 0.0) or (abs(offset) > 0.12 and (share or 0.0) > 0.6)
    if slug == "uncorrected-downsampling":
        if offset < 0:
            return -2.0  # negatives that were left out and not corrected for make p too high, never too low
        return 1.2 if constant else -1.0
    if slug in ("feature-order", "wrong-model-version"):
        return -0.5 if constant else 0.5
    return 0.0


def _calibration_low(slug: str, each: Observation) -> float:
    """Fewer clicks, or more promised?  Without books a world with fewer clicks and a pipeline that loses them look the same;
    the pipeline is the likelier."""
    ratio, p_change = number(each, "ratio"), number(each, "p_change")
    if ratio and p_change and p_change > 1.08 and abs(math.log(p_change * ratio)) < 0.4 * abs(math.log(ratio)):
        return -1.5 if slug in ("prior-shift", "lost-clicks", "late-events") else 0.0
    return 0.25 if slug == "lost-clicks" else 0.0


def _slow(slug: str, each: Observation) -> float:
    """A ramp of a day or two is a step that was met at night."""
    days = number(each, "days")
    return -2.0 if slug == "seasonal-drift" and days is not None and days < 3 else 0.0


_RULES = {
    "location-moved": _location,
    "shares-moved": _shares,
    "invariant-broken": _invariant,
    "new-values": _new,
    **dict.fromkeys(("to-null", "to-default", "from-null", "ratio", "permuted", "rounded", "older", "shifted"), _pattern),
    "zeros-up": _zeros,
    "mode-up": _mode,
    "distinct-down": _repeats,
    "slice-calibration": _slice,
    "slow-calibration": _slow,
    "slow-trend": _slow,
    "tail-up": _tail,
    "residual-moved": _residual,
    "rescore-mismatch": _residual,
    "calibration-low": _calibration_low,
}
