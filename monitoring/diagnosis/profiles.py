"""What each class of bug shows: the table that diagnosis reasons with, written down so that it can be argued about.

A number is the chance that the symptom is seen where the class is the cause and the check could look.  `own` are symptoms of
the guilty subject itself; the rest is its wake: on other features, on the prediction, in calibration and counts.  What stands
in neither speaks against the class.  Symptoms are `monitoring.findings.SYMPTOMS`; the chances are judgement, first from
how the classes work (docs/design.md, Monitoring) and then corrected on tuning seeds, never on reporting ones.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

# Where a cause sits on the one path; later places show what earlier ones did to them.
Place = Literal["feature", "artefact", "world", "labels", "traffic", "experiment"]

_SHAPE = ("location-moved", "shares-moved", "tail-up", "mode-up", "distinct-down", "distinct-up", "concentration-up")
# How a wrong or different input goes on: the prediction's distribution moves, and clicks no longer match it.
# What p should be given the features is learned where features are usual, so odd inputs leave residuals too.
_PREDICTION = dict.fromkeys((*_SHAPE, "slow-trend", "nulls-up", "zeros-up"), 0.3) | {"residual-moved": 0.12}
_CALIBRATION = dict.fromkeys(("calibration-low", "calibration-high", "slice-calibration", "discrimination-down"), 0.3) | {
    "slow-calibration": 0.1, "randomised-slice": 0.05,
}  # fmt: skip
_MIX = dict.fromkeys((*_SHAPE, "nulls-up", "zeros-up", "nulls-down", "new-values", "novel-entities", "slow-trend"), 0.25)


@dataclass(frozen=True, slots=True)
class Profile:
    """What one class shows."""

    place: Place
    own: Mapping[str, float]
    features: Mapping[str, float] = field(default_factory=dict)  # wake: on other features
    prediction: Mapping[str, float] = field(default_factory=dict)  # wake: on the prediction
    rest: Mapping[str, float] = field(default_factory=dict)  # wake: in calibration and counts
    prior: float = 1.0  # before anything was seen, against the other classes
    must: tuple[str, ...] = ()  # of `own`: what speaks against the class where the check could look and did not see it


def _feature(own: Mapping[str, float], rest: Mapping[str, float] | None = None) -> Profile:
    """A bug of one feature or view: columns fed from the same place show the same, the prediction and calibration follow."""
    same = {symptom: 0.3 * chance for symptom, chance in own.items()}
    return Profile("feature", own, same, _PREDICTION, {**_CALIBRATION, "volume-down": 0.02, **(rest or {})})


PROFILES: dict[str, Profile] = {
    "default-value-skew": _feature({
        "to-default": 0.95, "zeros-up": 0.85, "mode-up": 0.5, "mismatch": 0.1, "location-moved": 0.3, "shares-moved": 0.4,
        "nulls-up": 0.05, "tail-up": 0.2, "distinct-down": 0.05, "concentration-up": 0.1, "invariant-broken": 0.5,
        "novel-entities": 0.02, "slice-calibration": 0.15,
    }),
    "unit-change": _feature({
        "ratio": 0.95, "location-moved": 0.7, "tail-up": 0.7, "mismatch": 0.1, "shares-moved": 0.5, "distinct-up": 0.2,
        "new-values": 0.1, "out-of-range": 0.2, "contract": 0.05, "invariant-broken": 0.4, "zeros-up": 0.03,
        "distinct-down": 0.2, "mode-up": 0.03,
    }),
    "category-reencoding": _feature({
        "permuted": 0.95, "to-default": 0.1, "shares-swapped": 0.7, "invariant-broken": 0.5, "shares-moved": 0.4,
        "mismatch": 0.3, "mode-up": 0.05,
        "new-values": 0.1, "novel-entities": 0.1, "concentration-up": 0.05, "slice-calibration": 0.4,
    }),
    "stale-features": _feature({
        "older": 0.95, "too-old": 0.7, "mismatch": 0.3, "location-moved": 0.3, "shares-moved": 0.2, "zeros-up": 0.1,
        "slow-trend": 0.1, "invariant-broken": 0.5, "nulls-up": 0.03, "tail-up": 0.1, "discrimination-down": 0.05,
    }),
    "time-zone-shift": _feature({
        "shifted": 0.95, "invariant-broken": 0.8, "shares-moved": 0.3, "location-moved": 0.3, "mismatch": 0.1,
        "clock-skew": 0.1,
    }, rest={"contract": 0.15, "clock-skew": 0.2, "volume-up": 0.1, "volume-down": 0.1}),
    "cast-or-rounding": _feature({
        "rounded": 0.95, "to-default": 0.1, "distinct-down": 0.85, "zeros-up": 0.3, "mode-up": 0.4, "shares-moved": 0.4,
        "location-moved": 0.15,
        "mismatch": 0.1, "invariant-broken": 0.5, "tail-up": 0.2,
    }),
    "imputation-difference": _feature({
        "from-null": 0.95, "nulls-down": 0.9, "zeros-up": 0.6, "mode-up": 0.5, "location-moved": 0.3, "shares-moved": 0.4,
        "tail-up": 0.2, "distinct-up": 0.05, "invariant-broken": 0.3, "distinct-down": 0.05,
    }),
    "null-spike": _feature({
        "to-null": 0.95, "nulls-up": 0.95, "mismatch": 0.05, "shares-moved": 0.3, "location-moved": 0.05, "contract": 0.1,
        "invariant-broken": 0.5,
    }),
    "schema-change": _feature({
        "contract": 0.9, "clock-skew": 0.7, "new-values": 0.7, "permuted": 0.3, "novel-entities": 0.15, "nulls-up": 0.15,
        "volume-down": 0.25,
        "out-of-range": 0.25, "mismatch": 0.2, "shares-moved": 0.4, "distinct-up": 0.2, "unreconciled": 0.15,
        "hours-missing": 0.05, "invariant-broken": 0.05,
    }),
    "feature-order": Profile("artefact", {
        "rescore-mismatch": 0.9, "residual-moved": 0.8, "discrimination-down": 0.4, "location-moved": 0.4, "shares-moved": 0.4,
        "tail-up": 0.3, "distinct-up": 0.05, "calibration-low": 0.3, "calibration-high": 0.3, "mode-up": 0.05,
    }, {}, _PREDICTION, _CALIBRATION, 1.1),
    "wrong-model-version": Profile("artefact", {
        "rescore-mismatch": 0.9, "unknown-version": 0.5, "residual-moved": 0.7, "location-moved": 0.25, "shares-moved": 0.3,
        "distinct-down": 0.1, "distinct-up": 0.1, "discrimination-down": 0.1, "calibration-low": 0.15, "calibration-high": 0.15,
        "tail-up": 0.1,
    }, {}, _PREDICTION, _CALIBRATION, 1.0),
    "uncorrected-downsampling": Profile("artefact", {
        "rescore-offset": 0.95, "residual-moved": 0.85, "location-moved": 0.8, "shares-moved": 0.7, "calibration-low": 0.9,
        "tail-up": 0.3, "out-of-range": 0.02,
    }, {}, _PREDICTION, _CALIBRATION | {"calibration-low": 0.9, "calibration-high": 0.01}, 1.0),
    "constant-fallback": Profile("artefact", {
        "rescore-constant": 0.95, "mode-up": 0.9, "residual-moved": 0.5, "distinct-down": 0.3, "shares-moved": 0.4,
        "location-moved": 0.2, "discrimination-down": 0.3, "nulls-up": 0.2, "concentration-up": 0.2, "zeros-up": 0.1,
    }, {}, _PREDICTION, _CALIBRATION, 1.0),
    "quantisation": Profile("artefact", {
        "rescore-rounded": 0.95, "distinct-down": 0.9, "mode-up": 0.4, "shares-moved": 0.2, "residual-moved": 0.2,
        "location-moved": 0.1,
    }, {}, _PREDICTION, _CALIBRATION, 1.0),
    "covariate-shift": Profile("world", {
        "shares-moved": 0.8, "location-moved": 0.6, "concentration-up": 0.15, "mode-up": 0.25, "tail-up": 0.15,
        "slow-trend": 0.2, "zeros-up": 0.1, "nulls-up": 0.03, "nulls-down": 0.03, "distinct-up": 0.05, "distinct-down": 0.05,
        "novel-entities": 0.05,
    }, _MIX, _PREDICTION, _CALIBRATION | {"volume-up": 0.1, "volume-down": 0.1}, 1.0),
    "new-ad-wave": Profile("world", {
        "novel-entities": 0.95, "new-values": 0.5, "concentration-up": 0.1,
    }, _MIX | dict.fromkeys(("zeros-up", "nulls-up", "location-moved", "shares-moved"), 0.35) | dict.fromkeys(
        ("distinct-down", "distinct-up", "invariant-broken"), 0.15),
        _PREDICTION, _CALIBRATION | {"volume-up": 0.1}, 1.0),
    "prior-shift": Profile("world", {
        "calibration-low": 0.9, "calibration-high": 0.9, "slow-calibration": 0.2,
    }, {}, {}, {"slice-calibration": 0.06, "randomised-slice": 0.1}, 0.8),
    "concept-drift": Profile("world", {
        "slice-calibration": 0.9, "discrimination-down": 0.4,
    }, {}, {}, {"calibration-low": 0.3, "calibration-high": 0.3, "slice-calibration": 0.3, "discrimination-down": 0.4,
        "slow-calibration": 0.15, "randomised-slice": 0.1}, 1.0),
    "seasonal-drift": Profile("world", {
        "slow-calibration": 0.9, "slow-trend": 0.8,
    }, {"slow-trend": 0.4, "location-moved": 0.1, "shares-moved": 0.1}, {"slow-trend": 0.3, "location-moved": 0.1},
        {"slow-calibration": 0.4, "calibration-low": 0.25, "calibration-high": 0.25}, 0.9),
    "lost-clicks": Profile("labels", {
        "unreconciled": 0.9, "calibration-low": 0.8, "young-clicks-missing": 0.1,
    }, {}, {}, {"slice-calibration": 0.25, "calibration-low": 0.8, "volume-down": 0.3, "hours-missing": 0.1,
        "discrimination-down": 0.1, "slow-calibration": 0.2}, 0.9, ("unreconciled",)),
    "late-events": Profile("labels", {
        "young-clicks-missing": 0.9, "calibration-low": 0.5, "clock-skew": 0.15,
    }, {}, {}, {"slice-calibration": 0.1, "calibration-low": 0.5, "calibration-high": 0.1, "volume-down": 0.2,
        "unreconciled": 0.1, "slow-calibration": 0.1}, 0.9, ("young-clicks-missing",)),
    "bots": Profile("traffic", {
        "click-concentration": 0.9, "concentration-up": 0.7, "slice-calibration": 0.3, "novel-entities": 0.2, "volume-up": 0.2,
    }, {s: 0.4 * chance for s, chance in _MIX.items()} | {"concentration-up": 0.5, "novel-entities": 0.3, "distinct-down": 0.1},
        {s: 0.5 * chance for s, chance in _PREDICTION.items()}, {
        "calibration-high": 0.5, "slice-calibration": 0.4, "discrimination-down": 0.2,
        "volume-up": 0.3, "click-concentration": 0.6, "calibration-low": 0.1, "not-sticky": 0.02},
        0.9, ("click-concentration",)),
    "duplicated-events": Profile("traffic", {
        "duplicate-ids": 0.95, "volume-up": 0.5, "unreconciled": 0.1,
    }, {"shares-moved": 0.05, "concentration-up": 0.1, "distinct-down": 0.5, "mode-up": 0.1},
        {"distinct-down": 0.6, "mode-up": 0.1, "concentration-up": 0.1}, {
        "volume-up": 0.5, "unreconciled": 0.3, "calibration-high": 0.1,
        "calibration-low": 0.1, "click-concentration": 0.1}, 1.0),
    "partial-partition": Profile("traffic", {
        "hours-missing": 0.9, "volume-down": 0.8,
    }, {"shares-moved": 0.15, "location-moved": 0.1}, {"shares-moved": 0.1, "location-moved": 0.1}, {"volume-down": 0.8,
        "hours-missing": 0.6, "unreconciled": 0.2, "calibration-low": 0.2, "young-clicks-missing": 0.05}, 1.0),
    "sample-ratio-mismatch": Profile("experiment", {
        "ratio": 0.95, "not-sticky": 0.7,
    }, {}, {}, {"ratio": 0.5, "not-sticky": 0.5}, 1.0),
    "feedback-loop": Profile("world", {
        "randomised-slice": 0.95,
    }, {}, {}, {"slice-calibration": 0.2, "calibration-low": 0.2, "calibration-high": 0.2, "discrimination-down": 0.2,
        "slow-calibration": 0.2}, 0.9),
}  # fmt: skip
