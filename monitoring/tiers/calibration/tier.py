"""The calibration tier: are there as many clicks as predicted, everywhere, at every age and from everybody?

Streams of evidence share the tier's budget by weight; each is an e-detector (`edetector`) whose limit is the average run
length that its weight leaves it.  The weighted sum of such statistics is one itself under any dependence, so streams may
overlap as they like.  Made by `monitoring.monitor`.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from monitoring.findings import Finding, Severity
from monitoring.tiers.calibration.cohorts import Cohorts
from monitoring.tiers.calibration.concentration import Concentration
from monitoring.tiers.calibration.delay_curve import DelayCurve
from monitoring.tiers.calibration.edetector import EDetector, Shift, Wander, inverse_logit
from monitoring.tiers.calibration.history import History, Past
from monitoring.tiers.calibration.overdispersion import Spread, shrunk
from monitoring.tiers.calibration.slices import NEW, UPPER, Slices
from monitoring.tiers.calibration.tally import FIRST_OLD, Tally, tally
from monitoring.tiers.tier import NOTICES_A_DAY, PAGES_A_DAY, SHARE
from monitoring.window import LogColumns, Window

F64 = npt.NDArray[np.float64]

NAME = "calibration"
# Average run lengths (hours) between false pages, and notices, of the whole tier.
PAGE_H = 24 / (PAGES_A_DAY * SHARE[NAME])
NOTICE_H = 24 / (NOTICES_A_DAY * SHARE[NAME])
# Shares of the tier's evidence: more than half on the global stream (design, Monitoring).
WEIGHT: Mapping[str, float] = {
    "global": 0.62, "slow": 0.02, "late": 0.06, "users": 0.05, "discrimination": 0.05, "randomised": 0.05, "slices": 0.15,
}  # fmt: skip
# Sizes from nearly no clicks at all to 5% (less than that two weeks of days that differ by 2.5% cannot show), and their
# weights: halvings have two hours, smaller shifts a day, so every nat counts for both.
STEPS = {
    -3.0: 0.01, -1.4: 0.03, -0.7: 0.13, -0.4: 0.11, -0.22: 0.12, -0.11: 0.15, -0.05: 0.04,
    0.05: 0.04, 0.1: 0.14, 0.2: 0.10, 0.4: 0.05, 0.55: 0.04, 0.8: 0.03, 1.6: 0.01,
}  # fmt: skip
# Single days are odd now and then: holidays raised the ratio by 12%, 15% and 23% on our worlds.  Shifts in between wait.
ODD, ODD_H = (-0.15, 0.45), 30.0
# Of the log ratio a day.  Faster ones are steps within the week.  However long a ramp is, its end may be a holiday (one raised
# clicks by 23%), so ramps always bear the odd day's doubt.
RAMPS = (-0.01, 0.01)
SLICE_STEPS = (-1.6, -0.7, -0.3, -0.12, 0.12, 0.3, 0.7, 1.6)
LATE_STEPS = (0.4, 0.9, 1.8, 3.2)
# Variances of log ratios.  A day's: sd 2.4% (world "small") to 6.4% (a bazaar) on our clean worlds, holidays included.
DAY_PRIOR, DAY_PRIOR_DAYS = 0.04**2, 14.0
# A slice's: 0 for devices and countries, 6% for ad categories, 7% for placements.
SLICE_PRIOR, SLICE_PRIOR_DAYS = 0.04**2, 10.0
LATE_PRIOR = 0.15**2
# A frozen champion drifted by 12% in 66 days, 0.2% a day; bazaars by 5% to 8% in two or three weeks, there and back.
WANDER = Wander(level=0.3**2, drift=0.01**2, trend=True)
SLICE_WANDER = Wander(level=0.25**2, drift=0.007**2)
# An item the champion has hardly seen misses by a factor of its own, for all its clicks alike: standard deviation of the log.
# One ad that started on our clean worlds was clicked 2.2 times as often as predicted for a day.
YOUNG = 0.5**2
SMOOTH_H = 4.0  # the mix of items of an hour is a small sample
NOTICE_GROWN, FORGET_H = 0.1, 72.0  # of the excess; hours of silence
CERTAIN = 0.1**2  # a level known this well may be used to measure the spread around it
# The first day teaches how long clicks take.  Until that is known a level would be the delay's: a log whose clicks came faster
# than assumed began 70% "too high", and the way back looked like days that differ by 13%.
CURVE_H = 24.0
LEAST_HOURS, LEAST_CLICKS = 20.0, 20.0  # history below which nothing is judged
OLDER_THAN_ALL = 1.3  # late clicks must be this much more frequent than all clicks, and than usual


class CalibrationTier:
    """Predict, test, then learn (`monitoring.tiers.tier.Tier`)."""

    name = NAME

    def __init__(self, columns: LogColumns) -> None:
        self._slices = Slices(columns)
        self._cohorts = Cohorts()
        self._curve = DelayCurve()
        steps = [
            Shift(step, 0.0, WEIGHT["global"] * weight, ODD_H if ODD[0] < step < ODD[1] else 0.0)
            for step, weight in STEPS.items()
        ]
        ramps = [Shift(0.0, ramp, WEIGHT["slow"] / len(RAMPS), np.inf) for ramp in RAMPS]
        self._all = EDetector((*steps, *ramps), WANDER, shares=False)
        self._all.grow(1)
        self._late = EDetector(tuple(Shift(s, 0.0, 1 / len(LATE_STEPS)) for s in LATE_STEPS), WANDER, shares=False)
        self._late.grow(2)
        self._parts = EDetector(tuple(Shift(s, 0.0, 1 / len(SLICE_STEPS)) for s in SLICE_STEPS), SLICE_WANDER, shares=True)
        self._users = Concentration()
        self._spread, self._late_spread, self._part_spread = Spread(1), Spread(2), Spread()
        self._past = History()
        self._clump, self._clump_by_slice = 0.0, np.zeros(0)
        self._usual = np.zeros(4)  # impressions, sum of p, clicks, clicks of the top five users
        self._lags = np.array([1.0, 50.0])  # clicks that took longer than `_lag_s`, clicks
        self._lag_s: float | None = None
        self._first_lags: list[F64] = []
        self._hours = 0.0
        self._expected = 0.0  # clicks ever expected
        self._seen: Tally | None = None
        self._learned = True
        self._paged = False
        self._told: dict[tuple[str, str], tuple[float, float]] = {}  # excess of notices that go on, and the hour seen last
        self._ran: tuple[str, ...] = ()
        self._unable: dict[str, str] = {}

    def test(self, window: Window) -> list[Finding]:
        """Weigh a window against what earlier ones lead one to expect."""
        if not self._learned:
            for detector in (self._all, self._late, self._parts):
                detector.forget()
        self._learned, self._paged, self._ran, self._unable = False, False, (), {}
        seen = self._seen = tally(window, self._slices, self._cohorts, self._curve, self._users.suspects)
        if seen is None:
            self._unable[NAME] = "no clicks and no labels"
            return []
        if seen.cohort is not None:
            self._cohorts.add(seen.cohort, window.end_us)
        self._step(seen, window.start_us)
        if self._hours < LEAST_HOURS or self._expected < LEAST_CLICKS:
            self._unable[NAME] = (
                f"{self._hours:.0f} hours with {self._expected:.0f} expected clicks before this window; "
                f"it takes {LEAST_HOURS:.0f} hours and {LEAST_CLICKS:.0f} clicks to know the champion's usual level"
            )
            self._restart()
            return []
        return self._judge(seen)

    def learn(self) -> None:
        """Take the window tested last into levels, spreads and curves."""
        seen = self._seen
        if seen is None:
            return
        self._learned = True
        if self._paged:  # it is learned all the same: a reference, or the new normal
            for detector in (self._all, self._late, self._parts):
                detector.learn_anew()
            self._users.restart()
        days, now = seen.hours / 24, self._past.newest
        self._hours += seen.hours
        self._expected += seen.expected
        if seen.cohort is not None and self._hours <= CURVE_H:
            self._learn_delays(seen, days)
            for detector in (self._all, self._late, self._parts):
                detector.begin_again()
            return
        info = now.expected * (self._all.uncertainty < CERTAIN).astype(np.float64)
        self._spread.learn(np.where(info > 0, now.clicks - now.expected, 0.0), info, info, days)
        if seen.cohort is not None:
            expected = np.array([now.old_expected, now.lagged_expected])
            info = expected * (self._late.uncertainty < CERTAIN).astype(np.float64)
            self._late_spread.learn(np.where(info > 0, np.array([now.old, now.lagged]) - expected, 0.0), info, info, days)
            self._learn_delays(seen, days)
        share = inverse_logit(now.odds)
        info = now.clicks * share * (1 - share) * (self._parts.uncertainty < CERTAIN).astype(np.float64)
        self._part_spread.learn(np.where(info > 0, now.by_slice - now.clicks * share, 0.0), info, info, days)
        self._users.learn(seen.user_clicks_now, seen.user_squares * float(np.exp(2 * self._all.level[0])))
        for detector in (self._all, self._late, self._parts):
            detector.learn()
        keep = 2.0 ** (-days / 7)
        self._usual = keep * self._usual + np.array([seen.impressions, seen.sum_p, seen.clicks, seen.top_users])

    def unable(self) -> Mapping[str, str]:
        """What could not be judged in the window tested last, and why."""
        return self._unable

    def ran(self) -> tuple[str, ...]:
        """What was judged in it."""
        return self._ran

    def _step(self, seen: Tally, start_us: int) -> None:
        """Move every stream on by a window, and note the window."""
        bias = float(np.exp(self._all.level[0]))
        day, hour = self._variances(self._spread, np.full(1, DAY_PRIOR), DAY_PRIOR_DAYS)
        clump = self._clump + (1 - float(np.exp(-seen.hours / SMOOTH_H))) * (seen.young - self._clump)
        self._all.expect(seen.hours, day + YOUNG * clump, np.full(1, YOUNG * max(clump - self._clump, 0.0)))
        self._clump = clump
        self._all.see(np.array([seen.clicks]), np.array([seen.expected]), hour / seen.hours)
        old = old_expected = lagged = lagged_expected = 0.0
        if seen.cohort is not None:
            old = float(seen.clicks_by_age[FIRST_OLD:].sum())
            old_raw = float(seen.exposed_by_age[FIRST_OLD:] @ self._curve.by_bucket[FIRST_OLD:])
            lagged = float((seen.lags_s > self._lag_s).sum()) if self._lag_s is not None else 0.0
            lagged_raw = seen.expected * self._lags[0] / self._lags[1] if self._lag_s is not None else 0.0
            old_expected, lagged_expected = np.array([old_raw, lagged_raw]) * np.exp(self._late.level)
            day, hour = self._variances(self._late_spread, np.full(2, LATE_PRIOR), DAY_PRIOR_DAYS)
            moves = hour / seen.hours
            self._late.expect(seen.hours, day, np.zeros(2))
            self._late.see(np.array([old, lagged]), np.array([old_raw, lagged_raw]), moves)
        streams = len(seen.by_slice)
        self._parts.grow(streams)
        self._part_spread.grow(streams)
        column = self._columns()
        share = seen.expected_by_slice / max(seen.expected, 1e-12)
        with np.errstate(divide="ignore"):
            odds = np.log(share / np.maximum(1 - share, 1e-9))
        odds_usual = odds + self._parts.level
        day, hour = self._part_variances(column)
        before = np.pad(self._clump_by_slice, (0, streams - len(self._clump_by_slice)))
        clumps = before + (1 - float(np.exp(-seen.hours / SMOOTH_H))) * (seen.young_by_slice - before)
        self._parts.expect(seen.hours, day + YOUNG * clumps, YOUNG * np.maximum(clumps - before, 0.0))
        self._clump_by_slice = clumps
        self._parts.see(seen.by_slice, share, hour / seen.hours, np.full(streams, seen.clicks))
        if self._slices.has_users:
            self._users.see(
                seen.users,
                seen.user_clicks,
                bias * seen.user_expected,
                bias * seen.expected,
                self._all.hour - seen.hours,
                seen.hours,
            )
        self._past.add(Past(
            self._all.hour - seen.hours, start_us, seen.clicks, bias * seen.expected, old, float(old_expected), lagged,
            float(lagged_expected), seen.impressions, seen.sum_p, seen.top_users, seen.by_slice, odds_usual,
        ))  # fmt: skip
        self._part_columns = column

    def _judge(self, seen: Tally) -> list[Finding]:
        found: list[Finding | None] = []
        ran = ["calibration", "slow-calibration"]
        found.append(self._global())
        if seen.cohort is not None:
            ran.append("click-delay")
            found.append(self._delay())
        else:
            self._unable["click-delay"] = "labels come without the time of their arrival, and are taken as final"
        if self._slices.has_users:
            ran.append("click-concentration")
            found.append(self._crowd())
        else:
            self._unable["click-concentration"] = "no column user"
        if len(seen.by_slice):
            ran.append("slice-calibration")
            found += self._by_slice()
        self._ran = tuple(ran)
        findings = sorted((f for f in found if f is not None), key=lambda f: (f.severity != "page", -f.excess))
        self._paged = any(f.severity == "page" for f in findings)
        # A notice is written down once, and again where it grew or comes back after a while.
        self._told = {key: told for key, told in self._told.items() if self._all.hour - told[1] < FORGET_H}
        said = []
        for finding in findings:
            key = finding.symptom, finding.subject
            excess, _ = self._told.get(key, (-1.0, 0.0))
            fresh = finding.severity == "page" or finding.excess > excess + NOTICE_GROWN
            self._told[key] = finding.excess if fresh else excess, self._all.hour
            if fresh:
                said.append(finding)
        return said

    def _global(self) -> Finding | None:
        excess = self._excess(self._all, np.zeros(1))
        if excess[0] is None:
            return None
        shift, since = self._all.best(0)
        if not shift.daily:
            since = self._past.onset(shift.step, np.array([(p.clicks, p.expected) for p in self._past]))
        severity, amount = excess[0]
        days = (self._all.hour - since) / 24
        evidence = self._ratios(since) | {
            "between_day_sd": float(np.sqrt(self._variances(self._spread, np.full(1, DAY_PRIOR), DAY_PRIOR_DAYS)[0][0]))
        }
        slow = shift.daily != 0.0
        if slow:
            evidence |= {"days": days, "slope_a_day": shift.daily}
            return self._finding(
                "slow-calibration", "slow-calibration", "seasonal-drift", "clicks", severity, evidence, amount, since
            )
        low = shift.step < 0
        # Clicks as usual, p up by as much as the ratio is down: the prediction moved, not the world.
        moved = evidence["p_change"] > 1.3 and abs(np.log(evidence["p_change"] * evidence["ratio"])) < 0.4
        guess = "uncorrected-downsampling" if low and moved else "prior-shift"
        return self._finding(
            "calibration", "calibration-low" if low else "calibration-high", guess,
            "prediction" if low and moved else "clicks", severity, evidence, amount, since,
        )  # fmt: skip

    def _delay(self) -> Finding | None:
        excess = self._excess(self._late, np.full(2, np.log(WEIGHT["late"] / 2)))
        found = []
        for stream, value in enumerate(excess):
            if value is None:
                continue
            of = [(p.old, p.old_expected) if stream == 0 else (p.lagged, p.lagged_expected) for p in self._past]
            since = self._past.onset(self._late.best(stream)[0].step, np.array(of))
            of = of[-len(self._past.since(since)) :]
            ratio = sum(seen for seen, _ in of) / max(sum(expected for _, expected in of), 1e-9)
            evidence: dict[str, object] = {**self._ratios(since), "late_ratio": ratio}
            if ratio > OLDER_THAN_ALL * max(1.0, self._ratios(since)["ratio"]):
                severity, amount = value
                evidence["late"] = f"older than {7200} s" if stream == 0 else f"under way for more than {self._lag_s:.0f} s"
                found.append(
                    self._finding(
                        "click-delay", "young-clicks-missing", "late-events", "clicks", severity, evidence, amount, since
                    )
                )
        return max(found, key=lambda f: f.excess, default=None)

    def _crowd(self) -> Finding | None:
        log = self._users.evidence() + np.log(WEIGHT["users"])
        severity: Severity = "page" if log >= np.log(PAGE_H) else "notice"
        if log < np.log(NOTICE_H):
            return None
        since = self._users.onset_hour()
        past = self._past.since(since)
        clicks = sum(p.clicks for p in past)
        evidence = {
            "top5_share": sum(p.top_users for p in past) / max(clicks, 1.0),
            "usual_top5_share": float(self._usual[3] / max(self._usual[2], 1e-9)),
            "clicks": clicks, "expected": sum(p.expected for p in past), "user_variance": self._users.variance,
            **self._crowded(),
        }  # fmt: skip
        finding = self._finding(
            "click-concentration", "click-concentration", "bots", "user", severity, evidence, float(log / np.log(PAGE_H)), since
        )
        if severity == "page":
            self._users.hold(max(float(log - np.log(PAGE_H)) - 3.0, 0.0))
        return finding

    def _crowded(self) -> dict[str, float]:
        seen = self._seen
        assert seen is not None, "a window is judged"
        if not len(seen.user_clicks):
            return {}
        worst = int(np.argmax(seen.user_clicks - 3 * np.sqrt(seen.user_expected + 1) - seen.user_expected))
        return {"user_clicks": float(seen.user_clicks[worst]), "user_expected": float(seen.user_expected[worst])}

    def _by_slice(self) -> list[Finding | None]:
        columns = self._part_columns
        count = {column: columns.count(column) for column in set(columns)}
        plain = max(sum(column not in (UPPER, "randomised") for column in count), 1)
        weight = {UPPER: WEIGHT["discrimination"], "randomised": WEIGHT["randomised"]}
        log_weight = np.log([weight.get(column, WEIGHT["slices"] / plain) / count[column] for column in columns])
        excess = self._excess(self._parts, log_weight)
        best: dict[str, Finding] = {}
        for stream, value in enumerate(excess):
            if value is None:
                continue
            severity, amount = value
            column, name = self._slices.names[stream]
            shift, _ = self._parts.best(stream)
            past = [p for p in self._past if len(p.by_slice) > stream]
            usual = inverse_logit(np.array([p.odds[stream] for p in past]))
            of = np.stack([[p.by_slice[stream] for p in past], np.array([p.clicks for p in past]) * usual], axis=1)
            since = self._past.onset(shift.step, of)
            past = past[-len(self._past.since(since)) :]
            seen, expected = (float(value) for value in of[-len(past) :].sum(axis=0))
            total = sum(p.clicks for p in past)
            rest = (total - seen) / max(total - expected, 1e-9)
            evidence = {
                "value": name, "ratio": seen / max(expected, 1e-9) / max(rest, 1e-9), "clicks": seen, "expected": expected,
                "global_ratio": self._ratios(since)["ratio"], "hours": self._all.hour - since,
            }  # fmt: skip
            symptom, guess, subject = "slice-calibration", "concept-drift", column
            if column == UPPER:
                subject = "prediction"
                symptom = "discrimination-down" if shift.step < 0 else symptom
            elif column == "randomised":
                symptom, guess, subject = "randomised-slice", "feedback-loop", "prediction"
            elif column in ("arm", "model"):
                subject, guess = name, "concept-drift"
            elif column in NEW:
                guess = "new-ad-wave" if column == "item" else guess
            found = self._finding(
                symptom if column in (UPPER, "randomised") else "slice-calibration",
                symptom,
                guess,
                subject,
                severity,
                evidence,
                amount,
                since,
            )
            if column not in best or found.excess > best[column].excess:
                best[column] = found
        return list(best.values())

    def _excess(self, detector: EDetector, log_weight: F64) -> list[tuple[Severity, float] | None]:
        """Severity and excess of each stream, None where there is nothing to say; evidence above the limit is held there."""
        log = detector.evidence() + log_weight
        over = (log + detector.overflow) / np.log(PAGE_H)
        detector.hold(np.log(PAGE_H) - log_weight)
        return [
            ("page", float(amount)) if now >= np.log(PAGE_H) else ("notice", float(amount)) if now >= np.log(NOTICE_H) else None
            for now, amount in zip(log.tolist(), over.tolist(), strict=True)
        ]

    def _ratios(self, since: float) -> dict[str, float]:
        return self._past.ratios(since, self._all.hour, float(self._usual[1] / max(self._usual[0], 1e-9)))

    def _finding(
        self, check: str, symptom: str, guess: str, subject: str, severity: Severity, evidence: Mapping[str, object],
        excess: float, since: float,
    ) -> Finding:  # fmt: skip
        onset = self._past.since(since)[0].start_us
        return Finding(check, guess, subject, severity, evidence, None, excess, symptom, NAME, onset)

    def _variances(self, spread: Spread, prior: F64, prior_days: float) -> tuple[F64, F64]:
        products, weight, own, own_weight = spread.sums()
        day = shrunk(products, weight, spread.days, prior, prior_days)
        both = shrunk(own, own_weight / 2, spread.days, day, prior_days, 1.0)
        return day, np.maximum(both - day, 0.0)

    def _part_variances(self, columns: list[str]) -> tuple[F64, F64]:
        """A slice's variances, shrunk towards its column's, shrunk towards the prior."""
        products, weight, own, own_weight = self._part_spread.sums()
        names, place = np.unique(columns, return_inverse=True) if columns else (np.empty(0), np.empty(0, np.int64))

        def pooled(values: F64) -> F64:
            return np.bincount(place, values, minlength=len(names)).astype(np.float64)

        days = self._part_spread.days
        pool = shrunk(pooled(products), pooled(weight), days, SLICE_PRIOR, SLICE_PRIOR_DAYS)[place]
        day = shrunk(products, weight, days, pool, SLICE_PRIOR_DAYS)
        both = shrunk(own, own_weight / 2, days, day, SLICE_PRIOR_DAYS, 1.0)
        return day, np.maximum(both - day, 0.0)

    def _columns(self) -> list[str]:
        return [column for column, _ in self._slices.names]

    def _learn_delays(self, seen: Tally, days: float) -> None:
        """How long clicks take, from impression to arrival and on their way."""
        self._curve.learn(seen.clicks_by_age, seen.exposed_by_age, days)
        self._learn_lags(seen, days)

    def _learn_lags(self, seen: Tally, days: float) -> None:
        if self._lag_s is None:
            self._first_lags.append(seen.lags_s)
            if self._hours >= LEAST_HOURS:
                every = np.concatenate(self._first_lags)
                self._lag_s = max(float(np.quantile(every, 0.98)) if len(every) else 0.0, 60.0)
                self._lags += np.array([(every > self._lag_s).sum(), len(every)])
                self._first_lags = []
            return
        self._lags = 2.0 ** (-days / 28) * self._lags + np.array([(seen.lags_s > self._lag_s).sum(), len(seen.lags_s)])

    def _restart(self) -> None:
        for detector in (self._all, self._late, self._parts):
            detector.restart()
        self._users.restart()
