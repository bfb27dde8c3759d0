"""Logistic regression: one weight for each category code, user and ad included, and one for each number.

The family that trains in seconds, explains itself and learns online.  Built by `models.train` through `models.contract.Model`.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from infra.progress import progress
from models.contract import F32, Array, Dataset, FitReport, Model
from models.encode import Encoded, Encoder
from models.metrics import logit_log_loss
from models.newton import sigmoid

STRENGTHS = (256.0, 64.0, 16.0, 4.0)  # ridge on category weights, from stiff to loose; validation picks one
NUMERIC_RIDGE = 1.0
STEPS = 40  # L-BFGS iterations for each strength


class Logistic:
    """s(x) = intercept + sum of the weights of the row's codes + numbers . weights."""

    family = "logistic"

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.starts, total = _starts(encoder)
        self.weights = np.zeros(total + encoder.dense + 1, np.float32)
        self.precision = np.ones_like(self.weights)  # how sure each weight is: 1 / variance, for `update`
        self.strength = STRENGTHS[0]

    def configuration(self) -> dict[str, Any]:
        """What was chosen by hand, for the record and to tell a refresh from a change."""
        return {"strengths": list(STRENGTHS), "numeric_ridge": NUMERIC_RIDGE, "steps": STEPS}

    def fit(
        self, train: Dataset, valid: Dataset, offset: tuple[F32, F32], *, seed: int, warm_start: Model | None = None
    ) -> FitReport:
        """Full-batch L-BFGS along a path of ridge strengths, each starting from the last; the best on `valid` is kept.

        The objective is convex, so `seed` changes nothing.  A warm start keeps the old model's codes and starts from its
        weights, at the strength it had chosen."""
        started = time.perf_counter()
        strengths: tuple[float, ...] = STRENGTHS
        if warm_start is not None:
            if not isinstance(warm_start, Logistic):
                raise TypeError(f"a logistic model cannot start from a {warm_start.family} model; train it from scratch")
            self._continue(warm_start, train.columns, min_count=5)
            strengths = (warm_start.strength,)
        encoded, held_out = self.encoder.encode(train.columns), self.encoder.encode(valid.columns)
        codes, numbers = self._codes(encoded), _numbers(encoded)
        history = [logit_log_loss(self._score(held_out) + offset[1], valid.label)]
        best, kept, rounds = np.inf if warm_start is None else history[0], self.weights, 0
        for strength in progress(strengths, "logistic", "strength"):
            ridge = self._ridge(strength)
            centre = np.zeros_like(ridge)
            weights, steps = _minimise(codes, numbers, train.label, offset[0], self.weights, ridge, centre)
            self.weights = weights
            history.append(logit_log_loss(self._score(held_out) + offset[1], valid.label))
            if history[-1] >= best:
                break
            best, kept, self.strength, rounds = history[-1], weights, strength, rounds + steps
        self.weights = kept
        self.precision = (self._ridge(self.strength) + self._curvature(encoded, offset[0])).astype(np.float32)
        return FitReport(rounds, float(best), time.perf_counter() - started, tuple(history))

    def update(self, batch: Dataset, offset: F32) -> None:
        """Learn from a few rows: the weights move from where they are, each as far as its precision lets it.

        Chapelle and Li 2011, algorithm 3: the posterior of each weight as a normal, updated by a Laplace approximation."""
        self._continue(self, batch.columns, min_count=1)
        encoded = self.encoder.encode(batch.columns)
        codes, numbers = self._codes(encoded), _numbers(encoded)
        self.weights, _ = _minimise(codes, numbers, batch.label, offset, self.weights, self.precision, self.weights)
        self.precision = (self.precision + self._curvature(encoded, offset)).astype(np.float32)

    def inputs(self, columns: Mapping[str, Array]) -> Encoded:
        """The encoder's codes and standardised numbers."""
        return self.encoder.encode(columns)

    def margin(self, inputs: Encoded) -> F32:
        """s(x) of n rows, float32 [n]; numpy only, so that serving this family needs no torch."""
        return self._score(inputs)

    def score(self, columns: Mapping[str, Array]) -> F32:
        """`margin` of `inputs`."""
        return self.margin(self.inputs(columns))

    def save(self, folder: Path) -> None:
        """encoder.json, encoder.npz and logistic.npz."""
        self.encoder.save(folder)
        np.savez(folder / "logistic.npz", weights=self.weights, precision=self.precision, strength=np.float64(self.strength))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        model = cls(Encoder.load(folder))
        with np.load(folder / "logistic.npz", allow_pickle=False) as arrays:
            model.weights, model.precision = arrays["weights"], arrays["precision"]
            model.strength = float(arrays["strength"])
        return model

    def use_threads(self, count: int) -> None:
        """A sum over some fifty numbers needs no threads."""

    def _codes(self, encoded: Encoded) -> npt.NDArray[np.int64]:
        return encoded.codes + self.starts

    def _score(self, encoded: Encoded) -> F32:
        numbers = _numbers(encoded)
        dense = self.weights[len(self.weights) - 1 - numbers.shape[1] :]
        # A sum over the last axis adds in the same order whatever the number of rows; a matrix product does not.
        by_code = self.weights[self._codes(encoded)].sum(axis=1)
        return (by_code + (numbers * dense[:-1]).sum(axis=1) + dense[-1]).astype(np.float32)

    def _ridge(self, strength: float) -> F32:
        ridge = np.full(len(self.weights), strength, np.float32)
        dense = self.encoder.dense + 1
        ridge[-dense:] = NUMERIC_RIDGE
        ridge[-1] = 1e-6
        return ridge

    def _curvature(self, encoded: Encoded, offset: F32) -> npt.NDArray[np.float64]:
        """Diagonal of the log loss's Hessian, one number a weight."""
        p = sigmoid(self._score(encoded) + offset)
        variance = p * (1.0 - p)
        codes, numbers = self._codes(encoded), _numbers(encoded)
        sparse = len(self.weights) - 1 - numbers.shape[1]
        by_code = np.bincount(codes.reshape(-1), np.repeat(variance, codes.shape[1]), minlength=sparse)
        return np.concatenate([by_code, variance @ np.square(numbers, dtype=np.float64), [variance.sum()]])

    def _continue(self, old: "Logistic", columns: Mapping[str, Array], *, min_count: int) -> None:
        """Take over `old`'s encoder, grown by the categories of `columns`, and its weights; new codes start at the unknown's
        weight."""
        old_starts, old_weights, old_precision = old.starts, old.weights, old.precision
        old_sizes, numbers = old.encoder.sizes, old.encoder.dense + 1
        self.encoder = old.encoder.grown(columns, min_count=min_count)
        self.strength = old.strength
        self.starts, total = _starts(self.encoder)
        weights, precision = np.zeros(total + numbers, np.float32), np.full(total + numbers, old.strength, np.float32)
        for before, after, size, grown in zip(old_starts, self.starts, old_sizes, self.encoder.sizes, strict=True):
            weights[after : after + size] = old_weights[before : before + size]
            weights[after + size : after + grown] = old_weights[before]
            precision[after : after + size] = old_precision[before : before + size]
        weights[-numbers:], precision[-numbers:] = old_weights[-numbers:], old_precision[-numbers:]
        self.weights, self.precision = weights, precision


