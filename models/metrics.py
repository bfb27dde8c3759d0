"""Numbers that say how good predicted click probabilities are.  Pure; `models.evaluate` puts intervals around them.

All take `p` (probability, [n]) and `label` (0/1, [n]); a number that the data can't give (no rows, one class only) is NaN.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from models.newton import sigmoid, softplus

F64 = npt.NDArray[np.float64]
Values = npt.NDArray[Any]
TINY = 1e-12  # probabilities are kept this far from 0 and 1 inside logarithms
ECE_BINS = 15  # Guo et al. 2017 use 15


def log_losses(p: Values, label: Values) -> F64:
    """Log loss of each row, in nats; `label` may be a probability (then the expected loss)."""
    p = np.clip(np.asarray(p, np.float64), TINY, 1 - TINY)
    return -(label * np.log(p) + (1.0 - label) * np.log1p(-p))


def log_loss(p: Values, label: Values) -> float:
    """Mean log loss, in nats."""
    return float(log_losses(p, label).mean()) if len(p) else float("nan")


def logit_log_loss(logit: Values, label: Values) -> float:
    """Mean log loss of logits: exact where probabilities would round to 0 or 1."""
    z = np.asarray(logit, np.float64)
    return float(np.mean(softplus(z) - label * z)) if len(z) else float("nan")


def entropy(rate: float) -> float:
    """Log loss of always predicting `rate`, when `rate` is right."""
    if not 0 < rate < 1:
        return 0.0 if rate in (0, 1) else float("nan")
    return float(-(rate * np.log(rate) + (1 - rate) * np.log1p(-rate)))


def normalised_entropy(p: Values, label: Values) -> float:
    """Log loss over the entropy of the rows' own click rate (He et al. 2014, section 3): 1 is worth nothing, lower is
    better."""
    if not len(p):
        return float("nan")
    background = entropy(float(np.mean(label)))
    return log_loss(p, label) / background if background > 0 else float("nan")


def calibration(p: Values, label: Values) -> float:
    """Clicks over the sum of p: 1 is right, above 1 the model promises too little."""
    expected = float(np.sum(p, dtype=np.float64))
    return float(np.sum(label)) / expected if expected > 0 else float("nan")


def ece(p: Values, label: Values, bins: int = ECE_BINS) -> float:
    """Expected calibration error: mean |click rate - mean p| over `bins` groups of equally many rows, ordered by p.

    Guo et al. 2017 with equal-mass bins (Nguyen and O'Connor 2015): click probabilities crowd near zero."""
    order = np.argsort(p, kind="stable")
    return ece_sorted(np.asarray(p, np.float64)[order], np.asarray(label, np.float64)[order], bins)


def ece_sorted(p: F64, label: F64, bins: int = ECE_BINS) -> float:
    """`ece` of rows already in ascending order of p."""
    n = len(p)
    if not n:
        return float("nan")
    edges = np.linspace(0, n, min(bins, n) + 1).astype(np.int64)
    gaps = np.add.reduceat(label - p, edges[:-1])
    return float(np.abs(gaps).sum() / n)


def auc(p: Values, label: Values) -> float:
    """Chance that a clicked row scores above one not clicked, ties counting half."""
    order = np.argsort(p, kind="stable")
    return auc_sorted(np.asarray(p)[order], np.asarray(label)[order])


def auc_sorted(p: Values, label: Values) -> float:
    """`auc` of rows already in ascending order of p."""
    n = len(p)
    clicks = int(np.sum(label, dtype=np.int64))
    if clicks == 0 or clicks == n:
        return float("nan")
    ranks = _mean_ranks(np.concatenate([[True], p[1:] != p[:-1]]))
    return float((ranks[label > 0].sum() - clicks * (clicks + 1) / 2) / (clicks * (n - clicks)))


def user_auc(p: Values, label: Values, group: Values) -> float:
    """Mean AUC within users, weighted by their impressions, over users with both a click and a non-click; unknown users (-1)
    are out.

    Zhu et al. 2017 call it GAUC: how well ads are ordered for a person, which the overall AUC mixes with who clicks at all."""
    order = np.lexsort((p, group))
    return user_auc_sorted(np.asarray(p)[order], np.asarray(label)[order], np.asarray(group)[order])


def user_auc_sorted(p: Values, label: Values, group: Values) -> float:
    """`user_auc` of rows already in ascending order of (group, p)."""
    known = group >= 0
    if not known.all():
        p, label, group = p[known], label[known], group[known]
    n = len(p)
    if not n:
        return float("nan")
    first = np.concatenate([[True], group[1:] != group[:-1]])
    starts = np.flatnonzero(first)
    sizes = np.diff(np.append(starts, n))
    ranks = _mean_ranks(first | np.concatenate([[True], p[1:] != p[:-1]]))
    clicked = (label > 0).astype(np.float64)
    clicks = np.add.reduceat(clicked, starts)
    rank_sums = np.add.reduceat(ranks * clicked, starts) - clicks * starts
    both = (clicks > 0) & (clicks < sizes)
    if not both.any():
        return float("nan")
    clicks, sizes, rank_sums = clicks[both], sizes[both], rank_sums[both]
    areas = (rank_sums - clicks * (clicks + 1) / 2) / (clicks * (sizes - clicks))
    return float(np.average(areas, weights=sizes))


def signal_captured(p: Values, truth: Values) -> float:
    """Share of what can be known that the model knows: 0 is the base rate, 1 the true probability of each row.

    1 - KL(truth || p) / KL(truth || base rate), both means over rows (Bernoulli): the expected log loss saved against the
    base rate, over the most that can be saved.  Uses the true probabilities and no labels, so the luck of the clicks isn't
    in it."""
    truth = np.asarray(truth, np.float64)
    if not len(truth):
        return float("nan")
    floor = log_losses(truth, truth).mean()
    most = log_losses(np.full(len(truth), truth.mean()), truth).mean() - floor
    if most <= TINY:
        return float("nan")
    return float(1.0 - (log_losses(p, truth).mean() - floor) / most)


def probability(logit: Values) -> F64:
    """sigmoid, float64."""
    return sigmoid(logit)


def _mean_ranks(first: npt.NDArray[np.bool_]) -> F64:
    """Ranks (1 .. n) of sorted rows, ties averaged; `first` marks where a new value begins."""
    starts = np.flatnonzero(first)
    ends = np.append(starts[1:], len(first))
    return np.repeat((starts + 1 + ends) / 2.0, ends - starts)
