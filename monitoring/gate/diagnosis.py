"""From what the gate found to what was done: ranked hypotheses about a training set.

A class's best evidence comes first: a wrong value that replay shows says more than a high AUC, and rows that stand twice
explain totals that are off.  Pure; called by the audit, which names findings by it, and by whoever shows them.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from monitoring.classes import bug_class
from monitoring.diagnosis import Hypothesis
from monitoring.findings import Finding

WRITTEN_AFTER = 0.995  # of the rows without a click, all but a few hold one value: nobody had anything to write
MANY_VALUES = 4


def _written_after(finding: Finding) -> bool:
    """Rows without a click hold one value; clicked ones many, or only some of them another: a by-product of the click, not a
    copy of the label."""
    evidence = finding.evidence
    alone = evidence.get("one_value_where_not_clicked", 0.0) >= WRITTEN_AFTER
    return alone and (evidence["values_where_clicked"] >= MANY_VALUES or evidence["clicked_elsewhere"] < 0.9)


Applies = Callable[[Sequence[Finding]], bool]  # to the findings of one subject
Rule = tuple[str, float, Applies]  # class, weight, applies


def _is(*symptoms: str) -> Applies:
    return lambda findings: any(finding.symptom in symptoms for finding in findings)


def _both(*symptoms: str) -> Applies:
    return lambda findings: set(symptoms) <= {finding.symptom for finding in findings}


def _one(test: Callable[[Finding], bool]) -> Applies:
    return lambda findings: any(test(finding) for finding in findings)


# What signs are worth, best first.  The first rule that a subject's findings meet names the subject's class.
RULES: tuple[Rule, ...] = (
    # of the set
    ("split-duplicates", 1.0, _is("same-id", "same-content", "near-copy")),
    ("partial-training-day", 0.97, _is("labels-off")),
    ("group-leak", 0.95, _is("interleaved")),
    ("partial-training-day", 0.93, _is("rows-lost", "rows-unknown", "click-rate", "auc-inverted")),
    # of a column
    ("point-in-time-violation", 0.90, _is("rebuild-mismatch")),
    ("target-derived-column", 0.89, _one(lambda f: f.symptom == "target-sum" and "with" in f.evidence)),
    ("target-encoding", 0.88, _is("own-label")),
    ("post-click-feature", 0.86, _one(lambda f: f.symptom in ("target-copy", "target-region") and _written_after(f))),
    ("target-derived-column", 0.84, _is("target-copy", "replay-label")),
    ("post-click-feature", 0.82, _is("replay-clicked-only")),
    ("point-in-time-violation", 0.80, _is("replay-later")),
    ("target-encoding", 0.78, _is("replay-key-constant")),
    ("post-click-feature", 0.77, _both("auc-jump", "target-region")),  # it was honest before
    ("target-derived-column", 0.76, _is("target-region", "target-sum")),
    ("point-in-time-violation", 0.70, _is("replay-mismatch")),
    ("target-encoding", 0.60, _is("auc-gap")),
    ("post-click-feature", 0.50, _is("auc-jump")),
    ("target-derived-column", 0.45, _is("auc-cap", "auc-gain")),
    ("group-leak", 0.40, _is("row-order")),
)


def _first_rule(findings: Sequence[Finding]) -> int:
    return next(i for i, (_, _, applies) in enumerate(RULES) if applies(findings))


def settled(findings: Sequence[Finding]) -> list[Finding]:
    """The same findings, those of one subject under the one class that all of them together speak for."""
    by_subject: dict[str, list[Finding]] = {}
    for finding in findings:
        by_subject.setdefault(finding.subject, []).append(finding)
    name = {subject: RULES[_first_rule(mine)][0] for subject, mine in by_subject.items()}
    return [replace(finding, bug_class=name[finding.subject]) for finding in findings]


def gate_diagnosis(findings: Sequence[Finding]) -> list[Hypothesis]:
    """Explanations of what pages (or, where nothing does, of the notices), likeliest first.

    Ranked by the best sign of each subject, then by how many columns a class explains and how far over its limit the worst
    finding is; scores add up to at most 1.
    """
    pages = [finding for finding in findings if finding.severity == "page"] or list(findings)
    groups: dict[tuple[str, str], list[Finding]] = {}
    for finding in pages:
        groups.setdefault((finding.bug_class, finding.subject), []).append(finding)
    ranked = sorted(groups.items(), key=lambda item: (_first_rule(item[1]), -max(f.excess for f in item[1])))
    weights = [RULES[_first_rule(mine)][1] / 2**place for place, (_, mine) in enumerate(ranked)]
    return [
        Hypothesis(slug, subject, weight / sum(weights), (bug_class(slug).title, *(str(finding) for finding in mine)))
        for ((slug, subject), mine), weight in zip(ranked, weights, strict=True)
    ]
