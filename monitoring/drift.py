"""The distribution monitor: does a day's mix of values differ from what the days before it lead one to expect?

Every column of a day becomes a few daily numbers (shares of bins or categories, share of nulls and of zeros, mean log);
each number is compared with its one-step forecast, on a scale learned from days (`monitoring.spread`); one budget of false
alarms covers all of them. Pure: columns in, findings out.  Called by `monitoring.daily`, which reads the tables.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from monitoring.findings import Finding
from monitoring.spread import FIRST, surprise, two_sided_log10_p

Array = npt.NDArray[Any]
F64 = npt.NDArray[np.float64]

BINS = 10
TOP = 24  # categories with a share of their own; the rest are summed
LEAST_DAYS = FIRST + 2  # days of reference below which the monitor stays silent and says so
# Budgets: the distribution tier's share (20%) of one page in 30 clean days is 1/150; a sixth is kept back because nulls
# are estimated.
PAGE = 1 / 180
NOTICE = 1 / 30
# One new ad whose profile is late gives a few rows of nulls where there never were any.  Changes of less than half a percent
# of rows are left to replay and the exact checks, which see them row by row.
LEAST_MOVE = 0.005


@dataclass(frozen=True, slots=True)
class Column:
    """A monitored column; columns of one family share their day-to-day spread."""

    name: str
    kind: Literal["numeric", "categorical"]
    family: str
    units: str | None = None  # column of the things that come and go as one, where they are few: campaigns decide on categories


@dataclass(frozen=True, slots=True)
class Bins:
    """How a column is cut: interior edges for numbers, the commonest values for categories."""

    column: Column
    cuts: Array

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the daily numbers."""
        if self.column.kind == "categorical":
            return (*(f"share of {value}" for value in self.cuts.tolist()), "share of other values", "share of nulls")
        edges = [f"{edge:.4g}" for edge in self.cuts.tolist()]
        spans = [f"share of {low} to {high}" for low, high in zip(["-inf", *edges], [*edges, "inf"], strict=True)]
        return (*spans, "share of nulls", "share of zeros", "mean log")


@dataclass(frozen=True, slots=True)
class Summary:
    """One day of all columns as numbers on a scale where luck is roughly normal: value and sampling variance [m] each."""

    day: str
    rows: int
    value: F64
    variance: F64


def cut(column: Column, values: Array) -> Bins:
    """Bins of a column from its values on the reference days."""
    if column.kind == "numeric":
        finite = np.asarray(values, dtype=np.float64)
        finite = finite[np.isfinite(finite)]
        edges = np.quantile(finite, np.arange(1, BINS) / BINS, method="higher") if len(finite) else np.zeros(0)
        return Bins(column, np.unique(edges))
    known = values[~_null(values)]
    names, counts = np.unique(known, return_counts=True)
    return Bins(column, np.sort(names[np.argsort(-counts, kind="stable")[:TOP]]))


def _null(values: Array) -> npt.NDArray[np.bool_]:
    if values.dtype.kind == "f":
        return ~np.isfinite(values)
    return values == "" if values.dtype.kind in "UT" else values < 0


def _numbers(bins: Bins, values: Array, independent: float) -> tuple[F64, F64]:
    """Daily numbers of one column, and their variance if it had so many independent rows: shares as asin(sqrt(share)), whose
    variance is 1 / 4n whatever the share; the mean log as it is.
    """
    rows = max(len(values), 1)
    null = _null(values)
    known = values[~null]
    if bins.column.kind == "categorical":
        place = np.searchsorted(bins.cuts, known)
        hit = bins.cuts[np.minimum(place, len(bins.cuts) - 1)] == known if len(bins.cuts) else np.zeros(len(known), bool)
        counts = np.bincount(np.where(hit, place, len(bins.cuts)), minlength=len(bins.cuts) + 1)
        shares = np.append(counts, null.sum()) / rows
        return np.arcsin(np.sqrt(shares)), np.full(len(shares), 0.25 / independent)
    known = known.astype(np.float64)
    counts = np.bincount(np.searchsorted(bins.cuts, known, side="right"), minlength=len(bins.cuts) + 1)
    shares = np.append(counts, (null.sum(), (known == 0).sum())) / rows
    logs = np.sign(known) * np.log1p(np.abs(known))
    few = len(known) < 2
    value = np.append(np.arcsin(np.sqrt(shares)), 0.0 if few else logs.mean())
    of_mean = 1.0 if few else logs.var() / min(len(known), independent) + 1e-12
    variance = np.append(np.full(len(shares), 0.25 / independent), of_mean)
    return value, variance