def _starts(encoder: Encoder) -> tuple[npt.NDArray[np.int64], int]:
    """Where each categorical column's weights begin, and how many there are."""
    ends = np.cumsum((0, *encoder.sizes), dtype=np.int64)
    return ends[:-1], int(ends[-1])


def _numbers(encoded: Encoded) -> F32:
    return np.concatenate([encoded.numeric, encoded.missing], axis=1)


def _minimise(
    codes: npt.NDArray[np.int64], numbers: F32, label: Array, offset: F32, start: F32, ridge: F32, centre: F32
) -> tuple[F32, int]:
    """Weights that minimise the summed log loss + 1/2 sum ridge (w - centre)^2, and the L-BFGS steps taken."""
    import torch

    from models.threads import training_threads

    with training_threads():
        index, dense = torch.from_numpy(np.ascontiguousarray(codes.T)), torch.from_numpy(numbers)
        target, shift = torch.from_numpy(label.astype(np.float32)), torch.from_numpy(offset)
        penalty, middle = torch.from_numpy(ridge), torch.from_numpy(centre.copy())
        weights = torch.from_numpy(start.copy()).requires_grad_()
        sparse = len(start) - 1 - numbers.shape[1]
        optimiser = torch.optim.LBFGS([weights], max_iter=STEPS, history_size=10, line_search_fn="strong_wolfe")
        rows = float(len(label))

        def closure() -> Any:
            optimiser.zero_grad()
            # Indexing's backward pass took 28 ms for 250,000 rows x 9 codes where embedding_bag's took 223 (torch 2.13, two
            # cores).
            logit = dense @ weights[sparse:-1] + weights[index].sum(dim=0) + weights[-1] + shift
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logit, target, reduction="sum")
            loss = (loss + 0.5 * (penalty * (weights - middle) ** 2).sum()) / rows
            loss.backward()
            return loss

        optimiser.step(closure)
        return weights.detach().numpy().copy(), int(optimiser.state[weights]["n_iter"])
