"""From surprising parts to findings: at most one a subject, its symptom, the numbers that show it, and what it looks like.

Called by the tier.  The class is the best guess from the column alone; `monitoring.diagnosis` weighs it with others.
"""

from typing import Any, Literal

import numpy as np

from infra.clock import HOUR_US, day_name
from monitoring.findings import Finding
from monitoring.tiers.distribution.census import Census
from monitoring.tiers.distribution.looks import Judged, Worst, look, null_change
from monitoring.tiers.distribution.owners import name_of
from monitoring.tiers.distribution.rows import BOTH, Rows
from monitoring.window import Window

# A share must move by this much to be worth a word: a log of millions of rows shows differences that no one would act on.
LEAST_SHARE, LEAST_RARE = 0.002, 0.0004
# So must the logit of the prediction against what was learned of it: on average, in the logarithm of its size, or in the share
# of rows that lie far off.  What was learned grows old, by up to 0.043, 0.17 and 0.9% of rows on clean days of four worlds.
LEAST_RESIDUAL = {"residual-mean": 0.08, "residual-spread": 0.3, "residual-bin": 0.015}
MOST_HITS = 10.0  # hits of what hardly ever happens that are worth a word in a log of any size
MANY = 8.0  # times the commonest of the values that repeat: more than the constants of a page
LEAST_HITS, LEAST_CHANGED = 4.0, 2.0  # owners: fewer is one page view; one owner may have changed an attribute


def findings(census: Census, rows: Rows, window: Window, judged: list[Judged]) -> list[Finding]:
    """Findings, worst first."""
    if not judged:
        return []
    picked: dict[str, list[Worst]] = {}
    for one in judged:
        moved = np.abs(one.left) / np.maximum(one.n, 1.0)
        for i in np.flatnonzero(one.log10_p <= one.notice).tolist():
            part = census.parts[i]
            if one.rescored and part.kind in LEAST_RESIDUAL:
                continue
            if part.form == "share" and moved[i] < LEAST_SHARE:
                continue
            if moved[i] < LEAST_RESIDUAL.get(part.kind, 0.0):
                continue
            if part.by_owner and one.k[i] < (LEAST_CHANGED if part.kind == "map" else LEAST_HITS):
                continue
            if part.form == "rare" and one.left[i] < min(LEAST_RARE * one.rows, MOST_HITS):
                continue
            excess = float(one.log10_p[i] / one.page[i])
            page = excess >= 1.0 and bool(one.beyond[i])
            picked.setdefault(part.subject, []).append(Worst(part, i, one, excess if page else min(excess, 0.99), page))
    found = [_finding(census, rows, window, _blame(census, subject, worst, picked), worst) for subject, worst in picked.items()]
    return sorted(found, key=lambda f: (f.severity != "page", -f.excess))


# Signs that explain others of their column, clearest first: a constant that is filled in also moves bins and broken invariants.
SHARP = ("clock", "null", "zero", "new", "far-low", "far-high", "mode", "top", "map", "apart", "grid", "cast", "distinct")


def _rounds(worst: list[Worst]) -> bool:
    """Whether many values fell on a grid, rather than one constant taking their place; another unit's values also lie on
    grids (coarser ones in single precision), but leave the range."""
    if any(w.part.kind in ("far-low", "far-high") and w.page for w in worst):
        return False
    up = {kind: max((w.judged.left[w.index] for w in worst if w.part.kind == kind and w.page), default=0.0)
          for kind in ("grid", "cast", "distinct", "top")}  # fmt: skip
    on_grid, one = max(up["grid"], up["cast"]), max(up["top"], 1.0)
    # A page's few constants repeat as well, and one of them may be a round number.
    return on_grid > max(1.5 * one, 0.5 * up["distinct"]) or up["distinct"] > MANY * one


def _blame(census: Census, subject: str, worst: list[Worst], picked: dict[str, list[Worst]]) -> str:
    """Who is guilty where a value no longer follows from two others: the one of the two that nothing else vouches for.

    A column is vouched for while it still follows from its own owner; the value itself is blamed where it shows signs of
    its own.
    """
    owned = next((o for o in census.owned if o.subject == subject and BOTH in o.owner), None)
    if owned is None or any(w.part.kind not in ("map", "apart") and w.page for w in worst):
        return subject
    vouched = {o.subject for o in census.owned if o.fixed and o.subject not in picked}
    suspects = [n for n in (name_of(key) for key in owned.owner.split(BOTH)) if n not in vouched and f"f_{n}" in owned.owner]
    return suspects[0] if owned.small and len(suspects) == 1 else subject


def _finding(census: Census, rows: Rows, window: Window, blamed: str, worst: list[Worst]) -> Finding:
    """The finding of one subject."""
    best = worst_of = max(worst, key=lambda w: (w.page, w.excess))
    if best.judged.trend:
        worst = [w for w in worst if w.judged.trend]
    signs = [w for w in worst if w.part.kind in SHARP and w.page == best.page and (w.page or w.excess >= 0.4 * best.excess)]
    signs = [w for w in signs if w.part.kind not in ("zero", "mode", "top", "grid", "cast") or w.judged.left[w.index] > 0]
    if _rounds(worst):  # rounding makes zeros and common values too
        signs = [w for w in signs if w.part.kind in ("null", "apart", "grid", "cast", "distinct")]
    if signs:
        best = min(signs, key=lambda w: (SHARP.index(w.part.kind), -w.excess))
    part, judged, i = best.part, best.judged, best.index
    rises = bool(judged.left[i] > 0)
    symptom, bug_class, more = look(census, rows, best, worst, rises)
    if blamed != part.subject:
        symptom, bug_class, more = "invariant-broken", "category-reencoding", {**more, "with": part.subject}
    evidence: dict[str, Any] = {
        "number": part.label,
        "seen": float(judged.k[i]),
        "expected": float(judged.expected[i]),
        "rows": judged.rows,
        "hours": judged.hours,
        "t": float(judged.t[i]),
        "log10_p": float(judged.log10_p[i]),
        "limit_log10_p": float(judged.page[i]),
        "signs": _signs(worst, best),
        **_nulls(census, best),
        **more,
    }
    severity: Literal["page", "notice"] = "page" if best.page else "notice"
    return Finding(
        check=f"distribution-{part.kind}",
        bug_class=bug_class,
        subject=blamed,
        severity=severity,
        evidence=evidence,
        since=day_name(judged.start_us),
        excess=worst_of.excess,
        symptom=symptom,
        tier="distribution",
        onset_us=judged.start_us if judged.hours <= 2 else window.end_us - HOUR_US * judged.hours,
    )


def _signs(worst: list[Worst], best: Worst) -> dict[str, float]:
    """Everything that this column shows, not only the sign that names it: kind and direction -> excess.  For diagnosis."""
    signs: dict[str, float] = {}
    for one in sorted(worst, key=lambda w: w.excess):
        if one.excess >= 0.2 * best.excess:
            signs[f"{one.part.kind}{'+' if one.judged.left[one.index] > 0 else '-'}"] = round(one.excess, 3)
    return signs


def _nulls(census: Census, best: Worst) -> dict[str, float]:
    """By which share of rows nulls rose, or fell, where zeros or one value rose: one may replace the other."""
    return {"nulls_change": null_change(census, best)} if best.part.kind in ("zero", "mode", "top") else {}