def summarise(day: str, bins: Sequence[Bins], columns: Mapping[str, Array]) -> Summary:
    """The daily numbers of every column, in the order of `bins`."""
    numbers = [_numbers(b, columns[b.column.name], _independent(columns, b.column)) for b in bins]
    rows = len(columns[bins[0].column.name])
    return Summary(day, rows, np.concatenate([n[0] for n in numbers]), np.concatenate([n[1] for n in numbers]))


def _independent(columns: Mapping[str, Array], column: Column) -> float:
    """How many independent rows a column is worth: its rows, or its units' effective number, (sum n)^2 / sum n^2 (Kish)."""
    if column.units is None:
        return float(max(len(columns[column.name]), 1))
    counts = np.unique(columns[column.units], return_counts=True)[1].astype(np.float64)
    return float(max(counts.sum(), 1.0) ** 2 / max(np.square(counts).sum(), 1.0))


def _plain(part: str, value: float) -> float:
    return float(value) if part == "mean log" else float(np.sin(np.clip(value, 0, np.pi / 2)) ** 2)


def drift(bins: Sequence[Bins], reference: Sequence[Summary], day: Summary, page: float = PAGE) -> list[Finding]:
    """Columns whose distribution on `day` differs from what the `reference` days (in order, all before it) lead to expect.

    At most one finding a column, its most surprising number, worst first.  `page` is the probability that a clean day
    pages, shared by all numbers of all columns (Bonferroni).  A weekend never pages before one has been seen, nor does
    the first weekday.
    """
    if len(reference) < LEAST_DAYS:
        raise ValueError(f"{len(reference)} reference days are too few: the spread between days needs {LEAST_DAYS}")
    every = [*reference, day]
    values, variance = np.stack([s.value for s in every]), np.stack([s.variance for s in every])
    weekend = np.array([date.fromisoformat(s.day).weekday() >= 5 for s in every])
    comparable = int((weekend[:-1] == weekend[-1]).sum()) >= 2
    owner = np.concatenate([np.full(len(b.parts), i) for i, b in enumerate(bins)])
    parts = [part for b in bins for part in b.parts]
    families = np.array([bins[i].column.family for i in owner])
    log_p, t, kinds = np.zeros(len(parts)), np.zeros(len(parts)), [""] * len(parts)
    for family in np.unique(families):
        chosen = np.flatnonzero(families == family)
        t[chosen], freedom, found = surprise(values[:, chosen], variance[:, chosen], weekend, owner[chosen])
        log_p[chosen] = two_sided_log10_p(t[chosen], freedom)
        for part, kind in zip(chosen, found, strict=True):
            kinds[part] = kind
    usual = np.median(values[:-1][-14:], axis=0)
    is_share = np.array([part != "mean log" for part in parts])
    moved = np.abs(np.sin(values[-1]) ** 2 - np.sin(usual) ** 2)
    log_p[is_share & (moved < LEAST_MOVE)] = 0.0
    limit = float(np.log10(page / len(parts)))
    notice_limit = float(np.log10(NOTICE / len(parts)))
    findings = []
    for i, cuts in enumerate(bins):
        mine = np.flatnonzero(owner == i)
        worst = int(mine[np.argmin(log_p[mine])])
        if log_p[worst] > notice_limit:
            continue
        pages = bool(log_p[worst] <= limit) and comparable
        findings.append(
            Finding(
                check="distribution",
                bug_class="feature-drift",
                subject=cuts.column.name,
                severity="page" if pages else "notice",
                evidence={
                    "number": parts[worst],
                    "usual": _plain(parts[worst], usual[worst]),
                    "day": _plain(parts[worst], values[-1, worst]),
                    "t": float(t[worst]),
                    "log10_p": float(log_p[worst]),
                    "limit_log10_p": limit,
                    "forecast": kinds[worst],
                    "reference_days": len(reference),
                    "rows": day.rows,
                },
                since=day.day,
                excess=float(log_p[worst] / limit),
            )
        )
    return sorted(findings, key=lambda finding: -finding.excess)
