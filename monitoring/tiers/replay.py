"""Replay: is what was logged what can be recomputed?  Features by the history, predictions by the declared model.

The tier with the strongest evidence: it compares row by row, so that nothing that traffic does can trouble it, and how values
differ says what went wrong.  Counts of mismatching requests in a hashed sample, against the benign rate that the reference
showed.  Called by the monitor.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.catalogue import DERIVED, VIEWS
from infra.clock import DAY_US, HOUR_US
from monitoring.comparison import ABSOLUTE, RELATIVE, Array, comparable, differs
from monitoring.findings import Finding
from monitoring.tiers.counts import Alarm, Rate
from monitoring.tiers.mismatch import SIMPLICITY, Mask, Pattern, pattern
from monitoring.tiers.rescoring import Rescored, explain, logit
from monitoring.tiers.tier import PAGES_A_DAY, SHARE
from monitoring.window import LogColumns, Window

BUDGET = PAGES_A_DAY * SHARE["replay"]
PREDICTION = 0.25  # of the budget; the features share the rest
# Relative tolerances of features, and of predictions in logits; a looser one is chosen where the reference differs in digits.
TOLERANCES = (RELATIVE, 1e-4, 1e-3, 1e-2)
LOGITS = (1e-3, 1e-2, 5e-2)
HARMLESS = 0.002  # benign rate with which the tightest tolerance is kept
ROWS = 20_000  # compared a window, the first by hash: a day's window of a large log
KEPT = 3000  # mismatching rows kept for their pattern
RECENT = 2000  # rescored rows kept, right ones too
OLDER = 1.25, 60.0  # an age above this multiple of the greatest usual one at this hour of the day, plus seconds, is old

STORED = {feature.name: view.name for view in VIEWS for feature in view.features}
COMPUTED = frozenset(feature.name for feature in DERIVED)


@dataclass(slots=True)
class Graded:
    """Rates of one comparison at several tolerances; the tightest one that isn't benign noise judges."""

    tolerances: tuple[float, ...]
    rates: list[Rate] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rates = [Rate() for _ in self.tolerances]

    @property
    def chosen(self) -> int:
        """Index of the tolerance that judges."""
        loosest = self.rates[-1].mean
        return next(i for i, rate in enumerate(self.rates) if rate.mean <= max(HARMLESS, 3 * loosest))


@dataclass(slots=True)
class Kept:
    """Mismatching rows of a window: enough of them to see the pattern."""

    start_us: int
    hour: Array
    wrong: dict[str, Mask]
    logged: dict[str, Array]
    again: dict[str, Array]
    day_old: dict[str, Array]
    has_old: Mask  # rows that were looked up a day earlier too
    old: dict[str, Mask]  # by view: rows read from a view older than usual


