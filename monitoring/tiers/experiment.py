"""The experiment tier: are the arms as planned?  Sample ratio by users, stickiness, arms that nobody planned.

Three questions, each by distinct users, never by rows, which come many to a user.  Users first seen, against the plan: each
user's arm is an independent draw, so the null is exact, and a mixture of shifted shares against it is a test martingale within
the day and a Shiryaev-Roberts sum over days (Johari et al. 2022, "Always valid inference"; Shin et al. 2022).  Users
active, against the shares learned: sees an arm whose known users go missing.  Known users met in another arm: hardly any,
unless assignment broke.  Without a plan the shares are learned.  Called by the monitor.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import inf, log

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from infra.clock import DAY_US
from monitoring.findings import Finding
from monitoring.sample_ratio import PRECISION, log_dirichlet, log_planned, log_shifted
from monitoring.tiers.counts import Alarm, Rate
from monitoring.tiers.facts import hashed
from monitoring.tiers.known_users import KnownUsers
from monitoring.tiers.tier import PAGES_A_DAY, SHARE
from monitoring.window import LogColumns, Window

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]

BUDGET = PAGES_A_DAY * SHARE["experiment"]
PARTS = {"first-seen": 0.35, "active": 0.35, "sticky": 0.2, "arms": 0.1}
SHARE_ODDS = (1.08, 1.25, 1.8, 4.0)  # odds over the usual share of active users that the alternative mixes
PRIOR_USERS = 2000.0  # half a user in two arms on so many, before anything was seen
LEAST_USERS = 200  # learned before shares of active users are judged


@dataclass(slots=True)
class FirstSeen:
    """New users by arm against planned (or learned) shares: one martingale a day, summed over days."""

    day: int = -1
    counts: F64 | None = None
    learned: F64 | None = None  # users by arm of windows that were learned
    _ratio: F64 | None = None
    _sum: F64 = field(default_factory=lambda: np.full(len(PRECISION), -inf))
    onset_us: int = 0
    _last: F64 | None = None

    def see(self, new: F64, plan: F64 | None, start_us: int) -> float:
        """log10 of the statistic after the users [arms] of one more window."""
        day = int(start_us // DAY_US)
        if self.learned is None or len(self.learned) != len(new):
            self.learned = _longer(self.learned, len(new))
        if day != self.day:
            if self._ratio is not None:
                self._sum = np.logaddexp(0.0, self._sum) + self._ratio
            self.day, self._ratio, self.counts = day, None, None
        if float(np.logaddexp.reduce(self._sum)) < 0 and self.counts is None:
            self.onset_us = start_us
        self.counts = _longer(self.counts, len(new)) + new
        self._last = new
        usual = self.learned + 0.5
        shares = plan if plan is not None else usual / usual.sum()
        if plan is None or _estimated(self.learned, plan):
            null = log_dirichlet(self.counts, usual)
        else:
            null = log_planned(self.counts, plan)
        self._ratio = log_shifted(self.counts, shares) - null
        total = float(np.logaddexp.reduce(np.logaddexp(0.0, self._sum) + self._ratio)) - log(len(PRECISION))
        return total / log(10)

    def learn(self) -> None:
        """Count the last window's users as usual."""
        if self._last is not None and self.learned is not None:
            self.learned = self.learned + self._last
            self._last = None

    def restart(self) -> None:
        """After an alarm."""
        self.counts, self._ratio, self._sum = None, None, np.full(len(PRECISION), -inf)


