"""What most answers start from: the training set cut by time, the champion, and the truth behind the test days."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from infra.errors import ExplainedError
from infra.home import Home
from infra.settings import Settings
from models import evaluate
from models.artefact import Artefact
from models.contract import Array, Dataset
from models.metrics import entropy, log_losses
from pipelines.console import say
from pipelines.promotion import champion_of
from pipelines.sources.contract import SourceSpec
from pipelines.sources.registry import source_of
from pipelines.training import Parts, assemble, probability
from pipelines.truth import true_probability

F64 = npt.NDArray[np.float64]
Statistic = Callable[[F64], float]


@dataclass(frozen=True, slots=True)
class Material:
    """A trained home, opened for questions."""

    home: Home
    spec: SourceSpec
    parts: Parts
    champion: Artefact

    @property
    def test(self) -> Dataset:
        """The test days."""
        return self.parts.test

    def p(self) -> F64:
        """The champion's click probability of each test row, at the slot where it was shown."""
        return probability(self.champion, self.test)

    def p_true(self) -> F64:
        """The true one.  Raises ExplainedError for a source that has no truth."""
        if not self.spec.truth:
            raise ExplainedError(f"this answer needs the truth, which {self.spec.name} does not have: use --source world")
        return true_probability(self.home, self.test.row_id, self.test.time_us)

    def size(self) -> dict[str, Any]:
        """What every answer states about its test rows."""
        return size_of(self.test)


def material(chosen: Settings) -> Material:
    """Open the home that the settings name.  Raises ExplainedError where nothing was trained."""
    home, spec = chosen.base(), source_of(chosen).spec
    champion = champion_of(home)
    if champion is None:
        raise ExplainedError(f"{home.root} has no champion; run: clickproof train")
    say("assembling the training set")
    return Material(home, spec, assemble(home, spec, chosen), champion)


def size_of(data: Dataset) -> dict[str, Any]:
    """n, clicks and days of some rows."""
    return {"n": len(data), "clicks": int(data.label.sum()), "days": len(np.unique(evaluate.day_groups(data.time_us)))}


def difference(p: F64, baseline: F64, data: Dataset) -> dict[str, float | None]:
    """NE of `p` minus NE of `baseline` on the same rows, paired, with its 95% interval."""
    found: dict[str, float | None] = evaluate.compare(p, baseline, data, confidence=0.95)["ne_difference"]
    return found


def metrics_of(p: F64, data: Dataset, p_true: F64 | None = None) -> dict[str, dict[str, float | None]]:
    """NE, calibration, ECE, AUC (and with the truth, signal captured) with 95% intervals."""
    report = evaluate.report(p, data, p_true=p_true)
    names = ("ne", "calibration", "ece", "auc") + (("signal_captured",) if p_true is not None else ())
    return {name: report[name] for name in names}


def estimate(statistic: Statistic, columns: Sequence[Array], data: Dataset) -> dict[str, float | None]:
    """A statistic of the sums of columns [n] over the rows of `data`, with its 95% interval (days, users left out)."""
    sums = np.stack([np.asarray(column, np.float64) for column in columns], axis=1)
    total, left_out = sums.sum(axis=0), []
    for groups in (evaluate.day_groups(data.time_us), evaluate.user_groups(data)):
        _, index = np.unique(groups, return_inverse=True)
        parts = np.stack([np.bincount(index, column) for column in sums.T], axis=1)
        left_out.append(np.array([statistic(total - part) for part in parts]) if len(parts) > 1 else np.zeros(0))
    found: dict[str, float | None] = evaluate.interval(float(statistic(total)), left_out[0], left_out[1], 0.95)
    return found


def ratio(above: Array, below: Array, data: Dataset) -> dict[str, float | None]:
    """Sum of one column over the sum of another, with its 95% interval."""
    return estimate(lambda total: _over(total[0], total[1]), (above, below), data)


def expected_ne(p: F64, p_true: F64, data: Dataset) -> dict[str, float | None]:
    """NE of `p` as the true probabilities make it on average, with its 95% interval: no luck of single clicks in it."""
    return _per_entropy(log_losses(p, p_true), p_true, data)


def expected_difference(p: F64, baseline: F64, p_true: F64, data: Dataset) -> dict[str, float | None]:
    """Expected NE of `p` minus that of `baseline` on the same rows, paired, with its 95% interval."""
    return _per_entropy(log_losses(p, p_true) - log_losses(baseline, p_true), p_true, data)


def _per_entropy(loss: F64, p_true: F64, data: Dataset) -> dict[str, float | None]:
    def statistic(total: F64) -> float:
        return _over(total[0], total[2] * entropy(total[1] / total[2])) if total[2] else float("nan")

    return estimate(statistic, (loss, p_true, np.ones(len(loss))), data)


def _over(above: float, below: float) -> float:
    return float(above / below) if below else float("nan")