class ReplayTier:
    """Feature replay and model replay, from the hour to two weeks."""

    name = "replay"

    def __init__(self, columns: LogColumns) -> None:
        self.columns = columns
        self._features: dict[str, Graded] = {}
        self._prediction = Graded(LOGITS)
        self._kept: deque[Kept] = deque()
        self._recent: deque[tuple[int, Rescored]] = deque()
        self._ages: dict[str, Array] = {}  # view -> greatest usual age [24] by hour of the day
        self._ages_seen: dict[str, Array] = {}
        self._unable: dict[str, str] = {}
        self._ran: list[str] = []

    def test(self, window: Window) -> list[Finding]:
        """Findings of both replays; features that merely follow another one are notices."""
        self._unable, self._ran, self._ages_seen = {}, [], {}
        found = self._test_features(window)
        guilty = {f.subject for f in found if f.severity == "page"}
        return found + self._test_prediction(window, guilty)

    def learn(self) -> None:
        """The benign rates, and usual ages."""
        for graded in (*self._features.values(), self._prediction):
            for rate in graded.rates:
                rate.learn()
        for view, ages in self._ages_seen.items():
            self._ages[view] = np.fmax(self._ages.get(view, np.full(24, np.nan)), ages)

    def unable(self) -> Mapping[str, str]:
        return self._unable

    def ran(self) -> tuple[str, ...]:
        return tuple(self._ran)

    def _test_features(self, window: Window) -> list[Finding]:
        if window.offline is None:
            self._unable["feature-replay"] = "no recomputed features were given"
            return []
        rows, again = joined(window.log, window.offline)
        names = [n for n in self.columns.names if f"f_{n}" in rows.column_names and f"f_{n}" in again.column_names]
        if not names or rows.num_rows == 0:
            self._unable["feature-replay"] = "no recomputed row belongs to a logged one"
            return []
        self._ran.append("feature-replay")
        unit = units(rows)
        n = len(np.unique(unit))
        share = (1 - PREDICTION) / len(names)
        pairs = {m: comparable(rows[f"f_{m}"], again[f"f_{m}"], m in self.columns.categorical) for m in names}
        wrong: dict[str, Mask] = {}
        alarms: dict[str, Alarm] = {}
        for name, (logged, recomputed) in pairs.items():
            graded = self._features.setdefault(name, Graded(TOLERANCES if logged.dtype.kind == "f" else TOLERANCES[:1]))
            exact = differs(logged, recomputed, RELATIVE, ABSOLUTE)
            wrong[name] = exact
            for i, (tolerance, rate) in enumerate(zip(graded.tolerances, graded.rates, strict=True)):
                off = differs(logged, recomputed, tolerance, ABSOLUTE) if i and exact.any() else exact
                count = len(np.unique(unit[off])) if off.any() else 0
                if i != graded.chosen:
                    rate.note(count, n, window.start_us)
                    continue
                wrong[name] = off
                alarm = rate.see(count, n, window.start_us, *limits(window, share))
                if alarm:
                    alarms[name] = alarm
                    rate.restart()
        self._keep(window, rows, pairs, wrong)
        return self._explain(alarms, list(names))

    def _keep(
        self, window: Window, rows: pa.Table, pairs: Mapping[str, tuple[Array, Array]], wrong: Mapping[str, Mask]
    ) -> None:
        """Put the mismatching rows aside, and note the ages of all."""
        hour = (rows["time"].to_numpy() // HOUR_US % 24).astype(np.int64)
        old: dict[str, Mask] = {}
        for view in (c[4:] for c in rows.column_names if c.startswith("age_")):
            age = pc.fill_null(pc.cast(rows[f"age_{view}"], pa.float64()), np.nan).to_numpy()
            ages = np.full(24, np.nan)
            np.fmax.at(ages, hour, age)
            self._ages_seen[view] = ages
            if view in self._ages:
                factor, slack = OLDER
                old[view] = np.nan_to_num(age, nan=0.0) > np.nan_to_num(factor * self._ages[view][hour] + slack, nan=np.inf)
        some = np.any(list(wrong.values()), axis=0)
        if not some.any():
            return
        before: dict[str, Array] = {}
        has_old = np.zeros(rows.num_rows, bool)
        if window.day_old is not None:
            place = pc.index_in(_id(rows["id"]), _id(window.day_old["id"]).combine_chunks())
            has_old = np.asarray(place.is_valid().to_numpy())
            earlier = window.day_old.take(place)  # null where a row wasn't looked up: only some are
            for name in pairs:
                if f"f_{name}" in earlier.column_names:
                    before[name] = comparable(rows[f"f_{name}"], earlier[f"f_{name}"], name in self.columns.categorical)[1]
        picked = np.flatnonzero(some)[:KEPT]

        def only(values: Mapping[str, Array]) -> dict[str, Array]:
            return {name: column[picked] for name, column in values.items()}

        self._kept.append(
            Kept(window.start_us, hour[picked], only(wrong), only({m: p[0] for m, p in pairs.items()}),
                 only({m: p[1] for m, p in pairs.items()}), only(before), has_old[picked], only(old))
        )  # fmt: skip
        while len(self._kept) > 1 and sum(len(k.hour) for k in self._kept) > KEPT:
            self._kept.popleft()

    def _explain(self, alarms: Mapping[str, Alarm], order: Sequence[str]) -> list[Finding]:
        """Findings of the features in alarm: those whose rows lie inside a simpler or larger one's follow it."""
        seen: dict[str, tuple[Pattern, Mask, str | None]] = {}
        for name, alarm in alarms.items():
            seen[name] = self._pattern(name, alarm.onset_us)
        left = sorted(alarms, key=order.index)
        found: list[Finding] = []
        while left:
            most = max(int(seen[name][1].sum()) for name in left)
            leader = min(
                (name for name in left if seen[name][1].sum() >= 0.9 * most),
                key=lambda name: (SIMPLICITY.index(seen[name][0].symptom), name in COMPUTED, order.index(name)),
            )
            inside = seen[leader][1]
            follow = [f for f in left if f != leader and (seen[f][1] & inside).sum() >= 0.9 * seen[f][1].sum()]
            found.append(self._finding(leader, alarms[leader], seen, follow, None))
            found += [self._finding(name, alarms[name], seen, [], leader) for name in follow]
            left = [name for name in left if name != leader and name not in follow]
        return sorted(found, key=lambda f: (f.severity != "page", -f.excess))

    def _pattern(self, name: str, onset_us: int) -> tuple[Pattern, Mask, str | None]:
        """A feature's pattern, its rows among all that are kept, and the view that is old with them."""
        kept = [k for k in self._kept if k.start_us >= onset_us and name in k.wrong]
        rows = np.concatenate([k.wrong[name] if k in kept else np.zeros(len(k.hour), bool) for k in self._kept])
        logged, again, hour = (
            np.concatenate([part[k.wrong[name]] for k, part in zip(kept, parts, strict=True)])
            for parts in ([k.logged[name] for k in kept], [k.again[name] for k in kept], [k.hour for k in kept])
        )
        before = has_old = None
        if kept and all(name in k.day_old for k in kept):
            before = np.concatenate([k.day_old[name][k.wrong[name]] for k in kept])
            has_old = np.concatenate([k.has_old[k.wrong[name]] for k in kept])
        shares = {view: np.concatenate([k.old[view][k.wrong[name]] for k in kept]) for view in kept[0].old
                  if all(view in k.old for k in kept)}  # fmt: skip
        view = max(shares, key=lambda v: (v == STORED.get(name), float(shares[v].mean())), default=None)
        if view is not None and not shares[view].any():
            view = max(shares, key=lambda v: float(shares[v].mean()))
        old = shares[view] if view is not None else None
        return pattern(logged, again, hour, before, has_old, old), rows, view if old is not None and old.any() else None

    def _finding(
        self,
        name: str,
        alarm: Alarm,
        seen: Mapping[str, tuple[Pattern, Mask, str | None]],
        followers: Sequence[str],
        leader: str | None,
    ) -> Finding:
        shape, _, old_view = seen[name]
        kind = shape.bug_class
        missed = [f for f in followers if f not in COMPUTED and seen[f][0].symptom in ("to-null", "to-default")]
        if shape.symptom in ("to-null", "to-default") and len(missed) >= 2:
            kind = "default-value-skew"  # a whole row of a view is not there
        evidence: dict[str, Any] = {
            "mismatches": alarm.count, "requests": alarm.of, "rate": alarm.rate, "usual": alarm.usual, "scale": alarm.scale,
            "pattern_share": shape.share, **shape.evidence,
        }  # fmt: skip
        view = STORED.get(name) or old_view
        if view:
            evidence["view"] = view
        if followers:
            evidence["followed_by"] = list(followers)
        if leader:
            evidence["follows"] = leader
        return Finding(
            "feature-replay", seen[leader][0].bug_class if leader else kind, name, "notice" if leader else "page", evidence,
            excess=alarm.excess, symptom=shape.symptom, tier="replay", onset_us=alarm.onset_us,
        )  # fmt: skip

    def _test_prediction(self, window: Window, guilty: set[str]) -> list[Finding]:
        if window.rescored is None:
            self._unable["model-replay"] = "no rescored predictions were given"
            return []
        rows, p, q = asked_again(window.log, window.rescored)
        known = ~np.isnan(q)
        if not known.any():
            self._unable["model-replay"] = "no logged prediction could be rescored"
            return []
        self._ran.append("model-replay")
        rows, p, q = rows.filter(pa.array(known)), p[known], q[known]
        gap = np.nan_to_num(np.abs(logit(p) - logit(q)), nan=np.inf)
        unit = units(rows)
        n = len(np.unique(unit))
        graded, alarm = self._prediction, None
        wrong = gap > graded.tolerances[graded.chosen]
        for i, (tolerance, rate) in enumerate(zip(graded.tolerances, graded.rates, strict=True)):
            count = len(np.unique(unit[gap > tolerance]))
            if i == graded.chosen:
                alarm = rate.see(count, n, window.start_us, *limits(window, PREDICTION))
                if alarm:
                    rate.restart()
            else:
                rate.note(count, n, window.start_us)
        self._keep_rescored(window, rows, p, q, wrong)
        return [self._prediction_finding(alarm, guilty)] if alarm else []

    def _keep_rescored(self, window: Window, rows: pa.Table, p: Array, q: Array, wrong: Mask) -> None:
        """The last rescored rows, and wrong ones of longer ago."""
        names = rows.column_names
        features = {m: comparable(rows[f"f_{m}"], rows[f"f_{m}"], m in self.columns.categorical)[0]
                    for m in self.columns.names if f"f_{m}" in names}  # fmt: skip
        self._recent.append(
            (
                window.start_us,
                Rescored(p, q, wrong, _objects(rows, "model"), _objects(rows, "arm") if "arm" in names else None,
                         _objects(rows, "user") if "user" in names else None, features),
            )
        )  # fmt: skip
        while len(self._recent) > 1 and sum(len(r.logged) for _, r in self._recent) > RECENT:
            self._recent.popleft()

    def _prediction_finding(self, alarm: Alarm, guilty: set[str]) -> Finding:
        parts = [r for start, r in self._recent if start >= alarm.onset_us] or [self._recent[-1][1]]
        shape, subject = explain(_together(parts))
        evidence: dict[str, Any] = {
            "mismatches": alarm.count, "requests": alarm.of, "rate": alarm.rate, "usual": alarm.usual, "scale": alarm.scale,
            "pattern_share": shape.share, **shape.evidence, "features_replay": "fail" if guilty else "pass",
        }  # fmt: skip
        return Finding(
            "model-replay", shape.bug_class, subject, "page", evidence,
            excess=alarm.excess, symptom=shape.symptom, tier="replay", onset_us=alarm.onset_us,
        )  # fmt: skip


def joined(log: pa.Table, other: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Rows of both that have one id, in one order; at most `ROWS`.  A repeated id counts once."""
    ids = _id(other["id"])
    place = pc.index_in(ids, _id(log["id"]).combine_chunks())
    both = np.flatnonzero(~np.asarray(place.is_null().to_numpy(zero_copy_only=False) if isinstance(place, pa.Array)
                                      else place.is_null().to_numpy()))[:ROWS]  # fmt: skip
    there = pc.take(place, pa.array(both))
    return log.take(there), other.take(pa.array(both))


def asked_again(log: pa.Table, rescored: pa.Table) -> tuple[pa.Table, Array, Array]:
    """The log's rows that were rescored, their p as logged, and as given again (float64, NaN where there is none)."""
    rows, again = joined(log, rescored)
    logged, given = (pc.fill_null(pc.cast(t["p"], pa.float64()), np.nan).to_numpy() for t in (rows, again))
    return rows, logged, given


def units(rows: pa.Table) -> Array:
    """What counts as one independent event: the request where it is known, otherwise the row."""
    if "request" in rows.column_names and rows["request"].null_count == 0:
        return np.asarray(np.unique(rows["request"].to_numpy(), return_inverse=True)[1])
    return np.arange(rows.num_rows)


def limits(window: Window, share: float) -> tuple[float, float]:
    """False alarms that a share of the budget allows in this window, and in the sums a day."""
    days = min(1.0, (window.end_us - window.start_us) / DAY_US)
    return BUDGET / 2 * share * days, BUDGET / 2 * share


def _id(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.cast(column, pa.string()) if not pa.types.is_string(column.type) else column


def _objects(rows: pa.Table, name: str) -> Array:
    return (
        np.asarray(rows[name].to_pylist(), dtype=object)
        if name in rows.column_names
        else np.full(rows.num_rows, "unknown", object)
    )


def _together(parts: Sequence[Rescored]) -> Rescored:
    def join(name: str) -> Array | None:
        values = [getattr(part, name) for part in parts]
        return None if any(v is None for v in values) else np.concatenate(values)

    common = set.intersection(*(set(part.features) for part in parts))
    features = {name: np.concatenate([part.features[name] for part in parts]) for name in parts[0].features if name in common}
    pick = {name: np.concatenate([getattr(part, name) for part in parts]) for name in ("logged", "again", "wrong", "model")}
    return Rescored(**pick, arm=join("arm"), user=join("user"), features=features)
