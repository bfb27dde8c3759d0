"""How each feature is distributed, usually and lately, in a few bins: for the page's "what moved" and for evidence to look at.

A picture and not a test: whether something pages is the monitors' business.  The usual counts are kept by hour of day, because
features have seasons.  Pure; fed by `pipelines.live.measures`.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from infra.clock import HOUR_US

F64 = npt.NDArray[np.float64]

QUANTILES = 8  # bins of a number: equally full in the reference
NAMED = 7  # values of a category that have a bin of their own
KEPT_HOURS = 96
STILL = 0.02  # psi below which a feature counts as still: a tenth of what the usual rule of thumb calls a shift (0.2)
MISSING, OTHER = "missing", "other"


@dataclass(frozen=True, slots=True)
class Bins:
    """The bins of one feature, each with its label; the first is for what is missing."""

    labels: tuple[str, ...]
    edges: F64 | None  # inner edges of a number's bins
    values: tuple[str, ...] = ()  # categories with a bin

    @classmethod
    def of_numbers(cls, values: F64) -> "Bins":
        """Bins that the reference fills about equally; a lowest value that is frequent (a zero, mostly) has one for itself."""
        known = values[np.isfinite(values)]
        if not len(known):
            return cls((MISSING, "any"), np.zeros(0))
        low, top = float(known.min()), float(known.max())
        alone = float(np.mean(known == low)) > 1 / QUANTILES and low < top
        rest = known[known > low] if alone else known
        cuts = np.unique(np.quantile(rest, np.linspace(0, 1, QUANTILES + 1)[1:-1]))
        cuts = cuts[cuts > low]
        words = [_short(edge) for edge in cuts]
        first = [_short(low)] if alone else []
        between = [f"{a} to {b}" for a, b in pairwise(words)]
        labels = [*first, f"below {words[0]}", *between, f"from {words[-1]}"] if words else [*first, f"to {_short(top)}"]
        # The last bin lies above all that was seen.
        edges = np.concatenate([[np.nextafter(low, np.inf)] if alone else [], cuts, [np.nextafter(top, np.inf)]])
        return cls((MISSING, *labels, f"above {_short(top)}"), edges)

    @classmethod
    def of_categories(cls, values: Sequence[Any]) -> "Bins":
        """The most frequent values, and the rest."""
        counted = pc.value_counts(pa.array([None if v is None else str(v) for v in values], pa.string())).to_pylist()
        ranked = sorted((c for c in counted if c["values"]), key=lambda c: (-c["counts"], c["values"]))
        named = tuple(c["values"] for c in ranked[:NAMED])
        return cls((MISSING, *named, OTHER), None, named)

    def count(self, column: pa.ChunkedArray) -> F64:
        """How many rows fall into each bin: [bins]."""
        at = self._places(column) if self.edges is None else self._between(column)
        return np.bincount(at, minlength=len(self.labels)).astype(np.float64)

    def _between(self, column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
        numbers = pc.fill_null(pc.cast(column, pa.float64()), np.nan).to_numpy()
        at = np.searchsorted(np.asarray(self.edges), numbers, side="right") + 1
        return np.where(np.isnan(numbers), 0, at)

    def _places(self, column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
        """The bin of each category; nothing, "" and -1 are missing."""
        words = pc.fill_null(pc.cast(column, pa.string()), "").combine_chunks().dictionary_encode()
        known = {**{word: at + 1 for at, word in enumerate(self.values)}, "": 0, "-1": 0}
        places = np.array([known.get(word, len(self.labels) - 1) for word in words.dictionary.to_pylist()], np.int64)
        return places[words.indices.to_numpy(zero_copy_only=False)]


def psi(usual: F64, lately: F64) -> float:
    """Population stability index of counts, less what chance alone gives on average ((bins - 1) / n); not below 0."""
    n, m = usual.sum(), lately.sum()
    if n == 0 or m == 0:
        return 0.0
    q, p = (usual + 0.5) / (n + 0.5 * len(usual)), (lately + 0.5) / (m + 0.5 * len(lately))
    used = (usual + lately) > 0
    value = float(((p - q) * np.log(p / q))[used].sum())
    return max(value - (used.sum() - 1) * (1 / m + 1 / n), 0.0)


Hour = tuple[int, dict[str, F64]]  # its start, counts by column; no counts where nothing was logged


def _blocks(hours: Iterator[Hour], rows: float) -> Iterator[list[Hour]]:
    """Runs of hours with at least `rows` rows together."""
    block: list[Hour] = []
    for hour in hours:
        block.append(hour)
        if sum(counts["prediction"].sum() for _, counts in block if counts) >= rows:
            yield block
            block = []


class Shapes:
    """Usual and recent counts of every column."""

    def __init__(self) -> None:
        self._bins: dict[str, Bins] = {}
        self._usual: dict[str, F64] = {}  # [24, bins]
        self._reference: list[Hour] = []
        self._restless: dict[str, float] | None = None  # how far columns move by themselves, psi
        self._hours: deque[Hour] = deque(maxlen=KEPT_HOURS)

    @property
    def ready(self) -> bool:
        """Whether bins have been chosen."""
        return bool(self._bins)

    def learn_bins(self, log: pa.Table, numeric: Sequence[str], categorical: Sequence[str]) -> None:
        """Choose the bins from some usual rows; columns as in a window's log."""
        self._bins["prediction"] = Bins.of_numbers(log["p"].to_numpy())
        for name in numeric:
            if f"f_{name}" in log.column_names:
                column = pc.fill_null(pc.cast(log[f"f_{name}"], pa.float64()), np.nan)
                self._bins[name] = Bins.of_numbers(column.to_numpy())
        for name in categorical:
            if f"f_{name}" in log.column_names:
                self._bins[name] = Bins.of_categories(log[f"f_{name}"].to_pylist())
        self._usual = {name: np.zeros((24, len(bins.labels))) for name, bins in self._bins.items()}

    def learn(self, start_us: int, log: pa.Table) -> None:
        """Count an hour of the reference."""
        counts = self._count(log)
        self._reference.append((start_us, counts))
        for name, of_hour in counts.items():
            self._usual[name][start_us // HOUR_US % 24] += of_hour

    def add(self, start_us: int, log: pa.Table) -> None:
        """Count an hour as it comes."""
        self._hours.append((start_us, self._count(log)))

    def moved(self, rows: float) -> list[tuple[str, float]]:
        """(feature, how far it moved) of the latest hours with at least `rows` rows together, most moved first.

        In units of what it moves by itself: the psi of as many rows of the reference against the rest, on average; or `STILL`
        where that is less."""
        lately = next(_blocks(reversed(self._hours), rows), [])
        if not lately:
            return []
        if self._restless is None:
            self._restless = self._usually(rows)
        found = [(n, psi(*self._both(n, lately)) / max(self._restless[n], STILL)) for n in self._bins]
        return sorted(found, key=lambda item: -item[1])

    def _usually(self, rows: float) -> dict[str, float]:
        blocks = list(_blocks(iter(self._reference), rows))
        return {n: float(np.mean([psi(*self._both(n, b, b)) for b in blocks])) if blocks else 0.0 for n in self._bins}

    def compare(self, name: str, start_us: int, end_us: int) -> Mapping[str, Any] | None:
        """A feature's bins with their usual and recent shares of rows; None for a column that is not one."""
        if name not in self._bins:
            return None
        usual, lately = self._both(name, [hour for hour in self._hours if start_us <= hour[0] < end_us])
        return {
            "labels": list(self._bins[name].labels),
            "usual": (usual / max(usual.sum(), 1)).round(5).tolist(),
            "lately": (lately / max(lately.sum(), 1)).round(5).tolist(),
            "rows": int(lately.sum()),
        }

    def _both(self, name: str, hours: Sequence[Hour], without: Sequence[Hour] = ()) -> tuple[F64, F64]:
        """Usual counts, mixed by hour of day as those of `hours` are, and the counts of `hours`; `without` some of the
        reference's own."""
        lately = np.zeros(len(self._bins[name].labels))
        usual = np.zeros_like(lately)
        for at_us, counts in hours:
            if counts:
                of_day = at_us // HOUR_US % 24
                of_hour = self._usual[name][of_day] - sum(c[name] for at, c in without if c and at == at_us)
                lately += counts[name]
                usual += of_hour * (counts[name].sum() / max(of_hour.sum(), 1))
        days = max(len(self._reference) / 24, 1)  # as many rows as the reference has of these hours
        return usual * days, lately

    def _count(self, log: pa.Table) -> dict[str, F64]:
        if not log.num_rows:
            return {}
        columns = {"prediction": "p"}
        return {name: bins.count(log[columns.get(name, f"f_{name}")]) for name, bins in self._bins.items()}


def _short(number: float) -> str:
    return f"{number:.3g}"
