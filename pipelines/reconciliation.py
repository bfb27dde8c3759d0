"""Rows in = accepted + quarantined + duplicates + pending, over all days: what ingestion prints and asserts."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from infra.home import Home
from infra.lake import Lake
from pipelines.ingest import IngestCounts


@dataclass(frozen=True, slots=True)
class Totals:
    """What became of all rows of a stream."""

    rows_in: int
    accepted: int
    quarantined: int
    duplicates: int
    pending: int  # clicks still waiting for their impression on the last day
    refused_files: int  # files that could not be read at all; none of their rows is counted


def totals(days: Sequence[IngestCounts]) -> dict[str, Totals]:
    """Sums over days, by stream.  Raises AssertionError where rows are unaccounted for."""
    out: dict[str, Totals] = {}
    for stream in sorted({name for day in days for name in day.streams}):
        counts = [day.streams[stream] for day in days if stream in day.streams]
        out[stream] = Totals(
            rows_in=sum(c.delivered for c in counts),
            accepted=sum(c.accepted for c in counts),
            quarantined=sum(c.quarantined for c in counts),
            duplicates=sum(c.duplicates for c in counts),
            pending=counts[-1].pending,
            refused_files=sum(c.refused_files for c in counts),
        )
        found = out[stream]
        accounted = found.accepted + found.quarantined + found.duplicates + found.pending
        if found.rows_in != accounted:
            raise AssertionError(f"{stream}: {found.rows_in} rows came in, {accounted} are accounted for: {found}")
    return out


def refusals(home: Home) -> list[str]:
    """One sentence for every landed file that could not be used: which, why, what to do."""
    lake = Lake.of(home)
    if not lake.has("quarantine"):
        return []
    rows = lake.read("quarantine", ["row", "reason"]).to_pylist()
    return [row["reason"] for row in rows if row["row"] is None]


def as_text(found: dict[str, Totals]) -> str:
    """A table: one line a stream."""
    names = ("rows_in", "accepted", "quarantined", "duplicates", "pending", "refused_files")
    lines = ["  " + f"{'stream':<14}" + "".join(f"{name.replace('_', ' '):>15}" for name in names)]
    for stream, counts in found.items():
        row = asdict(counts)
        lines.append("  " + f"{stream:<14}" + "".join(f"{row[name]:>15,}" for name in names))
    return "\n".join(lines)
