"""Findings as the tiers make them, for tests of what is made of them."""

from typing import Any

from infra.clock import HOUR_US
from monitoring.diagnosis.observed import TIER_OF
from monitoring.findings import Finding


def found(symptom: str, subject: str, excess: float = 4.0, hour: int = 0, guess: str = "", **evidence: Any) -> Finding:
    """A finding of whichever tier has that symptom; a notice where `excess` is below one."""
    severity = "page" if excess >= 1 else "notice"
    return Finding(
        check=symptom, bug_class=guess or "prior-shift", subject=subject, severity=severity, evidence=evidence, excess=excess,
        symptom=symptom, tier=TIER_OF[symptom], onset_us=hour * HOUR_US,
    )  # fmt: skip
