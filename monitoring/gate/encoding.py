"""The out-of-fold check: does a column hold, for each user or ad or other key, a statistic of the very rows it stands in?

A target encoding made without folds gives one value to keys that were clicked equally often *in this set*, luck included.
Among keys that an honest column holds alike, clicks vary at least as much as luck makes them (binomially); among keys that such
an encoding holds alike they hardly vary.  So too little variance is a sign, and neither history nor a store is needed: an
index-of-dispersion test (Fisher 1925) from below.  Sharper where they apply: keys with equally many rows and clicks get
exactly the same value, or a key's value follows its smoothed rate more closely than luck lets an honest one.

Pure; called by `monitoring.gate.audit`.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from scipy import stats

from models.contract import Dataset
from monitoring.findings import Finding
from monitoring.gate.columns import F64, I64, Array, Bool, codes, concatenate, crossed, keys, scalar
from monitoring.gate.signs import sign

CLICKS_A_BIN = 12  # of a bin of like values, at least
MOST_BINS = 40
LEAST_CELLS = 12  # (key, value) pairs with at least two rows
TOO_EVEN = 0.75  # share of the binomial variance that honest cells always have
LOG10_P = -6.0  # for one column and key of one part; a set has at most some hundred of them


SAME = 0.9  # share of neighbours with like counts, of different keys, that hold one value
MOST_ALIKE = 0.5  # chance that two rows hold one value, above which this says nothing
LEAST_PAIRS = 8
LOOKED_AT = 3000  # rows of a column
FOLLOWS = 0.98  # correlation with the smoothed rate; an honest value's is at most sqrt(1 - LUCK), about 0.92
LUCK = 0.15  # share of the rates' variance that must be binomial
WITHIN = 0.01  # share of a value's variance that may lie within keys
LEAST_KEYS = 20
STRENGTHS = (0.0, 1.0, 5.0, 10.0, 20.0, 50.0, 100.0)  # of smoothing, in rows


@dataclass(frozen=True, slots=True)
class Evenness:
    """How much clicks vary among cells of like value, as a share of what luck alone gives, and how sure that is."""

    share: float
    log10_p: float
    cells: int


def own_labels(parts: Mapping[str, Dataset], suspects: Collection[str]) -> list[Finding]:
    """Columns among `suspects` that know their own rows' labels through some key, in any part."""
    worst: dict[str, tuple[float, Finding]] = {}
    found_exact = _exact(parts, suspects)
    suspects = [name for name in suspects if name not in found_exact]
    for part, data in parts.items():
        label = data.label.astype(bool)
        if label.sum() < CLICKS_A_BIN * 3:
            continue
        grouped = keys(data)
        for name in suspects:
            values = scalar(data).get(name)
            if values is None:
                continue
            value = codes(values)
            if not 3 <= int(value.max()) + 1 <= 0.9 * len(value):
                continue
            for key, key_codes in grouped.items():
                if key == name:
                    continue
                found = evenness(key_codes, value, label)
                if found is None or found.share > TOO_EVEN or found.log10_p > LOG10_P:
                    continue
                evidence = {"key": key, "part": part, "variance_share": found.share, "limit": TOO_EVEN, "cells": found.cells,
                            "log10_p": found.log10_p, "limit_log10_p": LOG10_P}  # fmt: skip
                finding = sign("out-of-fold", "own-label", name, found.log10_p / LOG10_P, evidence)
                if name not in worst or found.log10_p < worst[name][0]:
                    worst[name] = (found.log10_p, finding)
    return [*found_exact.values(), *(finding for _, finding in worst.values())]


