"""Facts of a window that are right or wrong by themselves: ids, contract, versions, books, ages, as counts x of n.

Pure functions of a window, and of what a `Memory` of the windows before remembers.  Called by the exact tier, which knows how
many of each are usual.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from features.catalogue import VIEWS
from features.ids import mix
from infra.clock import DAY_US, HOUR_US
from monitoring.window import LogColumns, Window

U64 = npt.NDArray[np.uint64]
Group = Literal["identity", "contract", "versions", "books", "ages"]

# Rows under way at the end of an hour: how much further from their mean than the furthest in the reference.  Without it a
# midnight with six requests in flight was a page: 27 on 94 clean days of two worlds, none of them before the third week.  From
# their mean, as a stage may be ahead: of requests that show nothing more are accepted than predictions know of.
SLACK = 2.0
ID_DAYS = 3  # days for which ids are remembered: redeliveries come within hours
CLOCK_SKEW = "clock-skew"
TIME_RULES = ("later than", "earlier than", "before the year")  # words of contract rules that are about clocks


@dataclass(frozen=True, slots=True)
class Fact:
    """`x` of `n` rows are wrong in one way."""

    check: str
    group: Group
    symptom: str  # of findings.SYMPTOMS["exact"]
    bug_class: str  # a slug of monitoring.classes
    subject: str
    x: int
    n: int
    evidence: Mapping[str, Any] = field(default_factory=dict)
    so_far: tuple[int, int] | None = None  # of the day, where hours don't add up
    notice: bool = False  # never wakes anybody by itself
    whoever: bool = False  # counted as one thing, whichever its subject is this time

    @property
    def key(self) -> tuple[str, str, str]:
        """What is counted."""
        return self.check, self.symptom, "" if self.whoever else self.subject


@dataclass(slots=True)
class UnderWay:
    """Rows that one stage had and the next had not at the end of the reference's hours; below zero where it had more."""

    hours: int = 0
    total: int = 0
    most: int = 0

    def add(self, hour: int, day: int) -> None:
        """The rows of one more hour, and of its day so far."""
        self.hours, self.total, self.most = self.hours + 1, self.total + hour, max(self.most, hour, day)

    @property
    def slack(self) -> int:
        """Rows that may be under way before one is missing."""
        mean = self.total / max(self.hours, 1)
        return max(round(mean + SLACK * (self.most - mean)), 0)


@dataclass(slots=True)
class Memory:
    """What facts need of earlier windows."""

    ids: deque[tuple[int, U64]] = field(default_factory=deque)  # start_us, hashed ids ascending
    kinds: dict[str, str] = field(default_factory=dict)  # column -> number, text, ...
    versions: dict[str, set[str]] = field(default_factory=dict)  # model, encoder -> seen and learned
    rules: set[tuple[str, str, str]] = field(default_factory=set)  # contract rules that were broken in the first days
    pending: tuple[int, int] | None = None  # end_us, clicks waiting then
    day: int = -1
    usual: dict[str, UnderWay] = field(default_factory=dict)  # in the first two weeks
    under_way: dict[str, tuple[int, int]] = field(default_factory=dict)  # in the window tested last: in the hour, in the day
    net: dict[str, tuple[int, int]] = field(
        default_factory=dict
    )  # of the day: what one stage had and the next had not, of how many


def identity(window: Window, memory: Memory) -> Iterator[Fact]:
    """Ids that come twice: in the window, or in one of the days before."""
    log, n = window.log, window.log.num_rows
    hashes = np.sort(hashed(log["id"]))
    twice = int((hashes[1:] == hashes[:-1]).sum())
    known = sum(int(among(hashes, ids).sum()) for start, ids in memory.ids if start != window.start_us)
    memory.ids.append((window.start_us, hashes))
    while memory.ids and memory.ids[0][0] < window.start_us - ID_DAYS * DAY_US:
        memory.ids.popleft()
    evidence = {"in_window": twice, "seen_before": known}
    yield Fact("identity", "identity", "duplicate-ids", "duplicated-events", "impressions", min(n, twice + known), n, evidence)
    if {"request", "slot"} <= set(log.column_names):
        shown = np.sort(mix(hashed(log["request"]), pc.fill_null(pc.cast(log["slot"], pa.int64()), -1).to_numpy()))
        again = max(int((shown[1:] == shown[:-1]).sum()) - twice, 0)
        yield Fact("identity of slots", "identity", "duplicate-ids", "duplicated-events", "impressions", again, n)
    if window.clicks is not None and window.clicks.num_rows and "clicked_at" in window.clicks.column_names:
        pairs = np.sort(mix(hashed(window.clicks["id"]), window.clicks["clicked_at"].to_numpy()))
        again = int((pairs[1:] == pairs[:-1]).sum())
        yield Fact("identity of clicks", "identity", "duplicate-ids", "duplicated-events", "clicks", again, len(pairs))
    for stream, stages in books(window).items():
        if "duplicates" in stages:
            yield Fact(
                "duplicates refused", "identity", "duplicate-ids", "duplicated-events", stream, stages["duplicates"],
                max(stages.get("landed", 0), stages["duplicates"]),
            )  # fmt: skip


