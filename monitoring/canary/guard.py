"""Whether a canary goes on, goes back, or may be promoted: counts of two arms against four bands, at any look.

Pure; called every few seconds by whoever counts, with what was counted since the canary got its share.  A canary goes back when
a bound says that a band is left, or when a metric is missing after its grace.  With a good canary that happens with a chance of
`ALPHA` at most, however often it is looked at; the bounds are in `monitoring.canary.bounds`.

Errors and slow requests are taken as independent, which users who fail again and again are not: the bands leave room for a few
of them.  Clicks and log loss are not: their variance comes from how buckets of users scatter.
"""

from dataclasses import asdict, dataclass
from math import inf, isfinite, log
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from monitoring.canary.bounds import Bounds, dispersion, mean, rate
from monitoring.canary.counts import BUCKETS, EDGES_S, Counts
from monitoring.findings import Finding

F64 = npt.NDArray[np.float64]
State = Literal["inside", "open", "outside", "missing"]
Action = Literal["continue", "roll back", "ready"]

METRICS = ("errors", "latency", "calibration", "ne")
ALPHA = 0.01  # of all four metrics together
READY = 0.1  # of each: chance that one outside its band is ever called inside; asks for more users than its opposite
TAIL = 0.01  # of the champion's requests are above the latency that is looked at: its p99
BUG_CLASS = "canary-rolled-back"


@dataclass(frozen=True, slots=True)
class Bands:
    """How much worse than the champion a canary may be, and when every metric must be there."""

    errors: float = 0.005  # share of requests
    slow: float = 0.02  # share of requests above the champion's p99
    calibration: float = 0.1  # clicks over expected clicks: log of the ratio to the champion's, either way
    ne: float = 0.02
    grace_s: float = 300.0  # by then there are requests and their latencies
    label_grace_s: float = 7200.0  # by then there are clicks


@dataclass(frozen=True, slots=True)
class Reading:
    """One metric at one look."""

    metric: str
    state: State
    text: str  # for people
    canary: float | None = None
    champion: float | None = None
    low: float | None = None  # bounds of the difference
    high: float | None = None
    band: float | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a look says."""

    action: Action
    readings: tuple[Reading, ...]

    @property
    def why(self) -> str:
        """The readings that decide, in words."""
        decisive = [r for r in self.readings if r.state in ("outside", "missing")] if self.action == "roll back" else []
        return "; ".join(f"{r.metric}: {r.text}" for r in decisive or self.readings)

    def findings(self) -> tuple[Finding, ...]:
        """What an incident says of a canary that goes back."""
        return tuple(
            Finding("canary guard", BUG_CLASS, r.metric, "page", {"state": r.state, "text": r.text} | _numbers(r))
            for r in self.readings
            if r.state in ("outside", "missing")
        )

    def as_json(self) -> dict[str, Any]:
        """A dict of JSON types."""
        return {"action": self.action, "why": self.why, "readings": [asdict(r) for r in self.readings]}


def judge(canary: Counts, champion: Counts, elapsed_s: float, bands: Bands | None = None) -> Verdict:
    """A look at a canary and the champion, both counted over the same `elapsed_s` seconds.

    The champion's are the requests of all arms that it answers."""
    bands = bands or Bands()
    alpha = ALPHA / len(METRICS)
    grace_s = {"errors": bands.grace_s, "latency": bands.grace_s}
    absent = {**_no_requests(canary, champion), **_no_labels(canary, champion)}
    readings = []
    for name in METRICS:
        if name in absent:
            text, broken = absent[name]
            late = elapsed_s >= grace_s.get(name, bands.label_grace_s)
            readings.append(Reading(name, "missing" if broken or late else "open", text))
        else:
            readings.append(_MEASURES[name](canary, champion, bands, alpha))
    states = {reading.state for reading in readings}
    action: Action = "roll back" if states & {"outside", "missing"} else "ready" if states == {"inside"} else "continue"
    return Verdict(action, tuple(readings))


def _no_requests(canary: Counts, champion: Counts) -> dict[str, tuple[str, bool]]:
    """Metric -> (what is missing, whether waiting can't help)."""
    for arm, counts in (("canary", canary), ("champion", champion)):
        if counts.requests == 0:
            return dict.fromkeys(("errors", "latency"), (f"no requests of the {arm} were counted", False))
        timed, answered = counts.latency.sum(), counts.requests - counts.errors
        if not isfinite(timed):
            return {"latency": (f"the {arm}'s latencies are no numbers", True)}
        if timed < answered:
            return {"latency": (f"{timed:.0f} of the {arm}'s {answered} answers were timed", False)}
        if timed == 0:
            return {"latency": (f"none of the {arm}'s requests was answered", False)}
    return {}


def _no_labels(canary: Counts, champion: Counts) -> dict[str, tuple[str, bool]]:
    for arm, counts in (("canary", canary), ("champion", champion)):
        sums = {"clicks": counts.clicks, "sums of p": counts.sum_p, "log losses": counts.log_loss}
        for what, values in sums.items():
            if not np.isfinite(values).all():
                return dict.fromkeys(("calibration", "ne"), (f"the {arm}'s {what} are no numbers", True))
        if not 0 < counts.clicks.sum() < counts.impressions.sum() or counts.sum_p.sum() <= 0:
            shown = counts.impressions.sum()
            text = f"{counts.clicks.sum():.0f} clicks on the {arm}'s {shown:.0f} shown ads whose label is due"
            return dict.fromkeys(("calibration", "ne"), (text, False))
    return {}


