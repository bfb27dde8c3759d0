"""The prediction, learned from the logged features: a log is watched without the model that wrote it.

Small boosted trees learn logit(p) on the reference.  Whatever makes p disagree with the features (their order swapped, another
version, a constant, a wrong correction) moves the residual, without labels and without replay.  The earlier and the later half
of the days are learned apart: the reference's residuals are then out of sample and some days away from what they were learned
on, as those of the days to come will be (with alternate days they were too good, and clean days stood out).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xgboost as xgb

from infra.clock import DAY_US
from monitoring.tiers.distribution.categories import _find
from monitoring.tiers.distribution.parts import USER_HOURS, Part
from monitoring.tiers.distribution.rows import F64, Array, Rows
from monitoring.window import LogColumns

QUANTILES = (0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999)
TREES, DEPTH, RATE, BINS = 180, 6, 0.15, 128
VALUES = 60  # commonest values of a category that get a code
MOST_ROWS = 40_000  # rows a window that are looked at
LEAST_ROWS = 1500  # rows to learn from
CLIP = 12.0


def logit(p: Array) -> F64:
    """log odds, finite."""
    inside = np.clip(np.asarray(p, dtype=np.float64), 1e-6, 1 - 1e-6)
    return np.asarray(np.log(inside) - np.log1p(-inside))


class PredictionModel:
    """logit(p) given the logged features."""

    def __init__(self, columns: LogColumns, tables: Sequence[Rows]) -> None:
        """Learn from hours of the reference; wants LEAST_ROWS rows and two days."""
        first = tables[0]
        extra = [name for name in ("slot",) if all(name in rows.names for rows in tables)]
        self.numeric = [*extra, *(f"f_{name}" for name in columns.numeric)]
        self.categorical = [f"f_{name}" for name in columns.categorical if name not in columns.ids]
        if "model" in first.names:
            self.categorical.append("model")
        self.vocabulary: dict[str, Array] = {}
        for name in self.categorical:
            seen: dict[Any, int] = {}
            for rows in tables:
                codes, values = rows.codes(name)
                for value, count in zip(
                    values.tolist(), np.bincount(codes[codes >= 0], minlength=len(values)).tolist(), strict=True
                ):
                    seen[value] = seen.get(value, 0) + count
            self.vocabulary[name] = np.array(sorted(sorted(seen, key=lambda v: -seen[v])[:VALUES]))
        matrix = np.concatenate([self.matrix(rows) for rows in tables])
        target = np.concatenate([logit(rows.number("p")) for rows in tables])
        day = np.concatenate([rows.table["time"].to_numpy() for rows in tables]) // DAY_US
        fold = (day > np.median(np.unique(day))).astype(int)
        boosters = [_fit(matrix[fold == k], target[fold == k]) for k in (0, 1)]
        out = np.empty(len(target))
        for k in (0, 1):
            out[fold == k] = target[fold == k] - boosters[1 - k].inplace_predict(matrix[fold == k])
        self.booster = boosters[1]  # one alone, as in the reference: two together would be better than it
        self.edges = np.unique(np.quantile(out, QUANTILES))
        self.limit = 20 * float(np.quantile(np.abs(out), 0.99)) + 1e-6
        self.explained = 1.0 - float(out.var()) / max(float(target.var()), 1e-12)
        cut = np.cumsum([rows.rows for rows in tables])[:-1]
        self.reference = [self._sums(part, rows) for part, rows in zip(np.split(out, cut), tables, strict=True)]

    def __deepcopy__(self, memo: dict[int, Any]) -> "PredictionModel":
        """Itself: once learned it never changes."""
        return self

    @property
    def versions(self) -> frozenset[str]:
        """Versions of the model whose predictions were learned, as the log calls them."""
        return frozenset(self.vocabulary["model"].tolist()) if "model" in self.vocabulary else frozenset()

    @property
    def spans(self) -> list[str]:
        """Names of the residual's bins."""
        names = [f"{edge:+.3f}" for edge in self.edges.tolist()]
        return [f"residual {low} to {high}" for low, high in zip(["-inf", *names], [*names, "inf"], strict=True)]

    def matrix(self, rows: Rows) -> npt.NDArray[np.float32]:
        """Features [n, columns], NaN where unknown."""
        out = np.full((rows.rows, len(self.numeric) + len(self.categorical)), np.nan, dtype=np.float32)
        for j, name in enumerate(self.numeric):
            if name in rows.names:
                out[:, j] = rows.number(name)
        for j, name in enumerate(self.categorical, len(self.numeric)):
            codes, values = rows.codes(name)
            place = np.append(_find(self.vocabulary[name], values), -1)[codes]
            out[:, j] = np.where(place >= 0, place, np.nan)
        return out

    def residual(self, rows: Rows) -> F64:
        """logit(p) less what the features lead to expect [n]."""
        return np.asarray(logit(rows.number("p")) - self.booster.inplace_predict(self.matrix(rows)))

    def count(self, rows: Rows) -> F64:
        """(k, n, q, deff) [parts, 4]."""
        rows = some_people(rows, MOST_ROWS)
        return self._sums(self.residual(rows), rows)

    def _sums(self, residual: F64, rows: Rows) -> F64:
        """How many things' worth of rows lie in each bin, and means of things: of items where a log has enough of them, else of
        people.  What was learned says little of an ad that started since; it is one ad, however many people it is shown."""
        bins = len(self.edges) + 1
        place = np.searchsorted(self.edges, residual, side="right")
        clipped = np.clip(residual, -self.limit, self.limit)
        logs = np.log(np.abs(clipped) + 1e-3 * self.limit)
        person = _person(rows)
        hits = np.bincount(place, minlength=bins).astype(np.float64)
        owners = [name for name, able in (("item", rows.has_many("item")), (person, bool(person))) if able]
        for name in owners:
            groups = rows.groups(name)
            each = np.bincount(groups.owner * bins + place, minlength=bins * len(groups.sizes)).reshape(-1, bins)
            # Kish: one odd owner is one hit, however busy.
            hits = np.minimum(hits, np.square(each.sum(axis=0)) / np.maximum(np.square(each).sum(axis=0), 1))
        if owners:
            groups = rows.groups(owners[0])
            clipped, logs = groups.means(clipped), groups.means(logs)
        out = np.zeros((len(QUANTILES) + 3, 4))  # edges may coincide: the parts are always as many
        out[:, 1], out[:, 3], out[-2:, 1] = len(residual), 1.0, len(clipped)
        out[:bins, 0] = hits
        out[-2:, 0] = clipped.sum(), logs.sum()
        out[-2:, 2] = np.square(clipped).sum(), np.square(logs).sum()
        return out


