"""The distribution tier: does what the log holds, and what it predicts, look as the hours before lead one to expect?

Every window becomes a few thousand sums (`parts`), made in one columnar pass; each is compared with its forecast over windows
of an hour, two and eight hours, a day and a week, on a scale learned from replicates; one budget of false alarms covers all.
Called by `monitoring.monitor`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from infra.clock import DAY_US, HOUR_US
from monitoring.findings import Finding
from monitoring.tiers.distribution.census import Census
from monitoring.tiers.distribution.forecast import KEEP_DAYS, Forms, Past, backcast, forecast, residuals
from monitoring.tiers.distribution.looks import Judged
from monitoring.tiers.distribution.naming import findings
from monitoring.tiers.distribution.prediction_model import LEAST_ROWS, PredictionModel, some_people
from monitoring.tiers.distribution.rescored import rescored_the_same
from monitoring.tiers.distribution.rows import F64, Rows
from monitoring.tiers.distribution.surprise import Spread
from monitoring.tiers.distribution.trend import creep
from monitoring.tiers.distribution.verdict import Recent, slow, verdict
from monitoring.window import LogColumns, Window

# Hours of a window -> (part of the budget, windows of that length judged a day).
SCALES: Mapping[int, tuple[float, int]] = {1: (0.35, 24), 2: (0.2, 24), 8: (0.15, 24), 24: (0.2, 24), 168: (0.05, 1)}
LEAST_DAYS = 2  # of reference
HOLE_DAYS = 7  # for which a hole in what was learned leaves forecasts uncertain
HELD_ROWS = 300_000  # of the first days, held until cuts are learned
SAMPLE_ROWS = 400  # an hour, kept to learn the prediction from
LEARN_PREDICTION = (3, 7, 14)  # days of reference at which it is learned, better each time
RELEARN_DAYS = 7  # and from then on every week, from the last LEARN_PREDICTION[-1] days: campaigns come and go


@dataclass(slots=True)
class Seen:
    """The window tested last."""

    window: Window
    rows: Rows
    sums: F64 | None = None  # [m, 4]


@dataclass(slots=True)
class State:
    """What was learned, once there is enough."""

    census: Census
    past: Past
    left: F64
    variance: F64
    fresh: list[tuple[Past, F64, F64]] = field(default_factory=list)  # hours learned since: past, left, variance
    rates: F64 = field(default_factory=lambda: np.zeros((24, 0)))
    spread: F64 = field(default_factory=lambda: np.zeros(0))
    scales: dict[int, Spread] = field(default_factory=dict)
    creep: tuple[F64, F64, F64] | None = None  # weeks against weeks, as of the last midnight
    forecast_day: int = -1
    hole: float = 1.0  # days from one learned to the next, at most, lately


class DistributionTier:
    """See the module."""

    name = "distribution"

    def __init__(self, columns: LogColumns) -> None:
        self.columns = columns
        self._held: list[tuple[int, Rows]] = []  # the first hours, until cuts are learned
        self._sample: list[tuple[int, Rows]] = []  # a few rows of each hour, until the prediction is learned for good
        self._state: State | None = None
        self._recent: list[Recent] = []
        self._seen: Seen | None = None
        self._unable: dict[str, str] = {}
        self._ran: tuple[str, ...] = ()
        self._last: int | None = None  # start of the hour learned last
        self._learned_at = self._learned_day = 0  # days of reference when the prediction was learned, and the day it was

    def unable(self) -> Mapping[str, str]:
        """See `Tier`."""
        return self._unable

    def ran(self) -> tuple[str, ...]:
        """See `Tier`."""
        return self._ran

    def test(self, window: Window) -> list[Finding]:
        """See `Tier`."""
        rows = Rows(window.log)
        self._seen, self._ran, self._unable = Seen(window, rows), (), {}
        state = self._state
        if state is None:
            held = len({start // DAY_US for start, _ in self._held})
            self._unable = {"distribution": f"{held} days of reference; the first cuts need {LEAST_DAYS} whole days"}
            return []
        if not rows.rows:
            self._unable = {"distribution": "no rows in the window"}
            return []
        judged = self._judge(state, window, rows)
        state.census.meet(rows, window.start_us)
        self._ran = ("distribution",)
        if state.census.model is None:
            self._unable["prediction-residual"] = (
                f"the prediction is learned from {LEARN_PREDICTION[0]} days and {LEAST_ROWS} rows of reference on"
            )
        else:
            self._ran += ("prediction-residual",)
        found = findings(state.census, rows, window, judged)
        # What a short window has paged doesn't page again in longer ones: they would go on for hours after it has healed.
        for hours in sorted({int(f.evidence["hours"]) for f in found if f.severity == "page"}, reverse=True):
            for one in self._recent:
                if one.start_us >= window.end_us - hours * HOUR_US:
                    one.explained = min(one.explained or hours, hours)
        return found

    def _judge(self, state: State, window: Window, rows: Rows) -> list[Judged]:
        """Every part of the windows that end with this one, worst verdict of all lengths."""
        census, forms = state.census, state.census.forms
        day = window.start_us // DAY_US
        if day != state.forecast_day:
            self._refresh(state, day)
        pieces = _hours(window, rows)
        sums = [census.count(part, start) for start, part in pieces]
        assert self._seen is not None
        self._seen.sums = sums[0] if len(sums) == 1 else None
        now: list[Recent] = []
        rescored = census.model is not None and rescored_the_same(window, census.model.versions)
        rates, spread_of_values = state.rates, state.spread
        for (start, part), numbers in zip(pieces, sums, strict=True):
            one = Past(np.array([start]), *(numbers[None, :, i] for i in range(4)))
            if start // DAY_US != day:  # a window of several days, judged as one piece
                day = start // DAY_US
                rates, spread_of_values = forecast(state.past, forms, day)
            left, variance = residuals(one, forms, rates, spread_of_values)
            now.append(Recent(start, left[0], variance[0], one.k[0], one.n[0], one.k[0] - left[0], part.rows, rescored))
        scales = list(SCALES) if len(pieces) == 1 else [len(pieces)]
        usable = 1.0 - census.mute
        # What was learned days ago, as an incident is open or was until lately, forecasts so many days: as a random walk does.
        stale = max((window.start_us - (self._last or window.start_us)) / DAY_US, state.hole)
        judged = []
        for hours in scales:
            if len(pieces) == 1 and hours == 168 and window.end_us % DAY_US:
                continue
            if len(pieces) > 1:
                share, tests, spread = 1.0, 1, self._spread_of(state, hours)
                stretch = now
            else:
                share, tests = SCALES[hours]
                spread = state.scales[hours]
                begin = window.end_us - hours * HOUR_US
                earlier = [
                    r
                    for r in self._recent
                    if begin <= r.start_us < window.start_us and (not r.explained or r.explained >= hours)
                ]
                if hours > 1 and len(earlier) < hours // 2:
                    continue
                stretch = [*earlier, *now]
            factor = spread.at(int(window.end_us // HOUR_US - 1) % 24) * stale
            judged.append(verdict(census, stretch, spread, factor, hours, share / tests, usable))
        if window.start_us % DAY_US == 0 and state.creep is not None:
            judged.append(slow(census, *state.creep, usable, state.forecast_day))
        if len(pieces) == 1:
            begin = window.end_us - 168 * HOUR_US
            self._recent = [r for r in self._recent if begin <= r.start_us < window.start_us] + now
        return judged

    def _spread_of(self, state: State, hours: int) -> Spread:
        """The spread of windows of any length: that of the next longer scale that is known."""
        known = [scale for scale in sorted(state.scales) if scale >= hours] or [max(state.scales)]
        return state.scales[known[0]]

    def learn(self) -> None:
        """See `Tier`."""
        seen = self._seen
        if seen is None or not seen.rows.rows:
            return
        for start, rows in _hours(seen.window, seen.rows):
            self._learn(start, rows, seen.sums)
        self._seen = None

    def _learn(self, start: int, rows: Rows, sums: F64 | None) -> None:
        if self._last is not None and start <= self._last:
            return  # an hour that was learned already, seen again within a longer window
        self._last = start
        oldest = start - LEARN_PREDICTION[-1] * DAY_US
        self._sample = [(at, kept) for at, kept in self._sample if at > oldest]
        self._sample.append((start, Rows(some_people(rows, SAMPLE_ROWS).table)))
        state = self._state
        if state is None:
            self._held.append((start, rows))
            total = sum(r.rows for _, r in self._held)
            if total > HELD_ROWS:
                self._held = [(s, Rows(r.table.slice(0, max(r.rows // 2, 1)))) for s, r in self._held]
            if start + HOUR_US - self._held[0][0] >= LEAST_DAYS * DAY_US:
                self._begin()
            return
        if sums is None:
            sums = state.census.count(rows, start)
        state.census.learn(rows)
        if start // DAY_US != state.forecast_day:
            self._refresh(state, start // DAY_US)
        one = Past(np.array([start]), *(sums[None, :, i] for i in range(4)))
        left, variance = residuals(one, state.census.forms, state.rates, state.spread)
        state.fresh.append((one, left, variance))

    def _begin(self) -> None:
        """Learn cuts from the hours held, and count them."""
        census = Census(self.columns, [rows for _, rows in self._held])
        census.find_clocks(Rows(pa.concat_tables([r.table for _, r in self._sample], promote_options="permissive")))
        counted = []
        for start, rows in self._held:
            counted.append(census.count(rows, start))
            census.learn(rows)
            census.meet(rows, start)
        table = np.stack(counted)
        past = Past(np.array([start for start, _ in self._held]), *(table[:, :, i] for i in range(4)))
        self._state = State(census, past, *backcast(past, census.forms))
        self._held = []

    def _refresh(self, state: State, day: int) -> None:
        """At the start of a day: forget old days, learn what wants more days, forecast the day."""
        census = state.census
        if state.fresh:  # joined once a day: copying weeks every hour would be most of the work
            pasts, lefts, variances = zip(*state.fresh, strict=True)
            state.past = Past.joined([state.past, *pasts])
            state.left, state.variance = np.concatenate([state.left, *lefts]), np.concatenate([state.variance, *variances])
            state.fresh = []
        # Counted from the last hour learned: an incident may stay open for longer than days are kept.
        keep = state.past.start >= state.past.start[-1] - KEEP_DAYS * DAY_US
        state.past, state.left, state.variance = state.past.part(keep), state.left[keep], state.variance[keep]
        learned = np.unique(state.past.start // DAY_US)
        days = len(learned)
        state.hole = float(np.diff(learned)[learned[1:] >= day - HOLE_DAYS].max(initial=1))
        self._learn_late(state, days, day)
        state.rates, state.spread = forecast(state.past, census.forms, day)
        usual = np.clip(state.past.k.sum(axis=0) / np.maximum(state.past.n.sum(axis=0), 1e-9), 0, 1)
        deff = np.maximum((state.past.deff * state.past.n).sum(axis=0) / np.maximum(state.past.n.sum(axis=0), 1e-9), 1.0)
        owners = state.past.k.sum(axis=0) / deff
        # Of rare parts the first hit ever is no measure of their scatter: they are held against their usual rate.
        past, rare = state.past, census.forms.rare
        floor = np.maximum(usual, 0.5 / np.maximum(past.n.sum(axis=0), 1.0))
        left = np.where(rare, past.k - past.n * floor, state.left)
        variance = np.where(rare, past.n * floor, state.variance)
        state.scales = {
            hours: Spread(hours, past.start, left, variance, usual, owners, deff, census.lasts, census.forms, census.family)
            for hours in SCALES
        }
        state.creep = creep(state.past, census.forms, census.family, day)
        state.forecast_day = day

    def _learn_late(self, state: State, days: int, day: int) -> None:
        """What needs more days than the cuts: clocks (a weekend must have been seen), and the prediction given the features."""
        due = [d for d in LEARN_PREDICTION if self._learned_at < d <= days]
        if not due and day < self._learned_day + RELEARN_DAYS:
            return
        sample = Rows(pa.concat_tables([r.table for _, r in self._sample], promote_options="permissive"))
        if sample.rows < LEAST_ROWS:
            return
        self._learned_at, self._learned_day = max(due, default=self._learned_at), day
        state.census.find_clocks(sample)
        if "p" not in sample.names or not any(f"f_{name}" in sample.names for name in self.columns.names):
            return
        state.census.model = model = PredictionModel(self.columns, [rows for _, rows in self._sample])
        at = slice(state.census.model_at, None)
        for name in ("k", "n", "q", "deff"):
            getattr(state.past, name)[:, at] = 0.0
        place = {int(start): i for i, start in enumerate(state.past.start)}
        for (start, _), numbers in zip(self._sample, model.reference, strict=True):
            if start in place:
                i = place[start]
                state.past.k[i, at], state.past.n[i, at], state.past.q[i, at], state.past.deff[i, at] = numbers.T
        forms = state.census.forms
        few = Forms(forms.mean[at], forms.rare[at], forms.column[at])
        state.left[:, at], state.variance[:, at] = backcast(state.past.part(slice(None), at), few)
        for hour in self._recent:  # what another model left says nothing beside this one's
            for numbers in (hour.left, hour.variance, hour.k, hour.n, hour.expected):
                numbers[at] = 0.0


def _hours(window: Window, rows: Rows) -> list[tuple[int, Rows]]:
    """A window cut into hours (start, rows), in order of time; an hour's window as it is."""
    if window.end_us - window.start_us <= HOUR_US:
        return [(window.start_us, rows)]
    time = rows.table["time"].to_numpy()
    order = np.argsort(time, kind="stable")
    table = rows.table.take(order)
    starts = np.arange(window.start_us // HOUR_US, -(-window.end_us // HOUR_US)) * HOUR_US
    cuts = np.searchsorted(time[order], np.append(starts, starts[-1] + HOUR_US))
    return [
        (int(start), Rows(table.slice(int(a), int(b - a))))
        for start, a, b in zip(starts, cuts[:-1], cuts[1:], strict=True)
        if b > a
    ]
