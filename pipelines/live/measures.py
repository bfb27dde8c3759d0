"""The page's figures of each hour: traffic, click rate, calibration, normalised entropy, feature age, arms, models, what moved.

Made from the same windows that the monitors are handed, so the page knows no more than they do.  Clicks that are still to come
are allowed for by F, the share of clicks that have arrived by an age, learned from the reference.  Pure; used by
`pipelines.live.room`.
"""

from collections import deque
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from infra.clock import DAY_US, HOUR_US
from monitoring.window import LogColumns, Window
from pipelines.live.shapes import KEPT_HOURS, Shapes

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

CLICKS_A_POINT = 40  # expected clicks behind a point of the click-rate and calibration charts: their error is then some 16%
ROWS_A_PICTURE = 800  # rows behind "what moved": with ten bins, chance alone moves psi by 0.01
BINS_FROM = 48  # hours of the reference that choose the bins
KEPT_US = 3 * DAY_US
USUAL_ROWS_AN_HOUR = 40


class Delays:
    """F(age): the share of clicks that have arrived by an age."""

    def __init__(self) -> None:
        self._delays: list[I64] = []
        self._grid: tuple[F64, F64] | None = None

    def learn(self, clicks: pa.Table) -> None:
        """Take in the delays of an hour's clicks."""
        self._delays.append(clicks["arrived_at"].to_numpy() - clicks["time"].to_numpy())

    def arrived(self, age_us: npt.NDArray[Any]) -> F64:
        """F at ages [n]; 0 before the impression."""
        if self._grid is None:
            delays = np.sort(np.concatenate(self._delays)) if self._delays else np.zeros(1)
            share = np.linspace(0, 1, 400)
            self._grid = np.quantile(delays, share), share
        return np.interp(age_us, *self._grid, left=0.0, right=1.0)


