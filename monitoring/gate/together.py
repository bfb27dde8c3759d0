"""What columns say about clicks together, in a linear model: how strong the vouched ones are, and what a new one adds to them.

A new honest column overlaps with what is known already; a noisy copy of the label does not, and adds nearly all it has.  Pure;
called by `monitoring.gate.audit` and by the search for copies.
"""

from collections.abc import Collection, Sequence

import numpy as np

from models.contract import Dataset
from monitoring.findings import Finding
from monitoring.gate.auc import auc, placements
from monitoring.gate.columns import F64, Array, scalar
from monitoring.gate.signs import sign

# AUC that one new column may add to all vouched ones.  Whole new families of features are published for gains of 0.001 to 0.01
# (BARS: Zhu et al. 2022); a column that adds more by itself wants a person to look at it.
HONEST_GAIN = 0.025
ERRORS = 2.5  # standard errors that the gain must be above it


def standardised(columns: Sequence[Array]) -> F64:
    """Columns [n] as a matrix [n, k] of mean 0 and variance 1, what is not known at the mean."""
    table = np.stack([np.asarray(column, np.float64) for column in columns], axis=1)
    table[~np.isfinite(table)] = np.nan
    known = np.isfinite(table)
    count = np.maximum(known.sum(axis=0), 1)
    mean = np.where(known, table, 0.0).sum(axis=0) / count
    table = np.where(known, table - mean, 0.0)
    scale = np.sqrt(np.square(table).mean(axis=0))
    return np.asarray(table / np.where(scale > 0, scale, 1.0), np.float64)


def fit(table: F64, y: Array) -> tuple[F64, float]:
    """Least-squares weights of the columns, a trace of ridge, and the share of y's variance that they explain."""
    gram = table.T @ table + 1e-6 * len(table) * np.eye(table.shape[1])
    weights = np.linalg.solve(gram, table.T @ y)
    left = y - table @ weights
    return np.asarray(weights, np.float64), float(1 - left @ left / max(float(y @ y), 1e-12))


def auc_together(data: Dataset, columns: Collection[str], train_rows: int) -> float:
    """AUC on the rows from `train_rows` on of a linear model of `columns` fitted on those before; half where it cannot be."""
    names = [name for name, values in scalar(data).items() if name in columns and values.dtype.kind == "f"]
    label = data.label.astype(bool)
    if len(names) < 2 or min(label[:train_rows].sum(), label[train_rows:].sum()) < 20:
        return 0.5
    table = standardised([data.columns[name] for name in names])
    weights, _ = fit(table[:train_rows], label[:train_rows] - label[:train_rows].mean())
    area = auc(table[train_rows:] @ weights, label[train_rows:])[0]
    return float(max(area, 0.5))


def gains(data: Dataset, vouched: Collection[str], suspects: Collection[str]) -> list[Finding]:
    """Suspects that add more AUC to a linear model of the vouched columns than a single honest column does.

    On all rows at once: one more weight hardly flatters.  The difference of two AUCs on the same rows has DeLong's variance.
    """
    known = [name for name, values in scalar(data).items() if name in vouched and values.dtype.kind == "f"]
    mine = [name for name in suspects if data.columns[name].dtype.kind == "f" and data.columns[name].ndim == 1]
    label = data.label.astype(bool)
    if len(known) < 5 or min(label.sum(), (~label).sum()) < 50 or not mine:
        return []
    table = standardised([data.columns[name] for name in known])
    y = label - label.mean()
    before = table @ fit(table, y)[0]
    found = []
    for name in mine:
        values = data.columns[name].astype(np.float64)
        extra = standardised([values, np.isnan(values).astype(np.float64)])
        wider = np.concatenate([table, extra], axis=1)
        gain, error = auc_difference(wider @ fit(wider, y)[0], before, label)
        limit = HONEST_GAIN + ERRORS * error
        if gain > limit:
            evidence = {"gain": gain, "error": error, "limit": limit, "vouched_auc": float(auc(before, label)[0])}
            found.append(sign("auc-gain", "auc-gain", name, gain / limit, evidence))
    return found


def auc_difference(one: Array, other: Array, label: Array) -> tuple[float, float]:
    """AUC of one score minus that of another on the same rows, and its standard error (DeLong et al. 1988)."""
    above, below = (a - b for a, b in zip(placements(one, label), placements(other, label), strict=True))
    return float(above.mean()), float(np.sqrt(above.var(ddof=1) / len(above) + below.var(ddof=1) / len(below)))
