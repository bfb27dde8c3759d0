"""One window of an outside log against a reference: the same five tiers, the same desk, one verdict.

Reference days are learned hour by hour; then the window is judged hour by hour, which sees what lasts an hour, and in one
piece, which spends a day's budget on one test of a fixed sample and sees what is faint all day.  Everything found becomes one
incident a root cause.  Pure: tables in, verdict out.  Called by `pipelines.monitor_log`.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.ids import uniform
from infra.clock import DAY_US
from infra.errors import ExplainedError
from monitoring.diagnosis.observed import condense
from monitoring.findings import Finding
from monitoring.incidents import Desk, Incident
from monitoring.monitor import Monitor, Seen
from monitoring.outside.columns import log_columns
from monitoring.outside.mapping import OPTIONAL, LogMapping
from monitoring.outside.maturity import young
from monitoring.outside.reading import ELSEWHEN, NAMES, Log, rules, same_types
from monitoring.outside.span import Span, hours, reference_span, window_span
from monitoring.window import REFUSED, Window

WEEK_US = 7 * DAY_US
HANDFUL = 5  # incidents a person reads
# Nobody recomputed the reference, so how often a recomputation differs without a fault is not known.  As though so many rows
# of it had been recomputed and agreed: with that prior a page takes about a percent of rows.
ASSUMED = 800
REPLAYED = 200_000  # most rows of a recomputation that are compared, by hash of the id
SALT = 0x4F555453
WHY = {
    "label": "the log has no labels: map `label` to see calibration, lost clicks and drift of the relation",
    "model_version": "map `model_version` to see versions that nobody declared",
    "arm": "map `arm` to see experiments whose arms are not as before",
    "user": "map `user` to see bots and users in two arms",
    "item": "map `item` to see waves of new items",
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one window showed."""

    incidents: list[Incident]  # one a root cause, worst first
    notices: list[Finding]  # written down, no more
    checked: list[str]
    skipped: dict[str, str]  # check -> why
    read: dict[str, Any]  # what was read and how it was understood

    def as_json(self) -> dict[str, Any]:
        """A dict of JSON types, as the issue of `clickproof monitor log` wants it."""
        return {
            "incidents": [incident.as_json() for incident in self.incidents],
            "notices": [notice.as_json() for notice in self.notices],
            "checked": self.checked,
            "skipped": [{"check": check, "why": why} for check, why in self.skipped.items()],
            "read": self.read,
        }


def judge(reference: Log, window: Log, offline: Log | None, mapping: LogMapping) -> Verdict:
    """The verdict on `window`; ExplainedError where the two can't be compared."""
    for role in OPTIONAL:  # what the window does not tell, nothing is expected of
        if role in window.missing and NAMES[role] in reference.table.column_names:
            reference = replace(reference, table=reference.table.drop_columns([NAMES[role]]))
    same_types([reference, window, *([offline] if offline is not None else [])])
    return Learned(reference, mapping).judge(window, offline)


class Learned:
    """What a reference shows, to judge any number of windows of the same log by."""

    def __init__(self, reference: Log, mapping: LogMapping) -> None:
        """Learn the reference, hour by hour."""
        self.reference, self.mapping = reference, mapping
        self.usual = reference_span(_time(reference))
        self.columns = log_columns(reference.table, mapping)
        self.plan = _plan(reference, mapping)
        self.monitor = Monitor(self.columns)
        an_hour = max(1, round(ASSUMED / max(24 * self.usual.days, 1)))
        features = ["id", *(f"f_{name}" for name in self.columns.names)]
        for one in _reference_hours(reference, self.usual, self.plan, mapping):
            self.monitor.warm_up(replace(one, offline=one.log.select(features).slice(0, an_hour)))

    def judge(self, window: Log, offline: Log | None = None) -> Verdict:
        """The verdict on a window, whose columns have the reference's types (`same_types`)."""
        now = window_span(_time(window), self.usual, self.reference.rows / max(self.usual.days, 1e-9))
        _apart(self.usual, now)
        ahead = _weeks_ahead(self.usual, now)
        by_hours, whole = self.monitor.copy(), self.monitor.copy()
        refused = _refused(window, now, self.mapping)
        seen = [by_hours.observe(_ahead(one, ahead)) for one in _hours(window, now, self.plan, offline)]
        seen += [whole.observe(_ahead(one, ahead)) for one in _pieces(window, now, self.plan, offline, refused)]
        findings = [_placed(f, ahead, now.start_us) for one in seen for f in one.findings]
        findings = [young(f, window.table, now.end_us) for f in findings]
        incidents, notices = _root_causes(findings, now, window.table, self.plan, offline)
        checked, skipped = _coverage(seen, self.mapping, window, offline)
        facts = _facts(self.reference, window, self.usual, now, self.columns.ids)
        return Verdict(incidents, notices, checked, skipped, facts)