def _errors(canary: Counts, champion: Counts, bands: Bands, alpha: float) -> Reading:
    mine, theirs = canary.errors / canary.requests, champion.errors / champion.requests
    found, ready = (
        rate(canary.errors, canary.requests, each / 2).minus(rate(champion.errors, champion.requests, each / 2))
        for each in (alpha, READY)
    )
    text = f"{mine:.2%} of {canary.requests} requests, the champion's {theirs:.2%} of {champion.requests}"
    return _reading("errors", text, mine, theirs, found, ready, (-inf, bands.errors))


def _latency(canary: Counts, champion: Counts, bands: Bands, alpha: float) -> Reading:
    edge = _p99(champion.latency)
    (slow, of), (usual, of_usual) = (
        (float(counts.latency[edge + 1 :].sum()), float(counts.latency.sum())) for counts in (canary, champion)
    )
    # The edge is chosen by the data, so the bounds must hold at every one of them.
    found, ready = (
        rate(slow, of, each / 2 / len(EDGES_S)).minus(rate(usual, of_usual, each / 2 / len(EDGES_S))) for each in (alpha, READY)
    )
    text = f"{slow / of:.1%} of requests take over {1e3 * EDGES_S[edge]:.3g} ms, of the champion's {usual / of_usual:.1%}"
    return _reading("latency", text, slow / of, usual / of_usual, found, ready, (-inf, bands.slow))


def _p99(latency: F64) -> int:
    """The first edge that at most `TAIL` of the requests are above; the last one where none is like that."""
    above = latency.sum() - np.cumsum(latency)[:-1]
    return min(int(np.sum(above > TAIL * latency.sum())), len(EDGES_S) - 1)


def _calibration(canary: Counts, champion: Counts, bands: Bands, alpha: float) -> Reading:
    clicks, usual = float(canary.clicks.sum()), float(champion.clicks.sum())
    level = usual / float(champion.sum_p.sum())  # the champion's clicks over sum of p
    expected = level * float(canary.sum_p.sum())
    ratio = log((clicks + 0.5) / (expected + 0.5))
    scatter = dispersion(champion.clicks, champion.sum_p), dispersion(canary.clicks, canary.sum_p)
    theirs, mine = max(scatter[0], 1.0), max(scatter[1], sum(scatter) / 2, 1.0)
    variance = mine / ((clicks + expected) / 2 + 0.5) + theirs / usual
    found, ready = (mean(ratio, variance, bands.calibration, each) for each in (alpha, READY))
    text = f"{clicks:.0f} clicks where the champion's ratio leads one to expect {expected:.0f}"
    limits = (-bands.calibration, bands.calibration)
    return _reading("calibration", text, clicks / float(canary.sum_p.sum()), level, found, ready, limits)


def _ne(canary: Counts, champion: Counts, bands: Bands, alpha: float) -> Reading:
    (mine, my_unit), (theirs, their_unit) = (_normalised_entropy(counts) for counts in (canary, champion))
    unit = max(my_unit, (my_unit + their_unit) / 2)  # the canary's own has few users behind it
    variance = unit / float(canary.impressions.sum()) + their_unit / float(champion.impressions.sum())
    found, ready = (mean(mine - theirs, variance, bands.ne, each) for each in (alpha, READY))
    text = f"normalised entropy {mine:.4f}, the champion's {theirs:.4f}"
    return _reading("ne", text, mine, theirs, found, ready, (-inf, bands.ne))


def _normalised_entropy(counts: Counts) -> tuple[float, float]:
    """NE of an arm, and its variance times the impressions: from how buckets of users scatter, linearised (Deng, Knoblich, Lu
    2018, "Applying the delta method in metric analytics")."""
    shown, clicks = float(counts.impressions.sum()), float(counts.clicks.sum())
    share = clicks / shown
    base = -clicks * log(share) - (shown - clicks) * log(1 - share)  # log loss of always predicting the click rate
    ne = float(counts.log_loss.sum()) / base
    own_base = -counts.clicks * log(share / (1 - share)) - counts.impressions * log(1 - share)
    influence = (counts.log_loss - ne * own_base) / base
    return ne, float(np.sum(np.square(influence))) * BUCKETS / (BUCKETS - 1) * shown


_MEASURES = {"errors": _errors, "latency": _latency, "calibration": _calibration, "ne": _ne}


def _reading(
    metric: str, text: str, mine: float, theirs: float, found: Bounds, ready: Bounds, limits: tuple[float, float]
) -> Reading:
    least, most = limits
    state: State = "open"
    if found.low > most or found.high < least:
        state = "outside"
    elif least <= ready.low and ready.high <= most:
        state = "inside"
    low, high = (value if isfinite(value) else None for value in (found.low, found.high))
    return Reading(metric, state, text, mine, theirs, low, high, most)


def _numbers(reading: Reading) -> dict[str, Any]:
    numbers = {name: getattr(reading, name) for name in ("canary", "champion", "low", "high", "band")}
    return {name: value for name, value in numbers.items() if value is not None}