def contract(window: Window, memory: Memory) -> Iterator[Fact]:
    """Values that cannot be: p, labels, times, columns of another kind, and what ingestion refused."""
    log, n = window.log, window.log.num_rows
    p = pc.fill_null(pc.cast(log["p"], pa.float64()), np.nan).to_numpy()
    off = int(((p < 0) | (p > 1) | np.isinf(p)).sum())
    yield Fact("range of p", "contract", "out-of-range", "schema-change", "prediction", off, n)
    unknown = int(np.isnan(p).sum())
    yield Fact("p is known", "contract", "out-of-range", "constant-fallback", "prediction", unknown, n)
    if "label" in log.column_names:
        label = pc.cast(pc.drop_null(log["label"]), pa.float64()).to_numpy()
        label = label[~np.isnan(label)]
        off = int((~np.isin(label, (0.0, 1.0))).sum())
        yield Fact("range of labels", "contract", "out-of-range", "schema-change", "label", off, len(label))
    time = log["time"].to_numpy()
    off = int(((time < window.start_us) | (time >= window.end_us)).sum())
    yield Fact("time in window", "contract", "clock-skew", "schema-change", "impressions", off, n)
    clicks = window.clicks
    if clicks is not None and {"clicked_at", "arrived_at"} <= set(clicks.column_names):
        clicked, arrived = clicks["clicked_at"].to_numpy(), clicks["arrived_at"].to_numpy()
        for check, wrong in (
            ("click after impression", clicked < clicks["time"].to_numpy()),
            ("click arrives later", arrived < clicked),
        ):
            yield Fact(check, "contract", "clock-skew", "schema-change", "clicks", int(wrong.sum()), len(wrong))
    if n:
        yield from _schema(window, memory)
    yield from _refused(window, memory)


def _schema(window: Window, memory: Memory) -> Iterator[Fact]:
    n = window.log.num_rows
    now = {name: kind_of(window.log[name].type) for name in window.log.column_names}
    for name, usual in memory.kinds.items():
        kind = now.get(name, "absent")
        wrong = kind not in (usual, "null")
        evidence = {"was": usual, "is": kind} if wrong else {}
        yield Fact("columns", "contract", "contract", "schema-change", name.removeprefix("f_"), n if wrong else 0, n, evidence)


def _refused(window: Window, memory: Memory) -> Iterator[Fact]:
    """Rows that ingestion refused: a count for each rule that the first days broke, and for the others together a count for
    each stream, which is there from the first hour on and so knows that they never break."""
    broke: dict[tuple[str, str, str], int] = {}
    for row in window.refused.to_pylist() if window.refused is not None else ():
        rule = row["stream"], row["field"], row["rule"]
        broke[rule] = broke.get(rule, 0) + row["rows"]
    landed = {stream: stages.get("landed", 0) for stream, stages in books(window).items()}
    for rule in sorted(memory.rules):
        check, symptom = f"rule: {rule[0]}: {rule[2]}", CLOCK_SKEW if _of_clocks(rule) else "contract"
        yield _broken(check, symptom, rule[0], [rule], broke, landed.get(rule[0], window.log.num_rows))
    others = sorted(broke.keys() - memory.rules)
    for stream in sorted(landed.keys() | {stream for stream, _, _ in others}):
        of = landed.get(stream, window.log.num_rows)
        clocks = [rule for rule in others if rule[0] == stream and _of_clocks(rule)]
        values = [rule for rule in others if rule[0] == stream and not _of_clocks(rule)]
        yield _broken(f"rules of clocks: {stream}", CLOCK_SKEW, stream, clocks, broke, of)
        yield _broken(f"rules of values: {stream}", "contract", stream, values, broke, of)


