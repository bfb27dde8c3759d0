"""The steps of training, without the flow around them: assemble, audit, fit, evaluate, record, choose.

Called by the training flow, by retraining and by the walkthrough.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from features.batch import RequestBatch
from features.spec import feature_spec
from infra.clock import HOUR_US
from infra.home import Home
from infra.lake import Lake, watermark_us
from infra.settings import Settings
from models import evaluate
from models.artefact import Artefact
from models.contract import Dataset, FeatureSpec
from models.train import Trained, train_family
from monitoring.findings import Checks
from monitoring.gate import judge as judge_leakage
from monitoring.gate.auc import AucTable
from pipelines.sources.contract import SourceSpec
from pipelines.training_set import Window, build, select, split_windows
from pipelines.truth import true_probability

SERVICE = "ctr_full"


@dataclass(frozen=True, slots=True)
class Parts:
    """A training set cut by time, the requests it came from, and the columns that models get."""

    train: Dataset
    valid: Dataset
    calibrate: Dataset
    test: Dataset
    requests: RequestBatch
    spec: FeatureSpec
    skipped_views: tuple[str, ...]

    def by_name(self) -> dict[str, Dataset]:
        """The four parts, in order of time."""
        return {"train": self.train, "valid": self.valid, "calibrate": self.calibrate, "test": self.test}


def assemble(home: Home, source: SourceSpec, chosen: Settings, windows: dict[str, Window] | None = None) -> Parts:
    """Matured labels and as-of features of the split's days (or of other windows), as of the lake's watermark."""
    windows = windows or split_windows(source)
    whole = Window(min(w.first_us for w in windows.values()), max(w.last_us for w in windows.values()))
    made = build(home, source, whole, watermark_us(home), chosen.attribution_hours, SERVICE)
    names = feature_spec(source.entities, source.context, SERVICE)
    parts = {name: select(made.data, window) for name, window in windows.items()}
    spec = FeatureSpec(names.categorical, names.numeric, names.sequence)
    return Parts(**parts, requests=made.requests, spec=spec, skipped_views=names.skipped_views)


def audit(home: Home, source: SourceSpec, parts: Parts, as_of_us: int, attribution_hours: float) -> tuple[Checks, AucTable]:
    """The leakage audit on a training set: what it found, and the AUC table that becomes the next reference if accepted."""
    return judge_leakage(
        home,
        parts.by_name(),
        source.entities,
        source.context,
        SERVICE,
        as_of_us,
        int(attribution_hours * HOUR_US),
    )


def fit(family: str, parts: Parts, source: SourceSpec, seed: int, like: Artefact | None = None) -> Trained:
    """One family, trained; `like` lends its encoder and b(slot), which are the same for every family of one training set."""
    return train_family(
        family,
        parts.train,
        parts.valid,
        parts.calibrate,
        parts.spec,
        seed,
        like.position if like else None,
        encoder=like.encoder if like else None,
        service=SERVICE,
        entities=source.entities,
    )


def probability(artefact: Artefact, data: Dataset) -> np.ndarray:
    """Click probability of each row at the slot where it was shown, float64 [n]."""
    return artefact.probability(artefact.score(data.columns), data.slot)


def judge(home: Home, source: SourceSpec, p: np.ndarray, test: Dataset) -> dict[str, Any]:
    """The evaluation report of probabilities [n] for the test days' rows, against the truth where the source has one."""
    truth = true_probability(home, test.row_id, test.time_us) if source.truth else None
    return evaluate.report(p, test, p_true=truth, slices=evaluate.slices_of(test))


def lineage(home: Home, chosen: Settings, parts: Parts) -> dict[str, str]:
    """What a run was made of: source, days, lake versions, feature service, rows."""
    versions = {f"table.{name}": str(version) for name, version in Lake.of(home).versions().items()}
    rows = {f"rows.{name}": str(len(part)) for name, part in parts.by_name().items()}
    return {"source": chosen.source, "size": chosen.size, "seed": str(chosen.seed), "service": SERVICE, **versions, **rows}
