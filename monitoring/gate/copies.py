"""The target in disguise: a column whose order gives clicks away, a region of a column where everybody clicked, columns that
add up to the target.  Pure; called by `monitoring.gate.audit`.

The opening story of docs/leakage.md is caught here.
"""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from scipy import stats

from features.ids import uniform
from models.contract import Dataset
from monitoring.findings import Finding
from monitoring.gate.auc import auc, click_rates
from monitoring.gate.columns import F64, I64, Array, Bool, codes, scalar
from monitoring.gate.signs import sign
from monitoring.gate.together import fit, standardised

COPY_AUC = 0.99  # a column that orders clicks this well is the target in disguise
# A region of an honest column is clicked at most this many times as often as all rows (the highest found in worlds of two sizes
# were 4.6 times), and never by more than half of those who see it.
HONEST_LIFT, HONEST_RATE = 8.0, 0.5
NEVER_LIFT = 0.25  # and at least a quarter as often
REGIONS = 30  # looked at in a column
BUDGET = 1e-4  # probability that some region of an honest set goes beyond these limits
EXPLAINED = 0.3  # share of the label's variance that honest columns never explain in a linear model (here about 0.05)
ROWS = 6000  # of each class, looked at
FEW = 128  # of each class, for a first look at pairs
EXACT = 1e-4
SHARED = 0.04  # share of clicked rows that a pair must reproduce to be looked at in full
SALT = 0x434F5059


def sample(data: Dataset, most: int = ROWS) -> I64:
    """Indexes of up to `most` clicked rows and as many not clicked, ascending, by hashed id."""
    luck = uniform(data.row_id, SALT)
    chosen = []
    for clicked in (1, 0):
        rows = np.flatnonzero(data.label == clicked)
        chosen.append(rows if len(rows) <= most else rows[np.argpartition(luck[rows], most)[:most]])
    return np.sort(np.concatenate(chosen))


def target_copies(data: Dataset, suspects: Collection[str]) -> list[Finding]:
    """Columns among `suspects` that are the target in disguise: alone, in a region of their values, or added to another."""
    label = data.label.astype(bool)
    if label.sum() < 2 or (~label).sum() < 2 or not suspects:
        return []
    found = []
    numeric: dict[str, F64] = {}
    rows = sample(data)
    limit = float(np.log10(BUDGET / (REGIONS * len(suspects))))
    for name, values in scalar(data).items():
        if values.dtype.kind == "f":
            numeric[name] = values.astype(np.float64)
        if name not in suspects:
            continue
        if values.dtype.kind != "f" and len(np.unique(values[rows])) > len(rows) // 4:
            continue  # an identifier: it cannot say anything about rows it has not seen
        copy = _copy(name, values[rows], label[rows], data.row_id[rows])
        found += [copy] if copy else _regions(name, values, label, limit)
    told = {finding.subject for finding in found if finding.symptom == "target-copy"}  # added to anything it stays a copy
    rest = {name: values for name, values in numeric.items() if name not in told}
    return found + _sums(rest, label, rows, [name for name in suspects if name not in told], limit)


def _copy(name: str, values: Array, label: Bool, row_id: I64) -> Finding | None:
    """A column that orders clicks (nearly) perfectly, with nulls at either end, or category by category."""
    if values.dtype.kind == "f":
        areas = [auc(np.nan_to_num(values.astype(np.float64), nan=end), label)[0] for end in (-np.inf, np.inf)]
    else:
        areas = [auc(click_rates(values, label, row_id), label)[0]]
    best = max(max(area, 1 - area) for area in areas)
    if best < COPY_AUC:
        return None
    return sign("target-copy", "target-copy", name, float((best - 0.5) / (COPY_AUC - 0.5)), {
        "auc": float(best), "limit": COPY_AUC, **_written_after(values, label),
    })  # fmt: skip


def _written_after(values: Array, label: Bool) -> dict[str, Any]:
    """Whether rows without a click all hold one value, and what clicked ones hold: signs of what only a click could write."""
    code = codes(values)
    count = np.bincount(code[~label])
    usual = int(np.argmax(count))
    clicked = code[label]
    return {
        "one_value_where_not_clicked": float(count[usual] / (~label).sum()),
        "clicked_elsewhere": float((clicked != usual).mean()),
        "values_where_clicked": len(np.unique(clicked)),
    }


def _regions(name: str, values: Array, label: Bool, limit: float) -> list[Finding]:
    """The most telling region: one value, nulls, or one of the column's ends, in which far more rows were clicked than any
    honest column brings together, or far fewer."""
    log_p, worst = 0.0, None
    rate = float(label.mean())
    high, low = min(HONEST_RATE, HONEST_LIFT * rate), NEVER_LIFT * rate
    for where, shown, clicked in _candidates(values, label):
        if clicked > high * shown:
            p = _log10(stats.binom.logsf(clicked - 1, shown, high))
        elif clicked < low * shown:
            p = _log10(stats.binom.logcdf(clicked, shown, low))
        else:
            continue
        if p < log_p:
            log_p, worst = p, (where, shown, clicked)
    if worst is None or log_p > limit:
        return []
    where, shown, clicked = worst
    evidence = {"where": where, "rows": shown, "clicked": clicked, "click_rate": clicked / shown, "usual": rate,
                "log10_p": log_p, "limit_log10_p": limit, **_written_after(values, label)}  # fmt: skip
    return [sign("target-copy", "target-region", name, log_p / limit, evidence)]