def _broken(
    check: str, symptom: str, stream: str, rules: list[tuple[str, str, str]], broke: Mapping[tuple[str, str, str], int], of: int
) -> Fact:
    """The rows that broke any of the rules, under the name of the one broken most; none where there are no rules."""
    worst = max(rules, key=lambda rule: broke.get(rule, 0), default=(stream, "", ""))
    _, name, rule = worst
    x = sum(broke.get(each, 0) for each in rules)
    evidence = {"stream": stream, "field": name, "rule": rule}
    return Fact(check, "contract", symptom, "schema-change", name or stream, x, max(of, x), evidence, whoever=True)


def _of_clocks(rule: tuple[str, str, str]) -> bool:
    return any(words in rule[2] for words in TIME_RULES)


def versions(window: Window, memory: Memory) -> Iterator[Fact]:
    """Rows of a model or encoder that was never seen before."""
    log, n = window.log, window.log.num_rows
    for column in ("model", "encoder"):
        if column not in log.column_names or column not in memory.versions:
            continue
        counts = {
            row["values"] or "unknown": row["counts"] for row in pc.value_counts(log[column].combine_chunks()).to_pylist()
        }
        new = {name: count for name, count in counts.items() if name not in memory.versions[column]}
        worst = max(new, key=lambda name: new[name], default="")
        evidence = {"column": column, "new": worst, "known": len(memory.versions[column])} if new else {}
        x, subject = sum(new.values()), worst or "model"
        yield Fact(
            f"known {column}", "versions", "unknown-version", "wrong-model-version", subject, x, n, evidence, whoever=True
        )


