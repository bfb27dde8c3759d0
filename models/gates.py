"""May this model serve?  Pure decisions over evaluation results, called by the training flow, which records them with their
reasons.

A gate never passes for want of a number: what is missing or not a number fails, and the reason names it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

Kind = Literal["bootstrap", "refresh", "change"]


class Decision(NamedTuple):
    """Whether a model passed, and why or why not: one sentence a gate."""

    passed: bool
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class GatePolicy:
    """Where the gates stand."""

    calibration: tuple[float, float] = (0.95, 1.05)  # clicks over sum of p; the interval must overlap this band
    slice_calibration: tuple[float, float] = (0.80, 1.25)
    slice_clicks: int = 200  # slices with fewer clicks are too small to judge
    slice_ne_rise: float = 0.02  # a slice's NE may not be clearly above the comparator's by more than this
    non_inferior: float = 0.001  # NE: 0.1% of the entropy of the click rate


def kind_of(candidate: str, champion: str | None) -> Kind:
    """What a candidate is, from configuration hashes (`Artefact.configuration_hash`): bootstrap without a champion (the
    comparator is the base-rate model), refresh with the champion's own configuration, otherwise a change."""
    if champion is None:
        return "bootstrap"
    return "refresh" if candidate == champion else "change"


def decide(
    evaluation: Mapping[str, Any],
    comparison: Mapping[str, Any],
    leakage: Mapping[str, Any] | None,
    kind: Kind,
    *,
    comparator: Mapping[str, Any] | None = None,
    policy: GatePolicy | None = None,
) -> Decision:
    """All gates on one candidate.

    `evaluation` is `models.evaluate.report` of the candidate, `comparison` is `models.evaluate.compare` of candidate against
    comparator, `comparator` (optional) is the comparator's own report, for its slices; `leakage` is the audit's verdict
    {"passed": bool, "reasons": [...]}.  A refresh must be non-inferior (upper bound of the NE difference at most
    `policy.non_inferior`); a change, and the first model against the base rate, must be superior (upper bound below 0).
    """
    policy = policy or GatePolicy()
    verdicts = [
        _calibration("calibration", evaluation.get("calibration"), policy.calibration),
        _leakage(leakage),
        _against(comparison, kind, policy),
        *_slices(evaluation, comparator, policy),
    ]
    verdicts += [_present(name, evaluation.get(name)) for name in ("ne", "log_loss", "auc")]
    return Decision(all(passed for passed, _ in verdicts), tuple(reason for _, reason in verdicts))


Verdict = tuple[bool, str]


def number(field: Any, part: str) -> float | None:
    """`field[part]` as a finite float, None where there is none."""
    value = field.get(part) if isinstance(field, Mapping) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _missing(name: str, field: Any, parts: Sequence[str]) -> Verdict | None:
    lacking = [part for part in parts if number(field, part) is None]
    if not lacking:
        return None
    return (
        False,
        f"failed: {name} has no {' and no '.join(lacking)}; a missing number never passes, evaluate on more days or rows",
    )


def _present(name: str, field: Any) -> Verdict:
    return _missing(name, field, ("value",)) or (True, f"passed: {name} is {field['value']:.4f}")


def _calibration(name: str, field: Any, band: tuple[float, float]) -> Verdict:
    if lacking := _missing(name, field, ("value", "low", "high")):
        return lacking
    inside = field["high"] >= band[0] and field["low"] <= band[1]
    interval = f"{name} {field['value']:.3f} [{field['low']:.3f}, {field['high']:.3f}]"
    return inside, f"{'passed' if inside else 'failed'}: {interval} against the band {band[0]:.2f} to {band[1]:.2f}"


def _leakage(verdict: Mapping[str, Any] | None) -> Verdict:
    if verdict is None or not isinstance(verdict.get("passed"), bool):
        return False, "failed: there is no verdict of the leakage audit; run the audit on the training set first"
    if verdict["passed"]:
        return True, "passed: the leakage audit found nothing"
    return False, f"failed: leakage audit: {'; '.join(verdict.get('reasons', ())) or 'no reason given'}"


def _against(comparison: Mapping[str, Any], kind: Kind, policy: GatePolicy) -> Verdict:
    name = "NE difference to the " + ("base-rate model" if kind == "bootstrap" else "champion")
    field = comparison.get("ne_difference")
    if lacking := _missing(name, field, ("value", "high")):
        return lacking
    assert field is not None
    high = field["high"]
    passed = high <= policy.non_inferior if kind == "refresh" else high < 0
    asked = f"at most {policy.non_inferior:+.4f} (non-inferior)" if kind == "refresh" else "below 0 (superior)"
    measured = f"{name} {field['value']:+.4f}, upper bound {high:+.4f}"
    return passed, f"{'passed' if passed else 'failed'}: {kind}: {measured}, must be {asked}"


def _slices(evaluation: Mapping[str, Any], comparator: Mapping[str, Any] | None, policy: GatePolicy) -> list[Verdict]:
    """One verdict for each slice that fails, or a single one when all pass."""
    slices = evaluation.get("slices")
    if not slices:
        return [(False, "failed: the evaluation has no slices; pass slices_of(data) to models.evaluate.report")]
    failures: list[Verdict] = []
    judged = 0
    for name, values in slices.items():
        for value, found in values.items():
            if found.get("clicks", 0) < policy.slice_clicks:
                continue
            judged += 1
            verdicts = [_calibration(f"calibration of {name}={value}", found.get("calibration"), policy.slice_calibration)]
            if comparator is not None:
                other = comparator.get("slices", {}).get(name, {}).get(value)
                verdicts.append(_slice_ne(f"NE of {name}={value}", found.get("ne"), other, policy))
            failures += [verdict for verdict in verdicts if not verdict[0]]
    return failures or [(True, f"passed: {judged} slices with at least {policy.slice_clicks} clicks")]


def _slice_ne(name: str, field: Any, other: Any, policy: GatePolicy) -> Verdict:
    if lacking := _missing(name, field, ("value",)):
        return lacking
    if lacking := _missing(f"{name} of the comparator", other.get("ne") if isinstance(other, Mapping) else None, ("value",)):
        return lacking
    rise = field["value"] - other["ne"]["value"]
    passed = rise <= policy.slice_ne_rise
    return (
        passed,
        f"{'passed' if passed else 'failed'}: {name} is {rise:+.4f} against the comparator's, at most {policy.slice_ne_rise}",
    )
