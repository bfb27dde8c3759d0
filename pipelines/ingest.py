"""Landed files -> contract -> lake, a day at a time: the only writer of event tables.  Called by `clickproof ingest` and flows.

What the lake holds of a day is a function of the files landed up to that day, and each table's day is replaced in one atomic
commit.  So doing a day again changes nothing, and a run that was killed is completed by the next one.
An event counts once however often it is delivered: its id is looked up among all ids of all earlier days.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from features.click_matching import PENDING, match
from features.event_contract import QUARANTINE, Origin, WrongColumns, check, refused_file
from features.event_rules import event_schema
from features.schemas import KEYS
from infra.clock import DAY_US
from infra.errors import ExplainedError
from infra.home import Home
from infra.lake import Lake
from infra.progress import progress as bar
from pipelines import landing
from pipelines.known import Known, among
from pipelines.sources.contract import SourceSpec

_NO_ROWS = np.zeros(0, np.int64)

# One row a stream and day that was ingested completely: its counts, and a hash of all that the day's content depends on.
INGESTS = pa.schema([pa.field(n, pa.string(), False) for n in ("stream", "counts", "inputs")])


@dataclass(frozen=True, slots=True)
class StreamCounts:
    """What became of a stream's rows on a day."""

    files: int = 0
    refused_files: int = 0  # none of whose rows are counted below
    delivered: int = 0  # rows in the files that could be read
    carried: int = 0  # clicks that had been waiting for their impression
    accepted: int = 0
    quarantined: int = 0
    duplicates: int = 0
    pending: int = 0  # clicks that go on waiting

    @property
    def rows_in(self) -> int:
        """delivered + carried, which is accepted + quarantined + duplicates + pending."""
        return self.delivered + self.carried


@dataclass(frozen=True, slots=True)
class IngestCounts:
    """What became of a day, by stream."""

    day: str
    streams: dict[str, StreamCounts]

    def total(self) -> StreamCounts:
        """Sums over the streams."""
        rows = [asdict(counts) for counts in self.streams.values()]
        return StreamCounts(**{name: sum(row[name] for row in rows) for name in StreamCounts.__dataclass_fields__})


def ingested_days(home: Home) -> list[str]:
    """Days that are in the lake completely, in order."""
    return Lake.of(home).days("ingests")


def ingest_day(home: Home, spec: SourceSpec, day: str) -> IngestCounts:
    """Bring one landed day into the lake; all landed days before it must be there.  Returns what became of its rows.
    Raises ExplainedError where an earlier day is missing, ReadOnlyHome in a drill's base.

    Where neither its files nor an earlier day have changed since, nothing is written and the recorded counts are returned.
    Files that were put right and landed again change their day; `ingest_all` then also does the days after it."""
    lake = Lake.of(home)
    done = _ledger(lake)
    for earlier in landing.days(home, spec.streams):
        if earlier < day and earlier not in done:
            raise ExplainedError(
                f"{earlier} was landed but never ingested; days go in order: `clickproof ingest` does them all"
            )
    return _day(home, lake, spec, day, done, None)[0]


def ingest_all(home: Home, spec: SourceSpec, progress: bool = True) -> list[IngestCounts]:
    """Bring every landed day into the lake, in order, skipping days of which nothing has changed."""
    lake = Lake.of(home)
    done, known, counts = _ledger(lake), None, []
    for day in bar(landing.days(home, spec.streams), "ingest", "day", shown=progress):
        day_counts, known = _day(home, lake, spec, day, done, known)
        counts.append(day_counts)
    return counts


Ledger = dict[str, tuple[str, IngestCounts]]  # day -> hash of its inputs, counts


def _ledger(lake: Lake) -> Ledger:
    if not lake.has("ingests"):
        return {}
    done: Ledger = {}
    for row in lake.read("ingests").to_pylist():
        day = done.setdefault(row["day"], (row["inputs"], IngestCounts(row["day"], {})))
        day[1].streams[row["stream"]] = StreamCounts(**json.loads(row["counts"]))
    return done


def _day(
    home: Home, lake: Lake, spec: SourceSpec, day: str, done: Ledger, known: Known | None
) -> tuple[IngestCounts, Known | None]:  # fmt: skip
    """Ingest a day unless it is in the ledger with the same inputs; `known` is what the days before brought, if loaded yet."""
    previous = max((d for d in done if d < day), default=None)
    inputs = _inputs(home, spec, day, done[previous][0] if previous else "")
    if day in done and done[day][0] == inputs:
        return done[day][1], known
    known = known or Known.before(lake, spec.streams, day)
    if day in done:
        _still_readable(home, spec, day, done[day][1])
        lake.replace_day("ingests", day, INGESTS.empty_table())  # until it is complete again
    counts: dict[str, StreamCounts] = {}
    refused = [QUARANTINE.empty_table()]
    waiting = PENDING.empty_table()
    for stream in sorted(spec.streams, key=lambda s: s == "clicks"):  # clicks last: they look for their impressions
        rows, counts[stream] = _delivered(home, spec, stream, day, known, refused)
        if stream == "clicks":
            carried = lake.read("pending", PENDING.names, [previous]) if previous else waiting
            rows, waiting, counts[stream] = _settled(rows, carried, known, day, counts[stream], refused)
        rows = rows.select(event_schema(stream, spec.context).names)
        known.add(stream, rows)
        lake.replace_day(stream, day, rows)
    lake.replace_day("quarantine", day, pa.concat_tables(refused))
    lake.replace_day("pending", day, waiting)
    for stream, c in counts.items():
        if c.rows_in != c.accepted + c.quarantined + c.duplicates + c.pending:
            raise AssertionError(f"{stream} of {day}: rows were lost or invented: {c}")
    rows_done = [{"stream": s, "counts": json.dumps(asdict(c)), "inputs": inputs} for s, c in counts.items()]
    lake.replace_day("ingests", day, pa.Table.from_pylist(rows_done, INGESTS))
    done[day] = (inputs, IngestCounts(day, counts))
    return done[day][1], known