def reconciliation(window: Window, memory: Memory) -> Iterator[Fact]:
    """What one stage counted and the next did not, beyond what is usually under way between them at the end of an hour."""
    stages = books(window)
    day = int(window.start_us // DAY_US)
    if day != memory.day:
        memory.day, memory.net = day, {}

    def lost(name: str, before: int, after: int) -> tuple[int, int, tuple[int, int]]:
        missing, of = memory.net.get(name, (0, 0))
        memory.net[name] = missing, of = missing + before - after, of + before
        memory.under_way[name] = before - after, missing
        slack = memory.usual[name].slack if name in memory.usual else 0
        return min(max(before - after - slack, 0), before), before, (min(max(missing - slack, 0), of), of)

    clicks = stages.get("clicks", {})
    if {"accepted", "joined"} <= clicks.keys():
        x, n, so_far = lost("joined", clicks["accepted"], clicks["joined"])
        yield Fact(
            "clicks joined", "books", "unreconciled", "lost-clicks", "clicks", x, n, {"expected": n, "joined": n - x}, so_far
        )
        x, n, so_far = lost("surplus", clicks["joined"], clicks["accepted"])
        yield Fact("clicks accepted", "books", "unreconciled", "duplicated-events", "clicks", x, n, {}, so_far)
    shown = stages.get("predictions", {}).get("accepted", window.log.num_rows)
    if "accepted" in stages.get("impressions", {}):
        x, n, so_far = lost("impressions", shown, stages["impressions"]["accepted"])
        evidence = {"predictions": n, "impressions": n - x}
        symptom = "hours-missing" if x > 0.9 * n else "volume-down"
        yield Fact("impressions delivered", "books", symptom, "partial-partition", "impressions", x, n, evidence, so_far)
        x, n, so_far = lost("predictions", stages["impressions"]["accepted"], shown)
        evidence = {"impressions": n, "predictions": n - x}
        yield Fact("predictions logged", "books", "volume-down", "partial-partition", "predictions", x, n, evidence, so_far)
    if "accepted" in stages.get("requests", {}) and "request" in window.log.column_names:
        asked = len(np.unique(hashed(window.log["request"])))
        x, n, so_far = lost("requests", asked, stages["requests"]["accepted"])
        yield Fact("requests delivered", "books", "volume-down", "partial-partition", "requests", x, n, {}, so_far)
    yield from _balance(window, memory, stages)


def _balance(window: Window, memory: Memory, stages: Mapping[str, dict[str, int]]) -> Iterator[Fact]:
    """Rows in = rows accepted, refused, double or waiting."""
    waiting = stages.get("clicks", {}).get("pending")
    before = memory.pending[1] if memory.pending is not None and memory.pending[0] == window.start_us else None
    memory.pending = (window.end_us, waiting) if waiting is not None else None
    for stream, counted in stages.items():
        if not {"landed", "accepted"} <= counted.keys():
            continue
        n, grown = max(counted["landed"], 1), 0
        if stream == "clicks" and waiting is not None:
            if before is None:
                continue
            grown = waiting - before
            evidence = {"waiting": waiting, "before": before}
            x = min(max(grown, 0), n)
            yield Fact("clicks waiting", "books", "unreconciled", "partial-partition", "impressions", x, n, evidence)
        gone = counted["landed"] - grown - sum(counted.get(stage, 0) for stage in ("accepted", "duplicates", "quarantined"))
        kind = "lost-clicks" if stream == "clicks" else "partial-partition"
        yield Fact("rows in and out", "books", "unreconciled", kind, stream, min(abs(gone), n), n, {"gone": gone})


def ages(window: Window, columns: LogColumns, usual: Mapping[str, npt.NDArray[np.float64]]) -> Iterator[Fact]:
    """Requests whose feature rows are older than allowed, or than `usual` ([24] by hour of the day) at that time of the day."""
    log = window.log
    if not log.num_rows:
        return
    request = hashed(log["request"]) if "request" in log.column_names else np.arange(log.num_rows, dtype=np.uint64)
    n = len(np.unique(request))
    hour = (log["time"].to_numpy() // HOUR_US % 24).astype(np.int64)
    for view in views(log):
        age = pc.fill_null(pc.cast(log[f"age_{view}"], pa.float64()), np.nan).to_numpy()
        limit = np.full(24, columns.max_age_s.get(view, np.inf))
        if view in usual:
            limit = np.fmin(limit, usual[view])
        old = np.nan_to_num(age, nan=0.0) > limit[hour]
        features = [f.name for v in VIEWS if v.name == view for f in v.features if f.name in columns.names]
        evidence: dict[str, Any] = {"features": features}
        if old.any():
            evidence |= {"median_age_s": float(np.median(age[old])), "limit_s": float(limit[hour][old].min())}
        x = len(np.unique(request[old]))
        yield Fact("feature age", "ages", "too-old", "stale-features", view, x, n, evidence)
    if "fallback_mask" in log.column_names:
        mask = pc.fill_null(pc.cast(log["fallback_mask"], pa.int64()), 0).to_numpy()
        for bit, catalogued in enumerate(VIEWS):
            hit = (mask >> bit) & 1 == 1
            x = len(np.unique(request[hit])) if hit.any() else 0
            yield Fact("fallbacks", "ages", "too-old", "default-value-skew", catalogued.name, x, n, {}, notice=True)


def views(log: pa.Table) -> list[str]:
    """Feature views whose ages a log has."""
    return [name.removeprefix("age_") for name in log.column_names if name.startswith("age_")]


def books(window: Window) -> dict[str, dict[str, int]]:
    """Stream -> stage -> rows."""
    found: dict[str, dict[str, int]] = {}
    if window.books is not None:
        for row in window.books.to_pylist():
            found.setdefault(row["stream"], {})[row["stage"]] = found.get(row["stream"], {}).get(row["stage"], 0) + row["rows"]
    return found


def kind_of(kind: pa.DataType) -> str:
    """What a column holds, as far as a changed width or file format doesn't matter."""
    if pa.types.is_dictionary(kind):
        return kind_of(kind.value_type)
    if pa.types.is_null(kind):
        return "null"
    if pa.types.is_boolean(kind):
        return "boolean"
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return "number"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "text"
    return "time" if pa.types.is_temporal(kind) else "other"


def hashed(column: pa.ChunkedArray) -> U64:
    """Hashes [n] of numbers or texts."""
    if pa.types.is_integer(column.type):
        return np.asarray(mix(pc.fill_null(column, -1).to_numpy()), dtype=np.uint64)
    return (
        pl.Series(column.to_pylist() if pa.types.is_nested(column.type) else pc.cast(column, pa.large_string()))
        .hash()
        .to_numpy()
    )


def among(values: U64, ascending: U64) -> npt.NDArray[np.bool_]:
    """Whether each value is there."""
    if not len(ascending):
        return np.zeros(len(values), bool)
    place = np.minimum(np.searchsorted(ascending, values), len(ascending) - 1)
    return np.asarray(ascending[place] == values)
