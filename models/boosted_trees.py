"""Gradient-boosted trees with XGBoost: the family to beat on tables.

Numbers go in as they are (NaN where missing), small categorical columns as codes; large ones (users, ads) stay out, since
their history is in the features already.  Built by `models.train` through `models.contract.Model`.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from features.blocks import Blocks
from models.contract import F32, Array, Dataset, FitReport, Model
from models.encode import Encoder
from models.engines.engine import Engine, Inputs
from models.engines.trees import Forest, InplacePredict
from models.threads import TRAINING_THREADS

if TYPE_CHECKING:
    import xgboost

    from models.encode_rows import Table
    from models.engines.choice import Choice

LARGEST_VOCABULARY = 64  # categorical columns with more codes than this are left to the features made from them
PARAMETERS: dict[str, Any] = {
    "objective": "binary:logistic",
    "eval_metric": "logloss",
    "tree_method": "hist",
    "max_depth": 4,
    "eta": 0.06,
    "min_child_weight": 20,
    "subsample": 0.8,
    "colsample_bytree": 0.6,
    "lambda": 20.0,
    "max_bin": 128,
    "base_score": 0.5,  # margin 0: the offset carries the level, so that a warm start can continue
}
ROUNDS, PATIENCE = 500, 25
UPDATE_ROUNDS = 3  # trees added by one online update


class BoostedTrees:
    """s(x) is the margin of the trees plus the training click rate's logit."""

    family = "xgboost"

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.threads = 1
        self.booster: xgboost.Booster | None = None
        self.base = 0.0  # logit of the training click rate, net of position: where boosting starts
        self.choice: Choice | None = None  # of engines to score with; None: XGBoost
        self._from_blocks: Table | None = None  # for the columns of the last request
        self.small = [i for i, size in enumerate(encoder.sizes) if 1 < size <= LARGEST_VOCABULARY]

    def configuration(self) -> dict[str, Any]:
        """What was chosen by hand, for the record and to tell a refresh from a change."""
        return {**PARAMETERS, "rounds": ROUNDS, "patience": PATIENCE, "largest_vocabulary": LARGEST_VOCABULARY}

    def fit(
        self, train: Dataset, valid: Dataset, offset: tuple[F32, F32], *, seed: int, warm_start: Model | None = None
    ) -> FitReport:
        """Boost on `train` until the log loss of `valid` has not fallen for `PATIENCE` rounds; the best round is kept.

        A warm start adds trees to the old model's."""
        import xgboost

        started = time.perf_counter()
        before = 0
        if warm_start is not None:
            if not isinstance(warm_start, BoostedTrees) or warm_start.booster is None:
                raise TypeError(f"boosted trees cannot start from a {warm_start.family} model; train them from scratch")
            self.encoder, self.small, self.base = warm_start.encoder, warm_start.small, warm_start.base
            before = warm_start.booster.num_boosted_rounds()
        else:
            rate = float(np.clip(train.label.mean(), 1e-6, 1 - 1e-6))
            self.base = float(np.log(rate / (1 - rate)) - offset[0].mean())
        matrices = [self._matrix(data, shift) for data, shift in zip((train, valid), offset, strict=True)]
        evaluations: dict[str, dict[str, list[float]]] = {}
        grown = xgboost.train(
            {**PARAMETERS, "seed": seed, "nthread": TRAINING_THREADS},
            matrices[0],
            num_boost_round=ROUNDS,
            evals=[(matrices[1], "valid")],
            early_stopping_rounds=PATIENCE,
            evals_result=evaluations,
            verbose_eval=False,
            xgb_model=None if warm_start is None else warm_start.booster,
        )
        kept = int(grown.best_iteration) + 1
        self.booster, self.choice = _plain(grown[:kept], self.threads), None
        history = tuple(evaluations["valid"]["logloss"])
        return FitReport(kept - before, float(min(history)), time.perf_counter() - started, history)

    def update(self, batch: Dataset, offset: F32) -> None:
        """Add a few trees fitted to `batch`; the trees there are stay, so each update makes the model a little slower."""
        import xgboost

        parameters = {**PARAMETERS, "nthread": self.threads, "seed": 0}
        booster = xgboost.train(parameters, self._matrix(batch, offset), UPDATE_ROUNDS, xgb_model=self._fitted())
        self.booster, self.choice = _plain(booster, self.threads), None

    def margin(self, inputs: Inputs) -> F32:
        """s(x) of n rows, float32 [n], with `threads` threads, by the engine chosen for as many rows."""
        return self.engine(len(inputs[0]))(inputs) + np.float32(self.base)

    def score(self, columns: Mapping[str, Array]) -> F32:
        """`margin` of `inputs`."""
        return self.margin(self.inputs(columns))

    def save(self, folder: Path) -> None:
        """encoder.json, encoder.npz, trees.ubj (XGBoost's own binary JSON) and trees.npz (what goes into them)."""
        self.encoder.save(folder)
        self._fitted().save_model(folder / "trees.ubj")
        np.savez(folder / "trees.npz", base=np.float64(self.base), small=np.array(self.small, np.int64))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        import xgboost

        model = cls(Encoder.load(folder))
        with np.load(folder / "trees.npz", allow_pickle=False) as arrays:
            model.base, model.small = float(arrays["base"]), arrays["small"].tolist()
        model.booster = _plain(xgboost.Booster(model_file=folder / "trees.ubj"), model.threads)
        return model

    def use_threads(self, count: int) -> None:
        """Let scoring use `count` threads; engines that were chosen for another number are forgotten."""
        self.threads, self.choice = count, None
        if self.booster is not None:
            self.booster.set_param({"nthread": count})

    def engines(self) -> tuple[Engine, ...]:
        """XGBoost itself, the same trees in ONNX Runtime and, where they are as shallow as they should be, compiled."""
        from models.engines.compiled_trees import CompiledTrees
        from models.engines.session import OnnxRuntime

        forest = self.forest()
        engines = InplacePredict(self._fitted()), OnnxRuntime(forest.graph(), self.threads)
        return engines if (compiled := CompiledTrees.of(forest)) is None else (*engines, compiled)

    def engine(self, n: int) -> Engine:
        """The engine chosen for n rows; XGBoost where none was."""
        return InplacePredict(self._fitted()) if self.choice is None else self.choice.engine(n)

    def made_up(self, n: int, rng: np.random.Generator) -> Inputs:
        """n rows of the trees' own thresholds."""
        return (self.forest().made_up(n, rng),)

    def use_engines(self, choice: "Choice | None") -> None:
        """Score with the engine chosen for each batch size; None: with XGBoost."""
        self.choice = choice

    def inputs(self, columns: Mapping[str, Array]) -> Inputs:
        """What engines get of n rows: the table, float32 [n, d], NaN where missing."""
        return (self._table(columns),)

    def forest(self) -> Forest:
        """The trees as arrays."""
        return Forest.of(self._fitted())

    def _fitted(self) -> "xgboost.Booster":
        if self.booster is None:
            raise RuntimeError("these boosted trees were never fitted; call fit, or load a saved model")
        return self.booster

    def _table(self, columns: Mapping[str, Array]) -> F32:
        names = tuple(self.encoder.spec.categorical[i] for i in self.small)
        if isinstance(columns, Blocks):  # a request, mostly
            if self._from_blocks is None or not self._from_blocks.fits(self.encoder, names, columns.names):
                from models.encode_rows import Table

                self._from_blocks = Table(self.encoder, names, columns.names)
            table = self._from_blocks(columns)
            if table is not None:
                return table
        numbers = self.encoder.numbers(columns)
        if not self.small:
            return numbers
        codes = self.encoder.codes(columns, names).astype(np.float32)
        return np.concatenate([numbers, codes], axis=1)

    def _matrix(self, data: Dataset, offset: F32) -> "xgboost.DMatrix":
        import xgboost

        margin = offset + np.float32(self.base)
        return xgboost.DMatrix(self._table(data.columns), data.label, base_margin=margin, nthread=TRAINING_THREADS)


def _plain(booster: "xgboost.Booster", threads: int) -> "xgboost.Booster":
    """The booster without its training record, so that equal trees make equal files, scoring with `threads` threads."""
    booster.set_attr(best_iteration=None, best_score=None)
    booster.set_param({"nthread": threads})
    return booster
