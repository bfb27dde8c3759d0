"""What the checks of the gate can see, and which class of bug each sign speaks for when it stands alone.

Called by every check of the gate to report; `monitoring.gate.diagnosis` weighs signs against each other.
"""

from collections.abc import Mapping
from typing import Any

from monitoring.findings import Finding, Severity

# Symptom -> the class that it speaks for by itself.
CLASS_OF: Mapping[str, str] = {
    # of a column
    "auc-jump": "post-click-feature",
    "auc-gap": "target-encoding",
    "auc-cap": "target-derived-column",
    "auc-gain": "target-derived-column",
    "target-copy": "target-derived-column",
    "target-sum": "target-derived-column",
    "target-region": "target-derived-column",
    "own-label": "target-encoding",
    "replay-clicked-only": "post-click-feature",
    "replay-later": "point-in-time-violation",
    "replay-key-constant": "target-encoding",
    "replay-label": "target-derived-column",
    "replay-mismatch": "point-in-time-violation",
    "rebuild-mismatch": "point-in-time-violation",
    # of the set
    "same-id": "split-duplicates",
    "same-content": "split-duplicates",
    "near-copy": "split-duplicates",
    "interleaved": "group-leak",
    "rows-lost": "partial-training-day",
    "rows-unknown": "partial-training-day",
    "labels-off": "partial-training-day",
    "click-rate": "partial-training-day",
    "auc-inverted": "partial-training-day",
    "row-order": "group-leak",
}


def sign(
    check: str,
    symptom: str,
    subject: str,
    excess: float,
    evidence: Mapping[str, Any],
    since: str | None = None,
    severity: Severity = "page",
) -> Finding:
    """A finding of the gate, under the class that its symptom speaks for."""
    return Finding(check, CLASS_OF[symptom], subject, severity, evidence, since, excess, symptom)