def _time(log: Log) -> np.ndarray:
    return log.table["time"].to_numpy()


def _apart(usual: Span, now: Span) -> None:
    """ExplainedError where window and reference share hours."""
    for a, b in usual.stretches:
        for c, d in now.stretches:
            if a < d and c < b:
                raise ExplainedError(
                    f"the window ({_iso(c)} to {_iso(d)}) lies in the reference ({_iso(a)} to {_iso(b)}): leave its rows "
                    "out of the reference, which must be normal days of another time"
                )


def _weeks_ahead(usual: Span, now: Span) -> int:
    """Microseconds, whole weeks, by which a window before its reference is moved behind it: monitors go forward in time."""
    last = usual.end_us
    return 0 if now.start_us >= last else -((now.start_us - last) // WEEK_US) * WEEK_US


def _ahead(window: Window, by_us: int) -> Window:
    if by_us == 0:
        return window
    place = window.log.column_names.index("time")
    log = window.log.set_column(place, "time", pc.add(window.log["time"], pa.scalar(by_us, pa.int64())))
    return replace(window, start_us=window.start_us + by_us, end_us=window.end_us + by_us, log=log)


def _placed(finding: Finding, ahead_us: int, start_us: int) -> Finding:
    """The finding in the log's own time; nothing begins before the window, as the reference is normal by definition."""
    return finding if finding.onset_us is None else replace(finding, onset_us=max(finding.onset_us - ahead_us, start_us))


def _refused(log: Log, span: Span, mapping: LogMapping) -> Counter[tuple[str, str]]:
    """Rows that broke the contract: what could not be read, and times that lie outside the log's days."""
    # A rule that nothing broke is known to hold, rather than not known.
    refused = Counter({**dict.fromkeys(rules(mapping), 0), **log.refused})
    if stray := int(np.count_nonzero(~span.inside(_time(log)))):
        refused[mapping.time, ELSEWHEN] += stray
    return refused


def _reference_hours(log: Log, span: Span, plan: dict[str, float] | None, mapping: LogMapping) -> Iterator[Window]:
    """Hours of a reference; what it broke of the contract has no hour, so each gets its part."""
    refused, number = _refused(log, span, mapping), max(round(24 * span.days), 1)
    for i, (start, end, rows) in enumerate(hours(log.table, span)):
        part = Counter({key: n * (i + 1) // number - n * i // number for key, n in refused.items()})
        yield _window(start, end, rows, plan, None, part)


def _hours(log: Log, span: Span, plan: dict[str, float] | None, offline: Log | None) -> Iterator[Window]:
    """Hours of a window."""
    recomputed = _sampled(offline)
    for start, end, rows in hours(log.table, span):
        yield _window(start, end, rows, plan, recomputed, Counter())


def _pieces(
    log: Log, span: Span, plan: dict[str, float] | None, offline: Log | None, refused: Counter[tuple[str, str]]
) -> Iterator[Window]:
    """The window without cuts, but for gaps between its stretches; what it broke of the contract counts in the first."""
    time, recomputed = _time(log), _sampled(offline)
    for start, end in span.stretches:
        first, last = np.searchsorted(time, [start, end])
        yield _window(start, end, log.table.slice(int(first), int(last - first)), plan, recomputed, refused)
        refused = Counter()


def _window(
    start: int, end: int, rows: pa.Table, plan: dict[str, float] | None, offline: Log | None, refused: Counter[tuple[str, str]]
) -> Window:
    broke = [{"stream": "predictions", "field": f, "rule": rule, "rows": n} for (f, rule), n in refused.items()]
    again = None
    if offline is not None:
        again = offline.table.filter(pc.is_in(offline.table["id"], rows["id"].combine_chunks()))
    return Window(start, end, rows, offline=again, refused=pa.Table.from_pylist(broke, schema=REFUSED), plan=plan)


def _sampled(offline: Log | None) -> Log | None:
    if offline is None or offline.rows <= REPLAYED:
        return offline
    ids = offline.table["id"].combine_chunks()
    keys = ids.to_numpy() if pa.types.is_integer(ids.type) else pc.dictionary_encode(ids).indices.to_numpy()
    chosen = uniform(keys, SALT) < REPLAYED / offline.rows
    return replace(offline, table=offline.table.filter(pa.array(chosen)))


def _plan(reference: Log, mapping: LogMapping) -> dict[str, float] | None:
    """Share of users by arm in the reference: the plan, as far as a log shows it."""
    if mapping.arm is None or "arm" not in reference.table.column_names:
        return None
    key = "user" if "user" in reference.table.column_names else "id"
    each = reference.table.select(["arm", key]).group_by("arm").aggregate([(key, "count_distinct")])
    counts = {arm: n for arm, n in zip(each["arm"].to_pylist(), each[f"{key}_count_distinct"].to_pylist(), strict=True) if arm}
    total = sum(counts.values())
    return {arm: n / total for arm, n in sorted(counts.items())} if total else None


def _root_causes(
    findings: list[Finding], now: Span, table: pa.Table, plan: dict[str, float] | None, offline: Log | None
) -> tuple[list[Incident], list[Finding]]:
    """Everything that a window showed, hours and whole alike, as one episode: an incident a cause, worst first; the rest."""
    found = condense(findings)
    some = offline.table.slice(0, 1) if offline is not None else None
    incidents = Desk().update(Window(now.start_us, now.end_us, table.slice(0, 1), offline=some, plan=plan), found)
    incidents.sort(key=lambda i: -max((f.excess for f in i.findings if f.severity == "page"), default=0.0))
    for number, incident in enumerate(incidents, 1):
        incident.number = number
    taken = [f for incident in incidents for f in incident.findings]
    return incidents[:HANDFUL], [f for f in found if f.severity == "notice" and f not in taken]


def _coverage(seen: list[Seen], mapping: LogMapping, window: Log, offline: Log | None) -> tuple[list[str], dict[str, str]]:
    """Checks that judged some hour, and why the others could not."""
    checked = list(dict.fromkeys(check for one in seen for check in one.ran))
    skipped = {check: why for one in seen for check, why in one.skipped.items() if check not in checked}
    for role, why in WHY.items():
        if getattr(mapping, role) is None:
            skipped.setdefault(role, why)
        elif role in window.missing:
            skipped.setdefault(role, f"the window has no column {getattr(mapping, role)!r}")
    if offline is None:
        skipped.setdefault("feature-replay", "no recomputed features: --offline FILE compares them with what was logged")
    return checked, skipped


def _facts(reference: Log, window: Log, usual: Span, now: Span, ids: tuple[str, ...]) -> dict[str, Any]:
    def of(log: Log, span: Span) -> dict[str, Any]:
        return {
            "files": len(log.files), "rows": log.rows, "from": _iso(span.start_us), "to": _iso(span.end_us),
            "unreadable": {f"{column}: {rule}": n for (column, rule), n in log.refused.items()},
        }  # fmt: skip

    said = list(dict.fromkeys([*reference.said, *window.said]))
    return {"reference": of(reference, usual), "window": of(window, now), "understood": said, "turn_over": list(ids)}


def _iso(at_us: int) -> str:
    return str(np.datetime64(at_us, "us").astype("datetime64[m]")) + "Z"