def _exact(parts: Mapping[str, Dataset], suspects: Collection[str]) -> dict[str, Finding]:
    """Suspects that some key's counts of rows and clicks decide on."""
    found: dict[str, Finding] = {}
    if not suspects:
        return found
    whole = concatenate(list(parts.values()))
    part = np.repeat(np.arange(len(parts)), [len(data) for data in parts.values()])
    step = max(len(whole) // LOOKED_AT, 1)
    rows = np.arange(0, len(whole), step)
    grouped = crossed(keys(whole))
    label = whole.label.astype(bool)
    for name in suspects:
        values = scalar(whole).get(name)
        if values is None or values.dtype.kind != "f":
            continue
        key, share = label_statistic(values[rows], rows, grouped, label, part)
        if key:
            evidence = {"key": key, "same_value": share, "limit": SAME}
            found[name] = sign("out-of-fold", "own-label", name, share / SAME, evidence, None)
    return found


def label_statistic(value: Array, rows: I64, grouped: Mapping[str, I64], label: Bool, part: I64) -> tuple[str, float]:
    """The key (and the rows it was counted over) whose counts of rows and clicks decide on the values [k] of some `rows`, and
    how surely: the share of neighbours with the same counts but different keys that hold one value, or the correlation of a
    key's value with its smoothed rate.  ("", 0.0) where none does.

    `grouped` (codes), `label` and `part` are of all n rows.  Pairs count where there was a click: rows alone are no label.
    """
    value_code = codes(value)
    share = np.bincount(value_code) / max(len(value_code), 1)
    best = ("", 0.0)
    if len(value_code) < LEAST_PAIRS or float(share @ share) > MOST_ALIKE:
        return best
    everything, first = np.ones(len(part), np.bool_), part == 0
    everywhere, early = np.ones(len(rows), np.bool_), part[rows] == 0  # a statistic of each part for itself shows in the first
    numbers = value.astype(np.float64) if value.dtype.kind == "f" else None
    for key, single in grouped.items():
        for over, among, of_rows in (
            ("all rows", everything, everywhere),
            ("training", first, everywhere),
            ("its part", first, early),
        ):
            size = int(single.max()) + 1
            shown = np.bincount(single[among], minlength=size)
            clicked: F64 = np.bincount(single[among], label[among], size).astype(np.float64)
            mine, code, number = single[rows[of_rows]], value_code[of_rows], numbers[of_rows] if numbers is not None else None
            counts = clicked[mine].astype(np.int64) * (int(shown.max()) + 1) + shown[mine]
            order = np.lexsort((mine, counts))
            c, k, v = counts[order], mine[order], code[order]
            pair = (c[1:] == c[:-1]) & (k[1:] != k[:-1]) & (clicked[k[1:]] > 0)
            followed = _follows(number, mine, shown, clicked) if number is not None else 0.0
            if followed >= FOLLOWS:
                best = max(best, (f"{key}, {over}", followed), key=lambda found: found[1])
            if pair.sum() >= LEAST_PAIRS:
                best = max(best, (f"{key}, {over}", float((v[1:] == v[:-1])[pair].mean())), key=lambda found: found[1])
    return best if best[1] >= SAME else ("", 0.0)


def _follows(value: F64, mine: I64, shown: I64, clicked: F64) -> float:
    """Correlation, over keys, of a value that is (nearly) constant for a key with the key's click rate, smoothed as suits best;
    0 where values vary within keys, or where luck has so little part in the rates that an honest value could follow them."""
    known = np.isfinite(value)
    size = len(shown)
    rows = np.bincount(mine[known], minlength=size)
    kept = (rows > 0) & (shown >= 3)
    if kept.sum() < LEAST_KEYS:
        return 0.0
    centred = value[known] - value[known].mean()
    mean = np.bincount(mine[known], centred, size) / np.maximum(rows, 1)
    within = float(np.square(centred - mean[mine[known]]).sum())
    total = float(np.square(centred).sum())
    if total <= 0 or within > WITHIN * total or (rows > 1).sum() < LEAST_KEYS:
        return 0.0
    n, c, v = shown[kept].astype(np.float64), clicked[kept], mean[kept]
    prior = float(clicked.sum() / shown.sum())
    best = 0.0
    for strength in STRENGTHS:
        rate = (c + strength * prior) / (n + strength)
        luck = float((n * prior * (1 - prior) / np.square(n + strength)).mean())
        if rate.std() > 0 and v.std() > 0 and luck > LUCK * rate.var():
            best = max(best, float(np.corrcoef(rate, v)[0, 1]))
    return best


def evenness(key: I64, value: I64, label: Bool) -> Evenness | None:
    """Of cells (rows [n] with one key and one value), ordered by value and put into bins of like value: the sum of squares of
    a cell's clicks around what its bin's rate gives, over its binomial expectation.  None where too few cells say anything.

    Its variance is the binomial's fourth moment; the lower tail is compared with a gamma of the same mean and variance.
    """
    cell, place = np.unique(value * (int(key.max()) + 1) + key, return_inverse=True)
    rows: F64 = np.bincount(place, minlength=len(cell)).astype(np.float64)
    clicks: F64 = np.bincount(place, label, minlength=len(cell)).astype(np.float64)
    kept = rows >= 2
    rows, clicks = rows[kept], clicks[kept]
    if len(rows) < LEAST_CELLS or clicks.sum() < 2 * CLICKS_A_BIN:
        return None
    bins = int(min(MOST_BINS, clicks.sum() // CLICKS_A_BIN, len(rows) // 3))
    # Half by clicks, half by cells: most clicks of an encoding stand in a few cells at its upper end.
    weight = clicks + clicks.mean()
    reached = (np.cumsum(weight) - weight / 2) / weight.sum()
    return _even(rows, clicks, np.minimum((reached * bins).astype(np.int64), bins - 1))


def _even(rows: F64, clicks: F64, bin_of: I64) -> Evenness | None:
    size = int(bin_of.max()) + 1
    shown, hit, cells = np.bincount(bin_of, rows, size), np.bincount(bin_of, clicks, size), np.bincount(bin_of, minlength=size)
    p = (hit / np.maximum(shown, 1))[bin_of]
    # A bin's own rate is fitted to its cells: of k cells, k - 1 vary freely.
    free = ((cells - 1) / np.maximum(cells, 1))[bin_of]
    usual = rows * p * (1 - p)
    spread = usual * (1 + 3 * (rows - 2) * p * (1 - p)) - np.square(usual)
    expected, variance = float((usual * free).sum()), float((np.maximum(spread, 0) * free).sum())
    if expected <= 0 or variance <= 0:
        return None
    total = float(np.square(clicks - rows * p).sum())
    log_p = float(stats.gamma.logcdf(total, expected**2 / variance, scale=variance / expected)) / np.log(10)
    return Evenness(total / expected, max(log_p, -300.0), len(rows))
