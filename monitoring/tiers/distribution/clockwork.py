"""Columns that follow the clock: the hour, its sine and cosine, the day of the week, found by looking and then held to.

A column follows the clock when the row's timestamp alone gives its value on (nearly) all rows of the reference: as the hour of
day or day of week shifted by a constant, or as a wave of one day's period.  A broken one pages at a fraction of a percent of
rows, and the shift that explains the broken rows best names the time zone.
"""

import numpy as np
import pyarrow as pa

from infra.clock import DAY_US, HOUR_US
from monitoring.tiers.distribution.parts import Part
from monitoring.tiers.distribution.rows import F64, I64, Array, Bool, Rows

AGREE = 0.999
EPOCH_WEEKDAY = 3  # 1970-01-01 was a Thursday, Monday being 0
SHIFTS = np.arange(-23, 24)  # hours that are tried as an explanation, half hours of waves too


class ClockCounter:
    """Rows of one column that disagree with their timestamp."""

    def __init__(self, subject: str, column: str, family: str, form: str, fit: F64) -> None:
        self.subject, self.column, self.family, self.form, self.fit = subject, column, family, form, fit
        self.parts = [Part(subject, "clock", "disagrees with the row's timestamp", "rare", family, True)]

    @classmethod
    def find(cls, subject: str, column: str, family: str, sample: Rows) -> "ClockCounter | None":
        """A counter if the column follows the clock in `sample`, which must span two days or more."""
        values = _numbers(sample, column)
        time = sample.table["time"].to_numpy()
        known = ~np.isnan(values)
        if known.sum() < 100 or len(np.unique(time // HOUR_US)) < 12:
            return None
        values, time = values[known], time[known]
        for form in ("hour", "weekday", "wave", "by weekday"):
            fit = _fit(form, values, time)
            if fit is not None:
                counter = cls(subject, column, family, form, fit)
                if np.mean(counter.disagrees(values, time)) <= 1 - AGREE:
                    return counter
        return None

    def disagrees(self, values: Array, time: I64, shift_hours: float = 0.0) -> Bool:
        """[n] whether values differ from what the clock, shifted, says; false where null."""
        expected = _expected(self.form, self.fit, time + np.int64(round(shift_hours * HOUR_US)))
        slack = 2e-3 if self.form == "wave" else 1e-6
        return np.asarray(np.abs(values - expected) > slack)

    def count(self, rows: Rows) -> F64:
        """(k, n, q, deff) [1, 4]."""
        broken = self.broken(rows)
        return np.array([(float(np.count_nonzero(broken)), rows.rows, 0.0, 1.0)])

    def broken(self, rows: Rows) -> Bool:
        """[n] rows that disagree."""
        return self.disagrees(_numbers(rows, self.column), rows.table["time"].to_numpy())

    def shift(self, rows: Rows) -> float | None:
        """Hours by which the clock would have to be shifted to explain the broken rows; None where no shift does."""
        broken = self.broken(rows)
        if not broken.any():  # they lie in earlier hours of the stretch that was judged
            return None
        values, time = _numbers(rows, self.column)[broken], rows.table["time"].to_numpy()[broken]
        tried = SHIFTS[np.argsort(np.abs(SHIFTS), kind="stable")]
        left = [float(np.mean(self.disagrees(values, time, hours))) for hours in tried]
        best = int(np.argmin(left))
        return float(tried[best]) if left[best] < 0.2 else None


def _numbers(rows: Rows, column: str) -> Array:
    codes, values = (None, None) if _is_float(rows, column) else rows.codes(column)
    if codes is None or values is None:
        return rows.number(column).astype(np.float64)
    if values.dtype.kind not in "iuf":
        return np.full(rows.rows, np.nan)
    return np.append(values.astype(np.float64), np.nan)[codes]


def _is_float(rows: Rows, column: str) -> bool:
    return bool(pa.types.is_floating(rows.table[column].type))


def _fit(form: str, values: Array, time: I64) -> F64 | None:
    if form == "wave":
        angle = 2 * np.pi * (time % DAY_US) / DAY_US
        design = np.stack([np.ones(len(time)), np.sin(angle), np.cos(angle)], axis=1)
        found = np.linalg.lstsq(design, values, rcond=None)[0]
        return np.asarray(found) if np.hypot(found[1], found[2]) > 0.05 else None
    if form == "by weekday":  # a flag such as the weekend's: its value by day of the week
        day = (time // DAY_US + EPOCH_WEEKDAY) % 7
        if len(np.unique(day)) < 2 or len(np.unique(values)) < 2:
            return None
        return np.array([np.median(values[day == d]) if (day == d).any() else np.nan for d in range(7)])
    if not np.all(values == np.rint(values)):
        return None
    period = 24 if form == "hour" else 7
    if values.min() < 0 or values.max() > period or len(np.unique(values)) < 2:
        return None
    clock = time // HOUR_US if form == "hour" else time // DAY_US + EPOCH_WEEKDAY
    offset = np.bincount(((values - clock) % period).astype(np.int64), minlength=period).argmax()
    return np.array([float(offset), float(values.max() == period)])


def _expected(form: str, fit: F64, time: I64) -> F64:
    if form == "wave":
        angle = 2 * np.pi * (time % DAY_US) / DAY_US
        return np.asarray(fit[0] + fit[1] * np.sin(angle) + fit[2] * np.cos(angle))
    if form == "by weekday":
        return np.asarray(fit[(time // DAY_US + EPOCH_WEEKDAY) % 7])
    period = 24 if form == "hour" else 7
    clock = time // HOUR_US if form == "hour" else time // DAY_US + EPOCH_WEEKDAY
    value = (clock + int(fit[0])) % period
    return np.where((value == 0) & (fit[1] > 0), period, value).astype(np.float64)