def _still_readable(home: Home, spec: SourceSpec, day: str, before: IngestCounts) -> None:
    """Raises ExplainedError where a file that was ingested before can't be read any more: the lake keeps its good rows."""
    for stream in spec.streams:
        broken = []
        for path in landing.files(home, stream, day):
            try:
                landing.read(path)
            except landing.UnreadableFile as error:
                broken.append(f"{path}: {error}")
        was = before.streams.get(stream, StreamCounts())
        if len(broken) > was.refused_files and was.files >= len(landing.files(home, stream, day)):
            raise ExplainedError(
                f"{day} was ingested before, and now a file of it can't be read ({'; '.join(broken)}). The lake keeps what it "
                "had; land the file again as it was, or delete it to take its rows out"
            )


def _inputs(home: Home, spec: SourceSpec, day: str, previous: str) -> str:
    """A hash of all that a day's content depends on: its files, what the source declares, and the day before."""
    parts = [previous, *spec.streams, *spec.context]
    for stream in spec.streams:
        parts += [f"{stream}/{file.name} {landing.content_hash(file)}" for file in landing.files(home, stream, day)]
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()


def _delivered(
    home: Home, spec: SourceSpec, stream: str, day: str, known: Known, refused: list[pa.Table]
) -> tuple[pa.Table, StreamCounts]:  # fmt: skip
    """New rows of a stream's day that keep the contract, with the columns file and row; adds the others to `refused`."""
    begin_us = int(np.datetime64(day, "us").astype(np.int64))
    landed = landing.files(home, stream, day)
    batches = [_with_origin(event_schema(stream, spec.context).empty_table(), "", _NO_ROWS)]
    delivered, checks = 0, []
    for path in landed:
        name = str(path.relative_to(home.landing))
        try:
            table = landing.read(path)
            origin = Origin([name], np.zeros(len(table), np.int64), np.arange(len(table)))
            checked = check(stream, table, begin_us + DAY_US - 1, spec.context, since_us=begin_us, origin=origin)
        except (landing.UnreadableFile, WrongColumns) as error:
            refused.append(refused_file(stream, name, "must be a whole file of the stream's columns", f"{name}: {error}"))
            continue
        delivered += len(table)
        checks.append(checked)
        refused.append(checked.quarantined)
        batches.append(_with_origin(checked.accepted, name, checked.rows))
    rows = pa.concat_tables(batches)
    ids = rows[KEYS[stream]].to_numpy()
    first = np.sort(np.unique(ids, return_index=True)[1])
    new = first[~among(ids[first], known.ids[stream])]
    counts = StreamCounts(
        files=len(landed),
        refused_files=len(landed) - len(checks),
        delivered=delivered,
        accepted=len(new),
        quarantined=sum(len(checked.quarantined) for checked in checks),
        duplicates=sum(checked.duplicates for checked in checks) + len(ids) - len(new),
    )
    return rows.take(new), counts


def _settled(
    fresh: pa.Table, carried: pa.Table, known: Known, day: str, counts: StreamCounts, refused: list[pa.Table]
) -> tuple[pa.Table, pa.Table, StreamCounts]:
    """The day's clicks and those that waited: which to accept, which go on waiting, and the counts with both taken in."""
    again = among(fresh["click_id"].to_numpy(), np.sort(carried["click_id"].to_numpy()))
    fresh = fresh.filter(~again).append_column("since", pa.repeat(pa.scalar(day), len(fresh) - int(again.sum())))
    matched = match(pa.concat_tables([carried, fresh.select(PENDING.names).cast(PENDING)]), known.impressions(), day)
    refused.append(matched.quarantined)
    settled = replace(
        counts,
        carried=len(carried),
        accepted=len(matched.accepted),
        quarantined=counts.quarantined + len(matched.quarantined),
        duplicates=counts.duplicates + int(again.sum()),
        pending=len(matched.pending),
    )
    return matched.accepted, matched.pending, settled


def _with_origin(rows: pa.Table, file: str, row: npt.NDArray[np.int64]) -> pa.Table:
    """`rows` with the columns file and row, which say where each came from."""
    return rows.append_column("file", pa.repeat(pa.scalar(file), len(rows))).append_column("row", pa.array(row))