def _log10(log_p: float) -> float:
    """A natural logarithm as a decimal one, never infinite."""
    return max(float(log_p) / float(np.log(10)), -300.0)


def _candidates(values: Array, label: Bool) -> list[tuple[str, int, int]]:
    """(what, rows, clicked rows) of each region worth a look: values that stand often, and ends of each size."""
    known = np.isfinite(values) if values.dtype.kind == "f" else np.ones(len(values), np.bool_)
    found = [("null", int((~known).sum()), int(label[~known].sum()))] if not known.all() else []
    distinct, code = np.unique(values[known], return_inverse=True)
    shown, clicked = np.bincount(code), np.bincount(code, label[known]).astype(int)
    often = np.argsort(-clicked)[:8].tolist() + np.argsort(-shown)[:8].tolist()
    found += [(f"= {distinct[i]}", int(shown[i]), int(clicked[i])) for i in sorted(set(often))]
    if values.dtype.kind != "f" or len(distinct) < 3:
        return found
    rows, clicks = np.cumsum(shown), np.cumsum(clicked)
    total, all_clicks = int(rows[-1]), int(clicks[-1])
    for size in np.unique(np.geomspace(16, total / 2, 12).astype(int)) if total > 40 else ():
        low = min(int(np.searchsorted(rows, size)), len(rows) - 2)
        found.append((f"<= {distinct[low]:.6g}", int(rows[low]), int(clicks[low])))
        high = max(int(np.searchsorted(rows, total - size, "right")) - 1, 0)
        found.append((f"> {distinct[high]:.6g}", total - int(rows[high]), all_clicks - int(clicks[high])))
    return found


def _sums(numeric: dict[str, F64], label: Bool, rows: I64, suspects: Sequence[str], limit: float) -> list[Finding]:
    """Suspects that, with another column or with several, add up to the target."""
    names = list(numeric)
    mine = [name for name in suspects if name in numeric]
    y = label[rows]
    few = rows[np.concatenate([np.flatnonzero(y)[:FEW], np.flatnonzero(~y)[:FEW]])]
    found, told = [], set()
    table = np.stack([numeric[name][few] for name in names]) if names else np.zeros((0, len(few)))
    for one in mine:
        mixed = np.stack([numeric[one][few] + table, numeric[one][few] - table, table - numeric[one][few]])
        pure = np.isclose(mixed, label[few], rtol=0, atol=EXACT)
        clicked = pure[:, :, label[few]].mean(axis=2) if label[few].any() else np.zeros(pure.shape[:2])
        for way, other in zip(*np.nonzero(clicked >= 0.5 * SHARED), strict=True):
            pair = frozenset((one, names[other]))
            if names[other] == one or pair in told:
                continue
            total = (numeric[one] + numeric[names[other]], numeric[one] - numeric[names[other]],
                     numeric[names[other]] - numeric[one])[way]  # fmt: skip
            hit = np.abs(total - 1) <= EXACT
            shown, hits = int(hit.sum()), int(label[hit].sum())
            high = min(HONEST_RATE, HONEST_LIFT * float(label.mean()))
            log_p = _log10(stats.binom.logsf(hits - 1, shown, high)) if hits else 0.0
            if log_p > limit:
                continue
            share = float((np.abs(total - label) <= EXACT).mean())
            if share <= max(float((np.abs(numeric[name] - label) <= EXACT).mean()) for name in pair):
                continue  # one of the two says it all: the other only stands beside it
            told.add(pair)
            word = "sum" if way == 0 else "difference"
            for name, partner in ((one, names[other]), (names[other], one)):
                evidence = {"with": partner, "as": word, "rows_reproduced": share, "log10_p": log_p}
                found.append(sign("target-copy", "target-sum", name, log_p / limit, evidence))
    done = {name for pair in told for name in pair}
    left = [name for name in mine if name not in done]
    return found + (_explained({n: numeric[n][rows] for n in names if n not in done}, y, left) if left else [])


def _explained(numeric: dict[str, F64], label: Bool, suspects: Sequence[str]) -> list[Finding]:
    """Suspects without which a linear model of all columns no longer explains the target."""
    names = list(numeric)
    table = standardised([numeric[name] for name in names])
    y = label - label.mean()
    weights, whole = fit(table, y)
    # Both classes are about equally frequent in the sample, so an honest model explains more here than on all rows.
    if whole < EXPLAINED + EXPLAINED:
        return []
    found = []
    for name in suspects:
        i = names.index(name)
        without = fit(np.delete(table, i, axis=1), y)[1]
        if whole - without > EXPLAINED / 2:
            evidence = {"explained": float(whole), "explained_without": float(without), "weight": float(weights[i]),
                        "columns": len(names)}  # fmt: skip
            found.append(sign("target-copy", "target-sum", name, float((whole - without) / (EXPLAINED / 2)), evidence))
    return found