def some_people(rows: Rows, most: int) -> Rows:
    """About `most` rows, all of some people's: residuals of one person go together, in samples as in whole windows."""
    if rows.rows <= most:
        return rows
    person = _person(rows)
    owner = rows.groups(person).owner if person else np.arange(rows.rows)
    luck = np.random.default_rng(int(owner.max()) + rows.rows).random(int(owner.max()) + 1)
    return Rows(rows.table.filter(pa.array(luck[owner] < most / rows.rows)))


def _person(rows: Rows) -> str:
    return next((name for name in ("user", "request") if name in rows.names), "")


def parts() -> list[Part]:
    """The residual's parts, in the order of `count`."""
    bins = [
        Part("prediction", "residual-bin", f"residual bin {i}", "rare", "prediction", True, USER_HOURS)
        for i in range(len(QUANTILES) + 1)
    ]
    return [
        *bins,
        Part("prediction", "residual-mean", "mean residual", "mean", "prediction"),
        Part("prediction", "residual-spread", "mean log size of the residual", "mean", "prediction"),
    ]


def _fit(matrix: npt.NDArray[np.float32], target: F64) -> Any:
    data = xgb.QuantileDMatrix(matrix, target, max_bin=BINS, nthread=1)
    settings = {"max_depth": DEPTH, "eta": RATE, "tree_method": "hist", "max_bin": BINS, "nthread": 1, "min_child_weight": 5}
    return xgb.train(settings, data, TREES)
