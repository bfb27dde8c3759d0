"""One A/B test read out: evening by evening, what it could see, how often it cries wolf, and the truth where it is known.

Called by `pipelines.experiment.command` and by the walkthrough's answer.  Results hold JSON types only.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from infra.clock import DAY_US, day_name
from infra.errors import ExplainedError
from infra.home import Home
from infra.settings import Settings
from monitoring.experiment.before import adjusted, known
from monitoring.experiment.power import POWER, plan
from monitoring.experiment.ratios import Sums
from monitoring.experiment.readout import RATIO_ALPHA, false_calls, ratio_evidence, read, wrong_ratio
from monitoring.experiment.sequential import ALPHA, FIXED
from monitoring.experiment.user_days import METRICS, Totals, UserDays
from pipelines.experiment.arms import LEGACY, artefact_of
from pipelines.experiment.logged import history, read_log
from pipelines.experiment.market import Market
from serving import rollout_store
from serving.assignment import Assignment
from serving.rollout import A_A, shares
from serving.rollout import assignment as assignment_of

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Shares = tuple[float, float]

EVEN: Shares = (0.5, 0.5)

DAYS = 14  # two of each weekday
SPLITS, CHUNK = 1000, 100  # A/A splits of one log: a share of 5% is known to 0.7 points
HISTORY_DAYS = 60  # that are looked at, at most
LIFTS = (0.01, 0.02, 0.05, 0.1)  # of which it is said how long they take to be seen


def simulated(home: Home, chosen: Settings, market: Market, names: tuple[str, str]) -> dict[str, Any]:
    """A test in the simulated market, after the home's history; `names` are what a and b serve (`pipelines.experiment.arms`).

    The A/A splits are of the world in which everybody is in arm a."""
    serves = [{"name": name, "models": [] if name == LEGACY else [artefact_of(home, name).hash]} for name in names]
    assignment = assignment_of(A_A)
    run = market.split(names, assignment)
    everybody = [market.everybody(name) for name in names]
    before = history(home, chosen, market.first_us, HISTORY_DAYS)
    result = {
        "source": "simulation",
        "arms": dict(zip("ab", serves, strict=True)),
        **_read_out(run.did, before, assignment.arms_of(run.did.user), EVEN, market.first_us),
        "false": _false(everybody[0].did, before),
        "plan": _plan(before, run.did.looks, EVEN),
    }
    for name, metric in result["metrics"].items():
        a, b = (_everybodys(name, one.expected) for one in everybody)
        metric["truth"] = _numbers(b / a - 1)
    return result


def logged(home: Home, chosen: Settings, most: int | None, names: tuple[str | None, str | None]) -> dict[str, Any]:
    """The first `most` days of the test that the lake's prediction log holds, of two of its arms: those named, or the first.

    Raises ExplainedError where the log holds no such arms."""
    log = read_log(home, chosen)
    pair = _pair(log.arms, names)
    looks = min(most or log.days.looks, log.days.looks)
    asked = log.days.requests[:, : looks + 1].any(axis=1)
    inside = asked & np.isin(log.arm, [log.arms.index(name) for name in pair])
    days, arm = log.days.part(0, looks + 1, inside), log.arm[inside] == log.arms.index(pair[1])
    planned = _planned(home, pair)
    before = history(home, chosen, log.first_us, HISTORY_DAYS)
    return {
        "source": "prediction log",
        "arms": {a: {"name": name, "models": log.models[name]} for a, name in zip("ab", pair, strict=True)},
        "moved": log.moved,
        "nobody": log.nobody,
        **_read_out(days, before, arm.astype(np.int64), planned, log.first_us),
        "false": _false(days, before),
        "plan": _plan(before, looks, planned),
    }


def _planned(home: Home, pair: tuple[str, str]) -> Shares:
    """What the last rollout document with these two arms planned for them, as shares of the two; even where none had them."""
    for entry in reversed(rollout_store.history(home)):
        found = shares(entry.after.experiment)
        if found.keys() >= set(pair):
            a, b = (found[name] for name in pair)
            return a / (a + b), b / (a + b)
    return EVEN


def _pair(arms: tuple[str, ...], names: tuple[str | None, str | None]) -> tuple[str, str]:
    for name in names:
        if name is not None and name not in arms:
            raise ExplainedError(f"the prediction log has no arm {name!r}; it has {', '.join(arms)}")
    a = names[0] or next(arm for arm in arms if arm != names[1])
    b = names[1] or next(arm for arm in arms if arm != a)
    if a == b:
        raise ExplainedError(f"arm {a!r} can't be compared with itself; the prediction log has {', '.join(arms)}")
    return a, b


def _read_out(days: UserDays, before: UserDays | None, arm: I64, shares: Shares, first_us: int) -> dict[str, Any]:
    """Everything that is seen evening by evening; `arm` [u] is 0 for a and 1 for b."""
    groups = np.stack([arm == 0, arm == 1])
    entered = groups.astype(np.float64) @ days.entered()
    evidence = ratio_evidence(entered[0], entered[1], shares)
    return {
        "days": [day_name(first_us + look * DAY_US) for look in range(days.looks)],
        "alpha": ALPHA,
        "ratio": {
            "planned": list(shares),
            "users": entered.astype(int).tolist(),
            "log10_evidence": _numbers(evidence),
            "wrong_since": _first(wrong_ratio(evidence)),
            "alpha": RATIO_ALPHA,
        },
        "metrics": {
            name: {
                **_metric(_totals(name, days, before), groups),
                "unadjusted": _metric(METRICS[name](days), groups) if before else None,
            }
            for name in METRICS
        },
    }


def _totals(name: str, days: UserDays, before: UserDays | None) -> Totals:
    """A metric's totals, less what the days before foretold of them where there are such days."""
    x, y = METRICS[name](days)
    return (x, y) if before is None else (adjusted(x, y, known(before, METRICS[name], days.user)), y)


