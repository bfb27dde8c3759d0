"""The exact tier: identity, contract, versions, reconciliation, ages and volume.  Needs little or no history.

Each fact is a count of rows that are wrong in one way; it pages when there are more than the learned benign rate allows.
Volume is judged against a forecast.  Called by the monitor.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from infra.clock import DAY_US, HOUR_US
from monitoring.findings import Finding, Severity
from monitoring.tiers.counts import Rate
from monitoring.tiers.facts import (
    Fact,
    Memory,
    UnderWay,
    ages,
    books,
    contract,
    hashed,
    identity,
    kind_of,
    reconciliation,
    versions,
    views,
)
from monitoring.tiers.tier import PAGES_A_DAY, SHARE
from monitoring.tiers.volume import Expected, Volume, gap_bunch, gap_excess, hours_of, log10_of_day
from monitoring.window import LogColumns, Window

BUDGET = PAGES_A_DAY * SHARE["exact"]
PARTS = {"identity": 0.15, "contract": 0.2, "versions": 0.05, "books": 0.2, "ages": 0.15, "volume": 0.2, "gaps": 0.05}
REFERENCE_H = 14 * 24  # windows that teach how many rows are under way between two stages
FIRST_H = 72  # windows in which a contract rule that is broken is known to break
PRIOR_ROWS = 2000.0  # half a wrong row on so many: what is exact is right unless the reference shows otherwise
ADOPTED = 24  # windows for which a new version is told; then it is one of those known
OLDER = 1.25, 60.0  # ages above this multiple of the greatest usual one at this hour of the day, plus seconds, are old
MANY = 30  # events in an hour from which a gap between them says something


class ExactTier:
    """Checks that are right or wrong, above their benign rate."""

    name = "exact"

    def __init__(self, columns: LogColumns) -> None:
        self.columns = columns
        self._memory = Memory()
        self._rates: dict[tuple[str, str, str], Rate] = {}
        self._volumes: dict[str, Volume] = {}
        self._bunch: list[float] = []
        self._told: dict[str, int] = {}  # new version -> windows in which it was told
        self._ages: dict[str, npt.NDArray[np.float64]] = {}
        self._seen: dict[str, Any] = {}
        self._learned_h = 0  # windows learned
        self._unable: dict[str, str] = {}
        self._ran: list[str] = []

    def test(self, window: Window) -> list[Finding]:
        """Everything that is wrong more often than usual, worst first."""
        self._unable, self._ran = {}, []
        self._seen = self._look(window)
        facts = [*identity(window, self._memory), *contract(window, self._memory), *reconciliation(window, self._memory)]
        facts += versions(window, self._memory)
        facts += ages(window, self.columns, self._limits())
        found = [*self._judge(window, facts), *self._judge_volume(window), *self._judge_gap(window)]
        self._account(window, {fact.group for fact in facts})
        return sorted(found, key=lambda f: (f.severity != "page", -f.excess))

    def learn(self) -> None:
        """Rates, versions, kinds of columns, ages and volumes of the window tested last."""
        seen, memory = self._seen, self._memory
        for rate in self._rates.values():
            rate.learn()
        for volume in self._volumes.values():
            volume.learn()
        for name, kind in seen.get("kinds", {}).items():
            memory.kinds.setdefault(name, kind)
        for column, values in seen.get("versions", {}).items():
            memory.versions.setdefault(column, set()).update(values)
        for view, most in seen.get("ages", {}).items():
            self._ages[view] = np.fmax(self._ages.get(view, np.full(24, np.nan)), most)
        self._learned_h += 1
        if self._learned_h <= FIRST_H:
            memory.rules |= seen.get("rules", set())
        if self._learned_h <= REFERENCE_H:
            for name, (hour, day) in memory.under_way.items():
                memory.usual.setdefault(name, UnderWay()).add(hour, day)
        if "bunch" in seen:
            self._bunch = [*self._bunch, seen["bunch"]][-24 * 14 :]
        self._seen = {}

    def unable(self) -> Mapping[str, str]:
        return self._unable

    def ran(self) -> tuple[str, ...]:
        return tuple(self._ran)

    def _look(self, window: Window) -> dict[str, Any]:
        """What there is to learn in a window, besides counts."""
        log = window.log
        if not log.num_rows:
            return {}
        seen: dict[str, Any] = {
            "kinds": {n: k for n in log.column_names if (k := kind_of(log[n].type)) != "null"},
            "versions": {
                c: {v or "unknown" for v in pc.unique(log[c]).to_pylist()}
                for c in ("model", "encoder")
                if c in log.column_names
            },
            "ages": {},
        }
        hour = (log["time"].to_numpy() // HOUR_US % 24).astype(np.int64)
        for view in views(log):
            most = np.full(24, np.nan)
            np.fmax.at(most, hour, pc.fill_null(pc.cast(log[f"age_{view}"], pa.float64()), np.nan).to_numpy())
            seen["ages"][view] = most
        if window.refused is not None:
            seen["rules"] = {(r["stream"], r["field"], r["rule"]) for r in window.refused.to_pylist()}
        return seen

    def _limits(self) -> dict[str, npt.NDArray[np.float64]]:
        """Ages [24] by hour of the day above which a row is old; the hours beside one count too, as ticks wander."""
        limits = {}
        for view, most in self._ages.items():
            near = np.fmax(most, np.fmax(np.roll(most, 1), np.roll(most, -1))) if np.isfinite(most).all() else most
            limits[view] = OLDER[0] * np.where(np.isfinite(most), np.fmin(near, most + HOUR_US / 1e6), np.nan) + OLDER[1]
        return limits

    def _judge(self, window: Window, facts: list[Fact]) -> Iterator[Finding]:
        sizes: dict[str, int] = {}
        for fact in facts:
            sizes[fact.group] = sizes.get(fact.group, 0) + (0 if fact.notice else 1)
        days = min(1.0, (window.end_us - window.start_us) / DAY_US)
        for fact in facts:
            allowed = BUDGET * PARTS[fact.group] / max(sizes[fact.group], 1) / 2
            rate = self._rates.setdefault(fact.key, Rate(prior_rows=PRIOR_ROWS))
            alarm = rate.see(fact.x, fact.n, window.start_us, allowed * days, allowed, fact.so_far)
            if alarm is None:
                continue
            rate.restart()
            if fact.group == "versions" and not self._still_new(fact):
                continue
            evidence = {"rows": alarm.count, "of": alarm.of, "rate": alarm.rate, "usual": alarm.usual, "scale": alarm.scale}
            yield Finding(
                fact.check, fact.bug_class, fact.subject, "notice" if fact.notice else "page", evidence | dict(fact.evidence),
                excess=alarm.excess, symptom=fact.symptom, tier="exact", onset_us=alarm.onset_us,
            )  # fmt: skip

    def _still_new(self, fact: Fact) -> bool:
        """Whether a new version is still to be told; a rollout that nobody took back becomes known after a day."""
        self._told[fact.subject] = self._told.get(fact.subject, 0) + 1
        if self._told[fact.subject] <= ADOPTED:
            return True
        self._memory.versions[fact.evidence["column"]].add(fact.subject)
        return False

    def _judge_volume(self, window: Window) -> Iterator[Finding]:
        hours = hours_of(window.start_us, window.end_us)
        counts = {"impressions": float(_requests(window)), **_landed(window)}
        if window.clicks is not None:
            counts["clicks"] = float(window.clicks.num_rows)
        limit = log10_of_day(BUDGET * PARTS["volume"] / (6 * max(len(counts), 1)), window.start_us, window.end_us)
        for stream in sorted(self._volumes.keys() | counts.keys()):
            volume, count = self._volumes.setdefault(stream, Volume()), counts.get(stream, 0.0)
            if len(hours) != 1:
                continue
            expected = volume.see(hours[0], count)
            if expected is None:
                self._unable[f"volume of {stream}"] = "needs a whole day of hours before it can forecast one"
                continue
            self._ran.append(f"volume of {stream}")
            since = hours[0]
            excess, down = _surprise(expected, count, limit)
            for total, forecast, first in volume.together():
                if excess < 1.0:
                    count, expected, since = total, forecast, first
                    excess, down = _surprise(expected, count, limit)
            if excess < 1.0:
                continue
            symptom = "volume-up" if not down else "hours-missing" if count < 0.1 * expected.mean else "volume-down"
            kind = "partial-partition" if down else "duplicated-events"
            evidence = {"count": count, "expected": expected.mean, "sd": expected.variance**0.5, "ratio": count / expected.mean}
            subject = stream.removesuffix(" landed")
            volume.distrust(hours[0])
            # Users may click less: fewer clicks are a matter of calibration, which knows what was expected, unless none come.
            severity: Severity = "notice" if subject == "clicks" and symptom != "hours-missing" else "page"
            yield Finding(
                f"volume of {stream}", kind, subject, severity, evidence,
                excess=excess, symptom=symptom, tier="exact", onset_us=since * HOUR_US,
            )  # fmt: skip

    def _judge_gap(self, window: Window) -> Iterator[Finding]:
        times = _arrivals(window)
        if len(times) < MANY or window.end_us - window.start_us != HOUR_US:
            return
        now = self._seen["bunch"] = gap_bunch(times, window.start_us, window.end_us)
        if len(self._bunch) < 24:
            self._unable["gaps"] = "needs a day of hours to know how bunched events come"
            return
        self._ran.append("gaps")
        bunch = max(1.2, 1.25 * float(np.mean(self._bunch)))
        limit = log10_of_day(BUDGET * PARTS["gaps"], window.start_us, window.end_us)
        excess, begins, seconds = gap_excess(times, window.start_us, window.end_us, bunch, limit)
        if excess >= 1.0 and now > 1.2 * max(self._bunch):
            yield Finding(
                "gaps", "partial-partition", "impressions", "page", {"seconds_without_events": seconds, "events": len(times)},
                excess=excess, symptom="hours-missing", tier="exact", onset_us=begins,
            )  # fmt: skip

    def _account(self, window: Window, groups: set[str]) -> None:
        """Which checks ran, and what the others lacked."""
        self._ran += sorted(groups - {"versions"})
        if window.books is None:
            self._unable["books"] = "no books of the streams were given"
        if "model" not in window.log.column_names:
            self._unable["versions"] = "the log has no column model"
        elif "model" not in self._memory.versions:
            self._unable["versions"] = "no version was seen before"
        else:
            self._ran.append("versions")
        if not views(window.log):
            self._unable["ages"] = "the log has no ages of feature views"


def _surprise(expected: Expected, count: float, log10_limit: float) -> tuple[float, bool]:
    """(excess, whether there are too few) of a count under its forecast."""
    down = count < expected.mean
    return float((expected.log10_below(count) if down else expected.log10_above(count)) / log10_limit), down


def _requests(window: Window) -> int:
    """Distinct requests, or rows where requests are not known."""
    if "request" in window.log.column_names:
        return len(np.unique(hashed(window.log["request"])))
    return window.log.num_rows


def _arrivals(window: Window) -> npt.NDArray[np.int64]:
    """Times (us, ascending) of distinct moments at which something was logged."""
    time = np.unique(window.log["time"].to_numpy())
    return time[(time >= window.start_us) & (time < window.end_us)]


def _landed(window: Window) -> dict[str, float]:
    return {f"{stream} landed": float(stages["landed"]) for stream, stages in books(window).items() if "landed" in stages}
