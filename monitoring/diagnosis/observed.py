"""The findings of one episode, brought together: one observation for each (tier, symptom, subject), however often it was found.

Pure; used by the ranking and by the desk, which would otherwise keep thousands of findings of a bug that lasts for days.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from infra.clock import HOUR_US
from monitoring.findings import SYMPTOMS, Finding

TIER_OF = {symptom: tier for tier, symptoms in SYMPTOMS.items() for symptom in symptoms}
# The distribution tier reports a column once, by its sharpest sign; the others stand in its evidence under `signs`, as a kind
# and a direction.  What each of them would be called had it been the sharpest:
SIGNS = {
    "null+": "nulls-up", "null-": "nulls-down", "zero+": "zeros-up", "mode+": "mode-up", "top+": "mode-up",
    "new+": "new-values", "far-low+": "tail-up", "far-high+": "tail-up", "distinct+": "distinct-down", "grid+": "distinct-down",
    "cast+": "distinct-down", "distinct-": "distinct-up", "map+": "invariant-broken", "apart+": "invariant-broken",
    "clock+": "invariant-broken", "novel+": "novel-entities", "heavy+": "concentration-up", "category+": "shares-moved",
    "category-": "shares-moved", "bin+": "shares-moved", "bin-": "shares-moved", "mean+": "location-moved",
    "mean-": "location-moved", "residual-bin+": "residual-moved", "residual-bin-": "residual-moved",
    "residual-mean+": "residual-moved", "residual-mean-": "residual-moved", "residual-spread+": "residual-moved",
    "residual-spread-": "residual-moved",
}  # fmt: skip
# What cannot both be: a notice of the one beside a page of the other is an echo of it, or of the hours before.
OPPOSITE = {"calibration-low": "calibration-high", "nulls-up": "nulls-down", "distinct-up": "distinct-down",
            "volume-up": "volume-down"}  # fmt: skip
OPPOSITE |= {other: one for one, other in OPPOSITE.items()}
SIDE = 0.6  # weight of a sign beside the one that names the finding: they move together


@dataclass(frozen=True, slots=True)
class Observation:
    """One symptom of one subject."""

    tier: str
    symptom: str
    subject: str
    excess: float  # the strongest
    page: bool
    onset_us: int | None  # the earliest
    evidence: Mapping[str, Any]  # of the strongest
    guesses: frozenset[str]  # classes that the tier itself named
    text: str  # the strongest, in words
    weight: float = 1.0  # below one where another observation of the same finding says nearly the same

    @property
    def strength(self) -> float:
        """Weight of the evidence: 0.3 for a faint notice, 1 at the page limit, growing with its logarithm up to 2."""
        if self.excess < 1:
            return self.weight * (0.3 + 0.7 * max(self.excess, 0.0))
        return self.weight * min(1 + 0.15 * math.log2(self.excess), 2.0)


def observe(findings: Iterable[Finding]) -> list[Observation]:
    """What was observed, strongest first."""
    found = _without_echoes({key: _observation(each) for key, each in group(findings).items()})
    beside: dict[tuple[str, str, str], Observation] = {}
    for named in found.values():
        for sign, excess in named.evidence.get("signs", {}).items():
            key = named.tier, SIGNS.get(sign, ""), named.subject
            if key[1] and key not in found and excess > (beside[key].excess if key in beside else 0.0):
                said = f"{key[1]} in {named.subject} beside it"
                page = named.page and excess >= 1
                beside[key] = replace(
                    named, symptom=key[1], excess=excess, page=page, evidence={"sign": sign}, guesses=frozenset(), text=said,
                    weight=SIDE,
                )  # fmt: skip
    return sorted([*found.values(), *beside.values()], key=lambda o: -o.excess)


def _without_echoes(found: dict[tuple[str, str, str], Observation]) -> dict[tuple[str, str, str], Observation]:
    """All but notices of the opposite of what a page says of the same subject."""
    pages = {(each.symptom, each.subject) for each in found.values() if each.page}
    return {
        key: each for key, each in found.items() if each.page or (OPPOSITE.get(each.symptom, ""), each.subject) not in pages
    }


def _observation(found: Sequence[Finding]) -> Observation:
    top = max(found, key=lambda f: (f.severity == "page", f.excess))
    return Observation(
        tier=_tier(top),
        symptom=top.symptom or top.check,
        subject=top.subject,
        # A tier may write down a strong sign as a notice because another finding of its own explains it.
        excess=top.excess if top.severity == "page" else min(top.excess, 0.99),
        page=top.severity == "page",
        onset_us=_onset(found),
        evidence=top.evidence,
        guesses=frozenset(f.bug_class for f in found),
        text=_words(top),
    )


def group(findings: Iterable[Finding]) -> dict[tuple[str, str, str], list[Finding]]:
    """Findings by what they show: (tier, symptom, subject)."""
    found: dict[tuple[str, str, str], list[Finding]] = {}
    for finding in findings:
        found.setdefault((_tier(finding), finding.symptom or finding.check, finding.subject), []).append(finding)
    return found


def condense(findings: Iterable[Finding], most: int = 60) -> list[Finding]:
    """One finding for each thing shown, the strongest with the earliest onset; pages first, at most `most`."""
    kept = []
    for found in group(findings).values():
        top = max(found, key=lambda f: (f.severity == "page", f.excess))
        days = [f.since for f in found if f.since is not None]
        kept.append(replace(top, onset_us=_onset(found), since=min(days) if days else None))
    return sorted(kept, key=lambda f: (f.severity != "page", -f.excess))[:most]


def _onset(found: Sequence[Finding]) -> int | None:
    """The earliest onset of findings that show it well: a faint one may have begun by chance, long before."""
    enough = 0.5 * max(f.excess for f in found)
    return min((f.onset_us for f in found if f.onset_us is not None and f.excess >= enough), default=None)


def later(observation: Observation, than: Observation) -> bool:
    """Whether one did not clearly begin before the other: an hour is as fine as onsets are known."""
    if observation.onset_us is None or than.onset_us is None:
        return True
    return observation.onset_us >= than.onset_us - HOUR_US


def _tier(finding: Finding) -> str:
    return finding.tier or TIER_OF.get(finding.symptom, "")


def _words(finding: Finding) -> str:
    """For example: nulls-up in price (distribution, page): share 0.12, usual 0.01."""
    numbers = ", ".join(f"{name} {_plain(value)}" for name, value in list(finding.evidence.items())[:8])
    where = f" ({finding.tier or 'check'}, {finding.severity})"
    return f"{finding.symptom or finding.check} in {finding.subject}{where}" + (f": {numbers}" if numbers else "")


def _plain(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