def _metric(totals: Totals, groups: Bools) -> dict[str, Any]:
    """One metric by look: rates, the lift with its sequential interval (`low`, `high`) and that for one look (`once_...`)."""
    reading = read(*(Sums.of(*totals, group) for group in (groups[:1], groups[1:])))
    value, low, high = reading.lift(reading.width)
    _, once_low, once_high = reading.lift(FIXED)
    called = _first(reading.called(reading.width)[0])
    by_look = {
        "a": reading.a.value, "b": reading.b.value, "lift": value, "low": low, "high": high,
        "once_low": once_low, "once_high": once_high, "width": reading.width,
    }  # fmt: skip
    better = None if called is None else "b" if reading.difference.value[0, called - 1] > 0 else "a"
    return {
        **{column: _numbers(values[0]) for column, values in by_look.items()},
        "called": called,
        "better": better,
        "called_by_a_daily_p_value": _first(reading.called(FIXED)[0]),
    }


def _everybodys(name: str, days: UserDays) -> F64:
    """A metric's value by look over all users."""
    x, y = METRICS[name](days)
    return np.asarray(x.sum(axis=0) / y.sum(axis=0))


def _false(days: UserDays, before: UserDays | None) -> dict[str, Any]:
    """How often winners, or wrong ratios, are called when users are split anew and nobody is treated differently."""
    found = {name: false_calls(*_totals(name, days, before), _splits(days.user)) for name in METRICS}
    entered = days.entered().astype(np.float64)
    alarms = []
    for split in _splits(days.user):
        b = split.astype(np.float64) @ entered
        alarms.append(wrong_ratio(ratio_evidence(entered.sum(axis=0) - b, b, (0.5, 0.5))).any(axis=1))
    return {
        "splits": SPLITS,
        "metrics": {
            name: {"sequential": called.sequential.tolist(), "daily": called.fixed.tolist(), "once": called.end}
            for name, called in found.items()
        },
        "ratio": float(np.concatenate(alarms).mean()),
    }


def _splits(user: I64) -> Iterator[Bools]:
    """Who is in b, [CHUNK, u] at a time: the serving room's assignment under one salt after the other."""
    for start in range(0, SPLITS, CHUNK):
        yield np.stack([Assignment(f"aa-{n}", ("a", "b"), EVEN).arms_of(user) == 1 for n in range(start, start + CHUNK)])


def _plan(history: UserDays | None, looks: int, shares: Shares) -> dict[str, Any] | None:
    """What a test on the last of the days before could have seen: smallest lift by days, days by lift (null: more than those).

    Its users are adjusted by the days before those, at least a third."""
    if history is None:
        return None
    days = history.looks + 1
    early = max(days - looks - 1, days // 3)
    late = history.part(early, days)
    earlier = history.part(0, early) if early > 1 else None
    found = {}
    for name in METRICS:
        planned = plan(*_totals(name, late, earlier), shares)
        found[name] = {
            "once": _numbers(planned.once),
            "daily": _numbers(planned.daily),
            "days": [
                {"lift": lift, "once": planned.days(lift, planned.once), "daily": planned.days(lift, planned.daily)}
                for lift in LIFTS
            ],
        }
    return {
        "users": int(late.entered()[:, -1].sum()),
        "days": late.looks,
        "before": early if earlier else 0,
        "power": POWER,
        "metrics": found,
    }


def _first(seen: Bools) -> int | None:
    """The first look, counted from 1."""
    return int(seen.argmax()) + 1 if seen.any() else None


def _numbers(values: F64) -> list[float | None]:
    """JSON has no infinity: what is not finite is null."""
    return [float(value) if np.isfinite(value) else None for value in values]
