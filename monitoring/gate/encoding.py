"""The out-of-fold check: does a column hold, for each user or ad or other key, a statistic of the very rows it stands in?

A target encoding made without folds gives one value to keys that were clicked equally often *in this set*, luck included.
Among keys that an honest column holds alike, clicks vary at least as much as luck makes them (binomially); among keys that such
an encoding holds alike they hardly vary.  So too little variance is the sign, and neither history nor a store is needed: an
index-of-dispersion test (Fisher 1925) from below.  Pure; called by `monitoring.gate.audit`.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from scipy import stats

from models.contract import Dataset
from monitoring.findings import Finding
from monitoring.gate.columns import F64, I64, Bool, codes, keys, scalar
from monitoring.gate.signs import sign

CLICKS_A_BIN = 12  # of a bin of like values, at least
MOST_BINS = 40
LEAST_CELLS = 12  # (key, value) pairs with at least two rows
TOO_EVEN = 0.75  # share of the binomial variance that honest cells always have
LOG10_P = -6.0  # for one column and key of one part; a set has at most some hundred of them


@dataclass(frozen=True, slots=True)
class Evenness:
    """How much clicks vary among cells of like value, as a share of what luck alone gives, and how sure that is."""

    share: float
    log10_p: float
    cells: int


def own_labels(parts: Mapping[str, Dataset], suspects: Collection[str]) -> list[Finding]:
    """Columns among `suspects` that know their own rows' labels through some key, in any part."""
    worst: dict[str, tuple[float, Finding]] = {}
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
    return [finding for _, finding in worst.values()]


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