class Measures:
    """Figures of the last hours, and pictures of features."""

    def __init__(self, columns: LogColumns) -> None:
        self._columns = columns
        self._delays = Delays()
        self.shapes = Shapes()
        self._first: list[Window] = []  # hours of the reference, until they are enough to choose bins from
        self._rows: deque[tuple[int, I64, F64, I64]] = deque()  # hour's end, time_us, p, id of shown ads
        self._clicked: deque[tuple[int, I64]] = deque()  # hour's end, ids of clicked ads
        self._usual: list[pa.Table] = []  # a sample of the reference
        self._reference = np.zeros(2)  # clicks, expected clicks of the reference
        self.hours: deque[dict[str, Any]] = deque(maxlen=KEPT_HOURS)

    # -- the reference -----------------------------------------------------------------------------------------------

    def learn(self, window: Window) -> None:
        """Take in an hour of the reference."""
        assert window.clicks is not None
        self._delays.learn(window.clicks)
        self._remember(window)
        self._usual.append(window.log.slice(0, USUAL_ROWS_AN_HOUR))
        if self.shapes.ready:
            self.shapes.learn(window.start_us, window.log)
            return
        self._first.append(window)
        if len(self._first) == BINS_FROM:
            self._choose_bins()

    def _choose_bins(self) -> None:
        logs = pa.concat_tables([window.log for window in self._first], promote_options="default")
        named = [name for name in self._columns.categorical if name not in self._columns.ids]
        self.shapes.learn_bins(logs, self._columns.numeric, named)
        for window in self._first:
            self.shapes.learn(window.start_us, window.log)
        self._first.clear()

    def ready(self) -> None:
        """The reference is over: what calibration usually is, from its last days."""
        if self._first:
            self._choose_bins()
        ends = sorted(end for end, *_ in self._rows)[24:]
        clicks = {end: len(ids) for end, ids in self._clicked}
        self._reference = np.array([sum(clicks.get(end, 0) for end in ends), sum(self._expected(end) for end in ends)])

    @property
    def usual_rows(self) -> pa.Table:
        """Some rows of every hour of the reference."""
        return pa.concat_tables(self._usual, promote_options="default")

    @property
    def usual_ratio(self) -> float:
        """Clicks over expected clicks in the reference: what a model's calibration is before anything breaks."""
        return float(self._reference[0] / self._reference[1]) if self._reference[1] > 0 else 1.0

    # -- as it runs --------------------------------------------------------------------------------------------------

    def add(self, window: Window) -> dict[str, Any]:
        """Take in an hour; its figures, which `hours` keeps."""
        assert window.clicks is not None
        self._remember(window)
        self.shapes.add(window.start_us, window.log)
        books = {(row["stream"], row["stage"]): row["rows"] for row in (window.books.to_pylist() if window.books else [])}
        expected = self._expected(window.end_us)
        hour: dict[str, Any] = {
            "start_us": window.start_us,
            "requests": len(pc.unique(window.log["request"])),
            "impressions": window.log.num_rows,
            "landed": books.get(("impressions", "landed"), 0),
            "clicks": window.clicks.num_rows,
            "accepted_clicks": books.get(("clicks", "accepted"), 0),
            "expected": round(expected, 3),
            "duplicates": sum(rows for (_, stage), rows in books.items() if stage == "duplicates"),
            "refused": sum(rows for (_, stage), rows in books.items() if stage == "quarantined"),
            "waiting": books.get(("clicks", "pending"), 0),
            "ne": self._ne(window.end_us),
            "p": _mean(window.log["p"]),
            "fallback": float(np.mean(window.log["fallback_mask"].to_numpy() != 0)) if window.log.num_rows else None,
            "arms": _shares(window.log["arm"]),
            "models": _shares(window.log["model"]),
            "randomised": _mean(window.log["randomised"].cast(pa.int8())),
            "ages": {name[4:]: _mean(window.log[name]) for name in window.log.column_names if name.startswith("age_")},
        }
        self.hours.append(hour)
        self._smooth(hour)
        return hour

    def _smooth(self, hour: dict[str, Any]) -> None:
        """Click rate and calibration over as many hours back as give enough expected clicks for a point."""
        clicks = expected = impressions = 0.0
        span = 0
        for past in reversed(self.hours):
            clicks, expected, impressions = (
                clicks + past["clicks"],
                expected + past["expected"],
                impressions + past["impressions"],
            )
            span += 1
            if expected >= CLICKS_A_POINT:
                break
        usual = self.usual_ratio
        hour["span"] = span
        hour["ctr"] = clicks / impressions if impressions else None
        hour["ratio"] = clicks / expected if expected > 0 else None
        # Two standard deviations of a count with the reference's mean: what chance leaves.
        hour["band"] = 2 * float(np.sqrt(usual / expected)) if expected > 0 else None

    def _remember(self, window: Window) -> None:
        log = window.log
        self._rows.append((window.end_us, log["time"].to_numpy(), log["p"].to_numpy(), log["id"].to_numpy()))
        assert window.clicks is not None
        self._clicked.append((window.end_us, window.clicks["id"].to_numpy()))
        while self._rows[0][0] < window.end_us - KEPT_US:
            self._rows.popleft()
            self._clicked.popleft()

    def _expected(self, end_us: int) -> float:
        """Clicks that should arrive in the hour that ends then: sum of p (F(age at its end) - F(age at its start))."""
        parts = [(time_us, p) for end, time_us, p, _ in self._rows if end <= end_us]
        if not parts:
            return 0.0
        time_us, p = np.concatenate([t for t, _ in parts]), np.concatenate([q for _, q in parts])
        gone = self._delays.arrived(end_us - time_us) - self._delays.arrived(end_us - HOUR_US - time_us)
        return float((p * gone).sum())

    def _ne(self, end_us: int) -> float | None:
        """Normalised entropy of the last day's impressions: log loss over that of the base rate, labels as they stand, each
        probability times the chance that its click would be here by now."""
        rows = [row for row in self._rows if row[0] > end_us - DAY_US]
        time_us, p, ids = (np.concatenate([row[i] for row in rows]) for i in (1, 2, 3))
        clicked = np.concatenate([ids for end, ids in self._clicked if end > end_us - DAY_US] or [ids[:0]])
        y = np.isin(ids, clicked)
        if not 0 < y.sum() < len(y):
            return None
        here = self._delays.arrived(end_us - time_us)
        rate = float(y.sum() / max(here.sum(), 1e-9))
        return float(_log_loss(y, p * here) / _log_loss(y, rate * here))


def _log_loss(y: npt.NDArray[np.bool_], p: F64) -> float:
    p = np.clip(p, 1e-7, 1 - 1e-7)
    return float(-np.where(y, np.log(p), np.log1p(-p)).mean())


def _mean(column: pa.ChunkedArray) -> float | None:
    values = pc.fill_null(pc.cast(column, pa.float64()), np.nan).to_numpy()
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None


def _shares(column: pa.ChunkedArray) -> dict[str, float]:
    counted = pc.value_counts(column.combine_chunks()).to_pylist()
    total = sum(row["counts"] for row in counted) or 1
    return {str(row["values"]): row["counts"] / total for row in counted}
