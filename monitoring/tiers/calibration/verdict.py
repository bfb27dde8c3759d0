"""What the streams' evidence says: findings, with the ratios since their onset.

Called by the tier, once a window.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from monitoring.findings import Finding, Severity
from monitoring.tiers.calibration.edetector import MARGIN, EDetector, inverse_logit
from monitoring.tiers.calibration.slices import UPPER
from monitoring.tiers.calibration.streams import WEIGHT, Streams
from monitoring.tiers.calibration.tally import OLD_S, Tally
from monitoring.tiers.tier import NOTICES_A_DAY, PAGES_A_DAY, SHARE

F64 = npt.NDArray[np.float64]

NAME = "calibration"
# Average run lengths (hours) between false pages, and notices, of the whole tier.
PAGE_H = 24 / (PAGES_A_DAY * SHARE[NAME])
NOTICE_H = 24 / (NOTICES_A_DAY * SHARE[NAME])
OLDER_THAN_ALL = 1.3  # late clicks must be this much more frequent than all clicks, and than usual


@dataclass(frozen=True, slots=True)
class Verdict:
    """One window's: findings, worst first, which checks ran, and which could not and why."""

    findings: list[Finding]
    ran: tuple[str, ...]
    unable: Mapping[str, str]


def verdict(streams: Streams, seen: Tally) -> Verdict:
    """Judge the window that the streams saw last; evidence above a page's limit is held there."""
    found = [_whole(streams)]
    ran, unable = ["calibration", "slow-calibration"], {}
    if seen.cohort is not None:
        ran.append("click-delay")
        found.append(_late(streams))
    else:
        unable["click-delay"] = "labels come without the time of their arrival, and are taken as final"
    if streams.slices.has_users:
        ran.append("click-concentration")
        found.append(_crowd(streams, seen))
    else:
        unable["click-concentration"] = "no column user"
    if len(seen.by_slice):
        ran.append("slice-calibration")
        found += _parts(streams)
    findings = sorted((f for f in found if f is not None), key=lambda f: (f.severity != "page", -f.excess))
    return Verdict(findings, tuple(ran), unable)


def _whole(streams: Streams) -> Finding | None:
    """Of all clicks."""
    excess = _excess(streams.whole, np.zeros(1))[0]
    if excess is None:
        return None
    shift, since = streams.whole.best(0)
    if not shift.daily:
        since = streams.past.onset(shift.step, np.array([(p.clicks, p.expected) for p in streams.past]))
    evidence = streams.ratios(since) | {"between_day_sd": float(np.sqrt(streams.between_days))}
    if shift.daily != 0.0:
        evidence |= {"days": (streams.now - since) / 24, "slope_a_day": shift.daily}
        name = "slow-calibration"
        return _finding(streams, name, name, "seasonal-drift", "clicks", excess, evidence, since)
    low = shift.step < 0
    # Clicks as usual, p up by as much as the ratio is down: the prediction moved, not the world.
    moved = low and evidence["p_change"] > 1.3 and abs(np.log(evidence["p_change"] * evidence["ratio"])) < 0.4
    symptom = "calibration-low" if low else "calibration-high"
    guess, subject = ("uncorrected-downsampling", "prediction") if moved else ("prior-shift", "clicks")
    return _finding(streams, "calibration", symptom, guess, subject, excess, evidence, since)


def _late(streams: Streams) -> Finding | None:
    """Of clicks on old impressions, and of clicks long under way; the worse."""
    found = []
    named = [
        (f"older than {OLD_S:.0f} s", [(p.old, p.old_expected) for p in streams.past]),
        (f"under way for more than {streams.lags.long_s or 0.0:.0f} s", [(p.lagged, p.lagged_expected) for p in streams.past]),
    ]
    for stream, excess in enumerate(_excess(streams.late, np.full(2, np.log(WEIGHT["late"] / 2)))):
        if excess is None:
            continue
        late, of = named[stream]
        since = streams.past.onset(streams.late.best(stream)[0].step, np.array(of))
        of = of[-len(streams.past.since(since)) :]
        ratio = sum(seen for seen, _ in of) / max(sum(expected for _, expected in of), 1e-9)
        ratios = streams.ratios(since)
        if ratio > OLDER_THAN_ALL * max(1.0, ratios["ratio"]):
            evidence = {**ratios, "late_ratio": ratio, "late": late}
            found.append(
                _finding(streams, "click-delay", "young-clicks-missing", "late-events", "clicks", excess, evidence, since)
            )
    return max(found, key=lambda f: f.excess, default=None)


