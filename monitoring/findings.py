"""What a check found, and which checks ran: the one shape in which every monitor and gate reports.

A `Finding` names the guilty subject (a column, mostly); `Checks` keeps the names of the checks that ran beside what they
found, so that silence can be told from a check that never looked.  Called by every detector here, by the training gate and
by drills.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

# What single findings can look like, by tier.  Numbers that a symptom's evidence must carry stand behind it.
SYMPTOMS: dict[str, tuple[str, ...]] = {
    "distribution": (  # of a feature, or of subject "prediction"
        "nulls-up", "nulls-down", "zeros-up", "mode-up", "new-values", "shares-moved",
        "shares-swapped",  # evidence: pair
        "location-moved",  # evidence: ratio (geometric mean over the usual one)
        "tail-up",  # evidence: ratio of the rows that moved over usual values, share of rows
        "distinct-down", "distinct-up",
        "invariant-broken",  # evidence: with (the other column), shift
        "novel-entities", "concentration-up",
        "residual-moved",  # prediction given the logged features; evidence: offset (mean logit), spread, share
        "slow-trend",  # evidence: days, slope
    ),
    "replay": (  # of a feature against its recomputation
        "to-null", "to-default", "from-null", "ratio", "permuted", "rounded", "older", "shifted", "mismatch",
        # of the prediction against the declared model on logged features
        "rescore-offset", "rescore-constant", "rescore-rounded", "rescore-mismatch",
    ),
    "calibration": (
        "calibration-low", "calibration-high",  # clicks below / above sum of p; evidence: ratio
        "slice-calibration",  # evidence: value, ratio; subject: the slicing column
        "discrimination-down", "young-clicks-missing", "click-concentration", "randomised-slice", "slow-calibration",
    ),
    "exact": (
        "duplicate-ids", "contract", "volume-down", "volume-up", "hours-missing", "unreconciled", "too-old", "clock-skew",
        "unknown-version", "out-of-range",
    ),
    "experiment": ("ratio", "not-sticky"),
    "gate": (  # of a column of a training set
        "auc-jump", "auc-gap", "auc-cap", "auc-gain", "target-copy", "target-sum", "target-region", "own-label",
        "replay-clicked-only", "replay-later", "replay-key-constant", "replay-label", "replay-mismatch", "rebuild-mismatch",
        # of the set
        "same-id", "same-content", "near-copy", "interleaved", "rows-lost", "rows-unknown", "labels-off", "click-rate",
        "auc-inverted", "row-order",
    ),
}  # fmt: skip

Severity = Literal["page", "notice"]  # page: wakes somebody; notice: is written down


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, with its evidence.  JSON-able through `as_json`."""

    check: str  # code of the check that found it, for example "auc-jump"
    bug_class: str  # what kind of bug it looks like, a slug of monitoring.classes
    subject: str  # what is guilty: a column, "split", "rows", ...
    severity: Severity
    evidence: Mapping[str, Any]  # plain numbers and texts, enough to judge without rerunning
    since: str | None = None  # first day it shows, YYYY-MM-DD
    excess: float = 1.0  # the statistic over its limit, 1.0 at the limit: ranks findings of one check
    symptom: str = ""  # what it looks like, one of SYMPTOMS: what diagnosis reasons with
    tier: str = ""  # kind of evidence: exact, replay, calibration, distribution, experiment; "" at the gate
    onset_us: int | None = None  # estimate of when it began

    def as_json(self) -> dict[str, Any]:
        """A dict of JSON types."""
        return {**asdict(self), "evidence": dict(self.evidence)}

    def __str__(self) -> str:
        numbers = ", ".join(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
                            for name, value in self.evidence.items())  # fmt: skip
        since = f" since {self.since}" if self.since else ""
        return f"[{self.severity}] {self.bug_class}: {self.subject} ({self.check}){since}: {numbers}"


@dataclass(slots=True)
class Checks:
    """The checks that ran, in order, and everything they found."""

    ran: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)  # check -> why it could not run

    def record(self, check: str, findings: Iterable[Finding]) -> None:
        """Note that `check` ran and what it found."""
        self.ran.append(check)
        self.findings.extend(findings)

    def skip(self, check: str, reason: str) -> None:
        """Note that `check` had nothing to run on, and why."""
        self.skipped[check] = reason

    def merge(self, other: "Checks") -> None:
        """Add what another set of checks ran and found."""
        self.ran.extend(other.ran)
        self.findings.extend(other.findings)
        self.skipped.update(other.skipped)

    @property
    def pages(self) -> list[Finding]:
        """Findings that wake somebody, worst first."""
        return sorted((f for f in self.findings if f.severity == "page"), key=lambda f: -f.excess)

    def as_json(self) -> dict[str, Any]:
        """A dict of JSON types."""
        return {"checks_run": self.ran, "skipped": self.skipped, "findings": [finding.as_json() for finding in self.findings]}
