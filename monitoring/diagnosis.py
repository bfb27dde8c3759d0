"""From findings to causes: ranked hypotheses.  Pure; called by the incident desk and by `clickproof monitor log`."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from monitoring.findings import Finding


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """One explanation of everything found."""

    bug_class: str  # a slug of monitoring.classes
    subject: str
    score: float  # 0 .. 1; the hypotheses of one incident add up to at most 1
    because: tuple[str, ...]  # in words, with the numbers
    onset_us: int | None = None

    def as_json(self) -> dict[str, Any]:
        """A dict of JSON types."""
        return {**asdict(self), "class": self.bug_class, "because": list(self.because)}


def diagnose(findings: Sequence[Finding]) -> list[Hypothesis]:
    """Explanations of the findings of one episode, likeliest first; empty where nothing was found."""
    total = sum(finding.excess for finding in findings)
    seen: dict[tuple[str, str], Hypothesis] = {}
    for finding in sorted(findings, key=lambda f: (f.severity != "page", -f.excess)):
        key = finding.bug_class, finding.subject
        if key not in seen:
            seen[key] = Hypothesis(*key, finding.excess / total, (str(finding),), finding.onset_us)
    return list(seen.values())