def _crowd(streams: Streams, seen: Tally) -> Finding | None:
    """Of clicks of a few users."""
    users = streams.users
    log = users.evidence() + np.log(WEIGHT["users"])
    if log < np.log(NOTICE_H):
        return None
    excess: tuple[Severity, float] = "page" if log >= np.log(PAGE_H) else "notice", float(log / np.log(PAGE_H))
    since = users.onset_hour()
    past = streams.past.since(since)
    clicks = sum(p.clicks for p in past)
    evidence = {
        "top5_share": sum(p.top_users for p in past) / max(clicks, 1.0), "usual_top5_share": streams.usual_top_users,
        "clicks": clicks, "expected": sum(p.expected for p in past), "user_variance": users.variance,
    }  # fmt: skip
    if len(seen.user_clicks):
        worst = int(np.argmax(seen.user_clicks - 3 * np.sqrt(seen.user_expected + 1) - seen.user_expected))
        evidence |= {"user_clicks": float(seen.user_clicks[worst]), "user_expected": float(seen.user_expected[worst])}
    if excess[0] == "page":
        users.hold(max(float(log - np.log(PAGE_H)) - MARGIN, 0.0))
    name = "click-concentration"
    return _finding(streams, name, name, "bots", "user", excess, evidence, since)


def _parts(streams: Streams) -> list[Finding]:
    """Of slices; the worst of each column."""
    columns = streams.columns()
    count = {column: columns.count(column) for column in set(columns)}
    plain = max(sum(column not in (UPPER, "randomised") for column in count), 1)
    weight = {UPPER: WEIGHT["discrimination"], "randomised": WEIGHT["randomised"]}
    log_weight = np.log([weight.get(column, WEIGHT["slices"] / plain) / count[column] for column in columns])
    best: dict[str, Finding] = {}
    for stream, excess in enumerate(_excess(streams.parts, log_weight)):
        if excess is None:
            continue
        column, value = streams.slices.names[stream]
        step = streams.parts.best(stream)[0].step
        past = [p for p in streams.past if len(p.by_slice) > stream]
        usual = inverse_logit(np.array([p.odds[stream] for p in past]))
        of = np.stack([[p.by_slice[stream] for p in past], np.array([p.clicks for p in past]) * usual], axis=1)
        since = streams.past.onset(step, of)
        past = past[-len(streams.past.since(since)) :]
        seen, expected = (float(value) for value in of[-len(past) :].sum(axis=0))
        total = sum(p.clicks for p in past)
        rest = (total - seen) / max(total - expected, 1e-9)
        evidence = {
            "value": value, "ratio": seen / max(expected, 1e-9) / max(rest, 1e-9), "clicks": seen, "expected": expected,
            "global_ratio": streams.ratios(since)["ratio"], "hours": streams.now - since,
        }  # fmt: skip
        found = _finding(streams, *_meaning(column, value, step < 0), excess, evidence, since)
        if column not in best or found.excess > best[column].excess:
            best[column] = found
    return list(best.values())


def _meaning(column: str, value: str, low: bool) -> tuple[str, str, str, str]:
    """What a slice that is off stands for: check, symptom, guess, subject."""
    check = "slice-calibration"
    if column == UPPER:
        symptom = "discrimination-down" if low else check
        return symptom, symptom, "concept-drift", "prediction"
    if column == "randomised":
        return "randomised-slice", "randomised-slice", "feedback-loop", "prediction"
    guess = "new-ad-wave" if column == "item" else "concept-drift"
    return check, check, guess, value if column in ("arm", "model") else column


def _excess(detector: EDetector, log_weight: F64) -> list[tuple[Severity, float] | None]:
    """Severity and excess of each stream, None where there is nothing to say; evidence above the limit is held there."""
    log = detector.evidence() + log_weight
    over = (log + detector.overflow) / np.log(PAGE_H)
    detector.hold(np.log(PAGE_H) - log_weight)
    return [
        ("page", float(amount)) if now >= np.log(PAGE_H) else ("notice", float(amount)) if now >= np.log(NOTICE_H) else None
        for now, amount in zip(log.tolist(), over.tolist(), strict=True)
    ]


def _finding(
    streams: Streams, check: str, symptom: str, guess: str, subject: str, excess: tuple[Severity, float],
    evidence: Mapping[str, object], since: float,
) -> Finding:  # fmt: skip
    onset = streams.past.since(since)[0].start_us
    return Finding(check, guess, subject, excess[0], evidence, None, excess[1], symptom, NAME, onset)
