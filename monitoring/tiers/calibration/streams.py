"""The streams of evidence: clicks against what is usual, of all, by age, by slice and by user.

Streams share the tier's budget by weight; each is an e-detector (`edetector`) whose limit is the average run length that its
weight leaves it.  The weighted sum of such statistics is one itself under any dependence, so streams may overlap as they
like.  Moved on and taught by the tier; read by its verdict.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from monitoring.tiers.calibration.cohorts import Cohorts
from monitoring.tiers.calibration.concentration import Concentration
from monitoring.tiers.calibration.delay_curve import DelayCurve, Lags
from monitoring.tiers.calibration.edetector import EDetector, Shift, Wander, inverse_logit
from monitoring.tiers.calibration.history import History, Past
from monitoring.tiers.calibration.overdispersion import Spread, shrunk
from monitoring.tiers.calibration.slices import Slices
from monitoring.tiers.calibration.tally import FIRST_OLD, Tally, tally
from monitoring.window import LogColumns, Window

F64 = npt.NDArray[np.float64]

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
CERTAIN = 0.1**2  # a level known this well may be used to measure the spread around it
# The first day teaches how long clicks take.  Until that is known a level would be the delay's: a log whose clicks came faster
# than assumed began 70% "too high", and the way back looked like days that differ by 13%.
CURVE_H = 24.0
LEAST_HOURS, LEAST_CLICKS = 20.0, 20.0  # history below which nothing is judged


class Streams:
    """Expect, see, then learn: `see` moves every stream on by a window, `learn` takes that window into what is usual."""

    def __init__(self, columns: LogColumns) -> None:
        self.slices = Slices(columns)
        self._cohorts = Cohorts()
        self._curve = DelayCurve()
        self.lags = Lags()
        steps = [
            Shift(step, 0.0, WEIGHT["global"] * weight, ODD_H if ODD[0] < step < ODD[1] else 0.0)
            for step, weight in STEPS.items()
        ]
        ramps = [Shift(0.0, ramp, WEIGHT["slow"] / len(RAMPS), np.inf) for ramp in RAMPS]
        self.whole = EDetector((*steps, *ramps), WANDER, shares=False)
        self.whole.grow(1)
        # Clicks on impressions older than two hours, and clicks long under way.
        self.late = EDetector(tuple(Shift(s, 0.0, 1 / len(LATE_STEPS)) for s in LATE_STEPS), WANDER, shares=False)
        self.late.grow(2)
        self.parts = EDetector(tuple(Shift(s, 0.0, 1 / len(SLICE_STEPS)) for s in SLICE_STEPS), SLICE_WANDER, shares=True)
        self._detectors = self.whole, self.late, self.parts
        self.users = Concentration()
        self._spread, self._late_spread, self._part_spread = Spread(1), Spread(2), Spread()
        self.past = History()
        self._clump, self._clump_by_slice = 0.0, np.zeros(0)
        self.hours = 0.0  # learned
        self.expected = 0.0  # clicks ever expected in them
        self._usual = np.zeros(4)  # impressions, sum of p, clicks, clicks of the top five users

    @property
    def known(self) -> bool:
        """Whether there is enough history to judge by."""
        return self.hours >= LEAST_HOURS and self.expected >= LEAST_CLICKS

    @property
    def now(self) -> float:
        """The hour that the window seen last ends at."""
        return self.whole.hour

    @property
    def between_days(self) -> float:
        """Variance of a day's log ratio of all clicks."""
        return float(self._whole_variances()[0][0])

    @property
    def usual_top_users(self) -> float:
        """Share of clicks that the top five users of a window have."""
        return float(self._usual[3] / max(self._usual[2], 1e-9))

    def columns(self) -> list[str]:
        """Each slice's column."""
        return [column for column, _ in self.slices.names]

    def ratios(self, since: float) -> dict[str, float]:
        """Clicks over expected clicks from an hour until now, and how far the mean of p has moved (`History.ratios`)."""
        return self.past.ratios(since, self.now, float(self._usual[1] / max(self._usual[0], 1e-9)))

    def see(self, window: Window) -> Tally | None:
        """Count a window and move every stream on by it; None where it has neither clicks nor labels."""
        seen = tally(window, self.slices, self._cohorts, self._curve, self.users.suspects)
        if seen is None:
            return None
        if seen.cohort is not None:
            self._cohorts.add(seen.cohort, window.end_us)
        bias = float(np.exp(self.whole.level[0]))
        self._see_whole(seen)
        late = self._see_late(seen)
        odds = self._see_parts(seen)
        if self.slices.has_users:
            user_expected, expected = bias * seen.user_expected, bias * seen.expected
            self.users.see(seen.users, seen.user_clicks, user_expected, expected, self.now - seen.hours, seen.hours)
        self.past.add(Past(
            self.now - seen.hours, window.start_us, seen.clicks, bias * seen.expected, *late, seen.impressions, seen.sum_p,
            seen.top_users, seen.by_slice, odds,
        ))  # fmt: skip
        return seen

    def learn(self, seen: Tally) -> None:
        """Take the window seen last into levels, spreads and curves."""
        days, now = seen.hours / 24, self.past.newest
        self.hours += seen.hours
        self.expected += seen.expected
        if seen.cohort is not None and self.hours <= CURVE_H:
            self._learn_delays(seen, days)
            for detector in self._detectors:
                detector.begin_again()
            return
        info = now.expected * (self.whole.uncertainty < CERTAIN).astype(np.float64)
        self._spread.learn(np.where(info > 0, now.clicks - now.expected, 0.0), info, info, days)
        if seen.cohort is not None:
            expected = np.array([now.old_expected, now.lagged_expected])
            info = expected * (self.late.uncertainty < CERTAIN).astype(np.float64)
            self._late_spread.learn(np.where(info > 0, np.array([now.old, now.lagged]) - expected, 0.0), info, info, days)
            self._learn_delays(seen, days)
        share = inverse_logit(now.odds)
        info = now.clicks * share * (1 - share) * (self.parts.uncertainty < CERTAIN).astype(np.float64)
        self._part_spread.learn(np.where(info > 0, now.by_slice - now.clicks * share, 0.0), info, info, days)
        self.users.learn(seen.user_clicks_now, seen.user_squares * float(np.exp(2 * self.whole.level[0])))
        for detector in self._detectors:
            detector.learn()
        keep = 2.0 ** (-days / 7)
        self._usual = keep * self._usual + np.array([seen.impressions, seen.sum_p, seen.clicks, seen.top_users])

    def forget(self) -> None:
        """Leave the window seen last out of the levels."""
        for detector in self._detectors:
            detector.forget()

    def learn_anew(self) -> None:
        """Levels may have moved far: learn them in hours, not days."""
        for detector in self._detectors:
            detector.learn_anew()
        self.users.restart()

    def restart(self) -> None:
        """Drop the evidence gathered so far; keep what was learned."""
        for detector in self._detectors:
            detector.restart()
        self.users.restart()

    def _see_whole(self, seen: Tally) -> None:
        day, hour = self._whole_variances()
        clump = self._clump + (1 - float(np.exp(-seen.hours / SMOOTH_H))) * (seen.young - self._clump)
        self.whole.expect(seen.hours, day + YOUNG * clump, np.full(1, YOUNG * max(clump - self._clump, 0.0)))
        self._clump = clump
        self.whole.see(np.array([seen.clicks]), np.array([seen.expected]), hour / seen.hours)

    def _see_late(self, seen: Tally) -> tuple[float, float, float, float]:
        """Clicks on old impressions and how many were expected, then those long under way; zeros where labels are logged."""
        if seen.cohort is None:
            return 0.0, 0.0, 0.0, 0.0
        clicks = np.array([seen.clicks_by_age[FIRST_OLD:].sum(), self.lags.long(seen.lags_s)])
        raw = np.array([
            seen.exposed_by_age[FIRST_OLD:] @ self._curve.by_bucket[FIRST_OLD:], seen.expected * self.lags.share
        ])  # fmt: skip
        expected = raw * np.exp(self.late.level)
        day, hour = _variances(self._late_spread, np.full(2, LATE_PRIOR), DAY_PRIOR_DAYS)
        self.late.expect(seen.hours, day, np.zeros(2))
        self.late.see(clicks, raw, hour / seen.hours)
        return float(clicks[0]), float(expected[0]), float(clicks[1]), float(expected[1])

    def _see_parts(self, seen: Tally) -> F64:
        """Usual log odds of a click being each slice's [slices]."""
        streams = len(seen.by_slice)
        self.parts.grow(streams)
        self._part_spread.grow(streams)
        share = seen.expected_by_slice / max(seen.expected, 1e-12)
        with np.errstate(divide="ignore"):
            odds = np.log(share / np.maximum(1 - share, 1e-9))
        usual = odds + self.parts.level
        day, hour = self._part_variances()
        before = np.pad(self._clump_by_slice, (0, streams - len(self._clump_by_slice)))
        clumps = before + (1 - float(np.exp(-seen.hours / SMOOTH_H))) * (seen.young_by_slice - before)
        self.parts.expect(seen.hours, day + YOUNG * clumps, YOUNG * np.maximum(clumps - before, 0.0))
        self._clump_by_slice = clumps
        self.parts.see(seen.by_slice, share, hour / seen.hours, np.full(streams, seen.clicks))
        return usual

    def _learn_delays(self, seen: Tally, days: float) -> None:
        """How long clicks take, from impression to arrival and on their way."""
        self._curve.learn(seen.clicks_by_age, seen.exposed_by_age, days)
        self.lags.learn(seen.lags_s, days, self.hours >= LEAST_HOURS)

    def _whole_variances(self) -> tuple[F64, F64]:
        return _variances(self._spread, np.full(1, DAY_PRIOR), DAY_PRIOR_DAYS)

    def _part_variances(self) -> tuple[F64, F64]:
        """A slice's, shrunk towards its column's, shrunk towards the prior."""
        products, weight, _, _ = self._part_spread.sums()
        names, place = np.unique(self.columns(), return_inverse=True)

        def pooled(values: F64) -> F64:
            return np.bincount(place, values, minlength=len(names)).astype(np.float64)

        pool = shrunk(pooled(products), pooled(weight), self._part_spread.days, SLICE_PRIOR, SLICE_PRIOR_DAYS)[place]
        return _variances(self._part_spread, pool, SLICE_PRIOR_DAYS)


def _variances(spread: Spread, prior: F64, prior_days: float) -> tuple[F64, F64]:
    """Of a day's log ratio and of an hour's on top of it, each [streams]."""
    products, weight, own, own_weight = spread.sums()
    day = shrunk(products, weight, spread.days, prior, prior_days)
    both = shrunk(own, own_weight / 2, spread.days, day, prior_days, 1.0)
    return day, np.maximum(both - day, 0.0)
