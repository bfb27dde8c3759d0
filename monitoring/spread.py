"""How much a daily number moves by itself: one-step forecasts, and a scale that is learned from days, not from the binomial
formula.

Rows of one day share users, ads and weather, so the variance between days exceeds the binomial one by a factor that differs
from column to column.  Few days are known, so each column's factor is shrunk towards its family's: the moderated t
statistic of Smyth (2004, "Linear models and empirical Bayes methods for assessing differential expression in microarray
experiments").  Called by the distribution monitor and by the leakage audit.
"""

import numpy as np
import numpy.typing as npt
from scipy import optimize, special, stats

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

WEEK = 7
# Heavy tails by construction: however alike a family's columns look, no t distribution with more freedom than this is used.
MOST_FREEDOM = 20.0


def shrink(factor: F64, freedom: float) -> tuple[F64, float]:
    """Variance factors [m], each measured with `freedom` degrees, shrunk towards their common value.

    Returns (factors [m], degrees of freedom of the shrunk factors).  Smyth's moment estimates on log factors; with few
    columns, or columns that differ by more than chance, little or nothing is borrowed.  Factors of (nearly) 0, of
    numbers that never moved, say nothing about the others and are left out of the common value.
    """
    moving = factor[factor > 0.05]
    if len(moving) < 3:
        return factor, freedom
    logs = np.log(moving) - special.digamma(freedom / 2) + np.log(freedom / 2)
    surplus = float(np.var(logs, ddof=1)) - float(special.polygamma(1, freedom / 2))
    if surplus <= 1e-6:
        return np.full_like(factor, float(np.mean(moving))), max(MOST_FREEDOM, freedom)
    borrowed = 2 * float(optimize.brentq(lambda d: special.polygamma(1, d) - surplus, 1e-6, 1e8))
    prior = float(np.exp(np.mean(logs) + special.digamma(borrowed / 2) - np.log(borrowed / 2)))
    mixed = (borrowed * prior + freedom * factor) / (borrowed + freedom)
    return mixed, max(min(borrowed + freedom, MOST_FREEDOM), freedom)


def two_sided_log10_p(t: F64, freedom: float) -> F64:
    """log10 of the two-sided p-value of t statistics; finite however far out."""
    return np.asarray((np.log(2.0) + stats.t.logsf(np.abs(t), freedom)) / np.log(10.0), dtype=np.float64)


KINDS = ("level", "last", "trend", "ramp", "weekend")
STEADY = ("level", "weekend")
MARGIN = 0.3  # a forecast that follows every move must beat the steady ones by this much in log mean square error
FIRST = 2  # days of history before the first forecast that is scored


def weights(kind: str, weekend: Bool) -> F64 | None:
    """Weights [days - 1] over past days whose weighted sum forecasts the last day; None where this kind cannot forecast it.

    `weekend` [days] says which days are Saturdays or Sundays.  Kinds: `level` (mean of all), `last` (as the day
    before), `trend` (line through the last week), `ramp` (least squares on 1 and 2^(-day/5): how counters fill up in a
    young log), `weekend` (mean of the earlier days of the same sort, weekend or working day; wants two of them).
    """
    history = len(weekend) - 1
    if kind == "level":
        return np.full(history, 1.0 / history)
    if kind == "last":
        return np.eye(1, history, history - 1)[0]
    if kind == "weekend":
        same = (weekend[:-1] == weekend[-1]).astype(np.float64)
        return same / same.sum() if same.sum() >= 2 else None
    if history < 4:
        return None
    days = np.arange(history + 1, dtype=np.float64)
    first = max(0, history - WEEK) if kind == "trend" else 0
    design = np.stack([np.ones(history + 1), days if kind == "trend" else 2.0 ** (-days / 5)], axis=1)[first:]
    found = np.zeros(history)
    found[first:] = design[-1] @ np.linalg.pinv(design[:-1])
    return found


def residuals(kind: str, values: F64, variance: F64, weekend: Bool) -> F64:
    """Standardised one-step forecast errors [days - FIRST, m] of values [days, m]; rows of NaN where `kind` cannot forecast.

    `variance` [days, m] is the sampling variance of each value if rows were independent, so residuals have variance 1
    when days differ by that alone.  These are recursive residuals (Brown, Durbin, Evans 1975): each forecast uses
    earlier days only.
    """
    out = np.full((len(values) - FIRST, values.shape[1]), np.nan)
    for day in range(FIRST, len(values)):
        chosen = weights(kind, weekend[: day + 1])
        if chosen is not None:
            error = values[day] - chosen @ values[:day]
            out[day - FIRST] = error / np.sqrt(variance[day] + np.square(chosen) @ variance[:day])
    return out


def surprise(values: F64, variance: F64, weekend: Bool, column: I64) -> tuple[F64, float, list[str]]:
    """How far the last day of a family of series [days, m] is from its forecast.

    `column` [m] says which column a series belongs to.  Returns (t statistics [m], their degrees of freedom, the kind
    of forecast used for each [m]).  A column's kind is the one whose errors on earlier days were smallest over its
    series, the level's errors standing in on days that a kind cannot forecast.  The spread is learned from those
    errors, shrunk within the family, and never taken below the sampling variance.
    """
    if len(values) < FIRST + 3:
        raise ValueError(f"{len(values)} days are too few: a forecast and its spread need {FIRST + 3}")
    tried = {kind: residuals(kind, values, variance, weekend) for kind in KINDS}
    able = {kind: np.isfinite(errors[:, 0]) for kind, errors in tried.items()}
    usable = [kind for kind in KINDS if able[kind][-1] and able[kind][:-1].sum() >= 3]
    scored = [np.where(able[kind][:, None], tried[kind], tried["level"])[:-1] for kind in usable]
    bad = np.stack([np.log(np.square(errors).mean(axis=0) + 0.1) for errors in scored])
    bad += np.array([[0.0 if kind in STEADY else MARGIN] for kind in usable])
    last, factor, kinds = np.empty(len(column)), np.empty(len(column)), [""] * len(column)
    freedom = float(len(values))
    for mine in (np.flatnonzero(column == c) for c in np.unique(column)):
        kind = usable[int(np.argmin(bad[:, mine].mean(axis=1)))]
        past = tried[kind][:-1][able[kind][:-1]][:, mine]
        last[mine], factor[mine] = tried[kind][-1, mine], np.square(past).mean(axis=0)
        freedom = min(freedom, float(len(past)))
        for i in mine:
            kinds[i] = kind
    factor, freedom = shrink(factor, freedom)
    return last / np.sqrt(np.maximum(factor, 1.0)), freedom, kinds