class ExperimentTier:
    """Sample ratio, stickiness and unknown arms."""

    name = "experiment"

    def __init__(self, columns: LogColumns) -> None:
        self.columns = columns
        self._plan: Mapping[str, float] | None = None
        self._arms: dict[str, int] = {}  # name -> code, in order of appearance
        self._sticky = Rate(prior_rows=PRIOR_USERS)
        self._foreign = Rate(prior_rows=PRIOR_USERS)
        self._seen: set[str] = set()
        self._unable: dict[str, str] = {}
        self._ran: list[str] = []
        self._begin_anew()

    def _begin_anew(self) -> None:
        """Forget who was in which arm, and how many there were: a canary or an A/B test begins, grows or ends."""
        self._known = KnownUsers()
        self._usual: set[str] = set()  # arms seen in learned windows
        self._first = FirstSeen()
        self._active: dict[tuple[str, str], Rate] = {}
        self._today: tuple[int, U64, I64] = (-1, np.zeros(0, np.uint64), np.zeros(0, np.int64))
        self._moves: dict[str, int] = {}  # arm -> users who turned up in it though known in another

    def test(self, window: Window) -> list[Finding]:
        """What is not as planned, worst first."""
        self._unable, self._ran, self._seen = {}, [], set()
        planned_before, self._plan = self._plan, window.plan
        if planned_before is not None and window.plan is not None and dict(window.plan) != dict(planned_before):
            self._begin_anew()
            self._unable["experiment"] = "the plan changed in this window, so users changed arms; judged from the next one on"
            return []
        if "arm" not in window.log.column_names:
            self._unable["experiment"] = "the log has no column arm"
            return []
        if not window.log.num_rows:
            return []
        arm = pc.fill_null(pc.cast(window.log["arm"], pa.string()), "none").to_pylist()
        self._seen = set(arm)
        for name in (*(window.plan or ()), *sorted(self._seen)):
            self._arms.setdefault(name, len(self._arms))
        code = np.array([self._arms[name] for name in arm], dtype=np.int64)
        found = [*self._judge_arms(window, code)]
        if "user" in window.log.column_names:
            keep = ~_nobody(window.log["user"])
            users, code = hashed(window.log["user"])[keep], code[keep]
            found += self._judge_users(window, users, code)
        else:
            self._unable["sample ratio"] = "the log has no column user: rows of one user are not independent"
        return sorted(found, key=lambda f: -f.excess)

    def learn(self) -> None:
        """Shares, stickiness and arms of the window tested last."""
        self._first.learn()
        self._usual |= self._seen
        for rate in (self._sticky, self._foreign, *self._active.values()):
            rate.learn()

    def unable(self) -> Mapping[str, str]:
        return self._unable

    def ran(self) -> tuple[str, ...]:
        return tuple(self._ran)

    def _judge_arms(self, window: Window, code: I64) -> Iterator[Finding]:
        """Rows of arms that are neither planned nor usual."""
        allowed = set(window.plan) if window.plan else self._usual
        if not allowed:
            self._unable["arms"] = "no plan was given and no arm was seen before"
            return
        self._ran.append("arms")
        foreign = {name for name in self._seen if name not in allowed}
        rows = np.isin(code, [self._arms[name] for name in foreign])
        alarm = self._foreign.see(int(rows.sum()), len(code), window.start_us, *self._limits(window, PARTS["arms"]))
        if alarm:
            self._foreign.restart()
            worst = max(foreign, key=lambda name: int((code == self._arms[name]).sum()), default="unknown")
            yield _finding("arms", "ratio", worst, alarm, {"planned": sorted(allowed)})

    def _judge_users(self, window: Window, users: U64, code: I64) -> list[Finding]:
        distinct, first, inverse = np.unique(users, return_index=True, return_inverse=True)
        arm = code[first]  # of each user, in their first row
        if not len(distinct):
            return []
        known = self._known.arms_of(distinct)
        was = np.where(known >= 0, known, arm)
        moved = code != was[inverse]
        movers = np.unique(inverse[moved])
        found = [*self._judge_sticky(window, movers, len(distinct), code[moved])]
        fresh = known < 0
        found += self._judge_first_seen(window, arm[fresh])
        self._known.add(distinct[fresh], arm[fresh])
        found += self._judge_active(window, distinct, arm)
        return found

    def _judge_sticky(self, window: Window, movers: I64, n: int, into: I64) -> Iterator[Finding]:
        names = {code: name for name, code in self._arms.items()}
        for code in np.unique(into).tolist():
            self._moves[names[code]] = self._moves.get(names[code], 0) + int((into == code).sum())
        self._ran.append("stickiness")
        alarm = self._sticky.see(len(movers), n, window.start_us, *self._limits(window, PARTS["sticky"]))
        if alarm:
            self._sticky.restart()
            subject = max(self._moves, key=lambda name: self._moves[name])
            evidence = {"rows_in_another_arm": dict(sorted(self._moves.items()))}
            self._moves = {}
            yield _finding("stickiness", "not-sticky", subject, alarm, evidence)

    def _judge_first_seen(self, window: Window, arm: I64) -> Iterator[Finding]:
        counts = np.bincount(arm, minlength=len(self._arms)).astype(np.float64)
        names = list(self._arms)
        plan = None
        if window.plan:
            total = sum(window.plan.values())
            share = np.array([window.plan.get(name, 0.0) / total for name in names])
            counts = np.where(share > 0, counts, 0.0)  # arms that nobody planned are the other check's
            plan = np.where(share > 0, share, 1e-12)
        elif self._first.learned is None or self._first.learned.sum() < LEAST_USERS:
            self._first.see(counts, None, window.start_us)
            self._unable["sample ratio"] = f"no plan was given and fewer than {LEAST_USERS} users were learned"
            return
        self._ran.append("sample ratio")
        statistic = self._first.see(counts, plan, window.start_us)
        excess = statistic / -np.log10(BUDGET * PARTS["first-seen"])
        if excess < 1.0 or self._first.counts is None:
            return
        seen = self._first.counts
        learned = _longer(self._first.learned, len(seen)) + 0.5
        shares = plan if plan is not None else learned / learned.sum()
        surprise = (seen - seen.sum() * shares) / np.sqrt(np.maximum(seen.sum() * shares * (1 - shares), 1e-9))
        worst = int(np.argmin(surprise)) if len(names) == 2 else int(np.argmax(np.abs(surprise)))
        alarm = Alarm(float(excess), "days", int(seen[worst]), int(seen.sum()), float(shares[worst]), self._first.onset_us)
        users = {name: int(count) for name, count in zip(names, seen, strict=True)}
        yield _finding("sample ratio", "ratio", names[worst], alarm, {"users": users})
        self._first.restart()

    def _judge_active(self, window: Window, distinct: U64, arm: I64) -> Iterator[Finding]:
        """Shares of the users who were active, in the hour and so far in the day, against the learned ones."""
        day = int(window.start_us // DAY_US)
        if day != self._today[0]:
            self._today = (day, np.zeros(0, np.uint64), np.zeros(0, np.int64))
        _, users, arms = self._today
        place = np.minimum(np.searchsorted(users, distinct), max(len(users) - 1, 0))
        fresh = users[place] != distinct if len(users) else np.ones(len(distinct), bool)
        at = np.searchsorted(users, distinct[fresh])
        users, arms = np.insert(users, at, distinct[fresh]), np.insert(arms, at, arm[fresh])
        self._today = (day, users, arms)
        names = [name for name in self._arms if name in self._usual]
        if len(names) < 2:
            self._unable["active users"] = "fewer than two arms were seen before"
            return
        alarms: dict[str, tuple[Alarm, str]] = {}
        limits = self._limits(window, PARTS["active"] / (2 * len(names)))
        for name in names:
            code = self._arms[name]
            x, so_far = int((arm == code).sum()), int((arms == code).sum())
            for side, hour, total in (("more", x, so_far), ("fewer", len(arm) - x, len(arms) - so_far)):
                rate = self._active.setdefault((name, side), Rate(prior_rows=2.0, prior_events=1.0, odds=SHARE_ODDS, rates=()))
                if rate.hours.n < LEAST_USERS:
                    rate.note(hour, len(arm), window.start_us)
                    self._unable["active users"] = f"fewer than {LEAST_USERS} active users were learned"
                    continue
                alarm = rate.see(hour, len(arm), window.start_us, *limits, so_far=(total, len(arms)))
                if alarm:
                    rate.restart()
                    alarms[name] = alarm, side
        if "active users" not in self._unable:
            self._ran.append("active users")
        if alarms:
            worst = max(alarms, key=lambda name: (alarms[name][1] == "fewer", alarms[name][0].excess))
            alarm, side = alarms[worst]
            yield _finding("active users", "ratio", worst, alarm, {"active": side})

    def _limits(self, window: Window, share: float) -> tuple[float, float]:
        """False alarms allowed in this window and to the sums a day."""
        days = min(1.0, (window.end_us - window.start_us) / DAY_US)
        return BUDGET * share / 2 * days, BUDGET * share / 2


def _finding(check: str, symptom: str, subject: str, alarm: Alarm, more: Mapping[str, object]) -> Finding:
    evidence = {"count": alarm.count, "of": alarm.of, "share": alarm.rate, "usual": alarm.usual, "scale": alarm.scale, **more}
    return Finding(
        check, "sample-ratio-mismatch", subject, "page", evidence,
        excess=alarm.excess, symptom=symptom, tier="experiment", onset_us=alarm.onset_us,
    )  # fmt: skip


def _nobody(user: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    """Rows of no known user: null or below zero."""
    null = np.asarray(user.is_null().to_numpy())
    if pa.types.is_integer(user.type):
        return np.asarray(null | (pc.fill_null(user, -1).to_numpy() < 0))
    return null


def _longer(counts: F64 | None, length: int) -> F64:
    """Counts with zeros for arms that came later."""
    longer = np.zeros(length)
    if counts is not None:
        longer[: len(counts)] = counts
    return longer


def _estimated(learned: F64, plan: F64) -> bool:
    """Whether the plan was read off the very users that were learned: it fits them to the user."""
    n = learned.sum()
    return bool(n > 0 and (np.abs(learned - n * plan) < 0.5).all())
