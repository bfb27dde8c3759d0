"""What sampling negatives does to a probability, how it is put right, and what the rows thrown away were worth."""

import time
from typing import Any

import numpy as np

from features.ids import uniform
from infra.settings import Settings
from models.contract import Array, Dataset
from models.train import Trained, train_family
from pipelines.answers.material import F64, Material, difference, material, metrics_of
from pipelines.console import say
from pipelines.markdown import interval, table
from pipelines.training import SERVICE, probability

QUESTION = "You downsample negatives: what did the probability become, and what did the correction cost?"
NUMBER = 3
SHARES = (0.5, 0.1, 0.02)
FAMILY = "xgboost"
_SALT = 0xD0


def run(chosen: Settings) -> dict[str, Any]:
    """XGBoost trained on all rows, then on all clicks and a share w of the rest, in training and calibration alike."""
    found = material(chosen)
    test = found.test
    full, full_s = _train(found, chosen.seed, 1.0)
    p = probability(full.artefact, test)
    versions = {"all rows": _row(p, p, test, len(found.parts.train), full_s)}
    for share in SHARES:
        say(f"training on {share:.0%} of the negatives")
        sampled, spent = _train(found, chosen.seed, share)
        q = probability(sampled.artefact, test)
        rows = int(_kept(found.parts.train, share).sum())
        versions[f"w = {share:.0%}, as it comes out"] = _row(q, p, test, rows, spent)
        versions[f"w = {share:.0%}, corrected"] = _row(corrected(q, share), p, test, rows, spent)
    return {**found.size(), "family": FAMILY, "versions": versions}


def corrected(p: F64, share: float) -> F64:
    """The probability before sampling negatives at `share`: p / (p + (1 - p) / w) (He et al. 2014, section 6.3)."""
    return p / (p + (1.0 - p) / share)


def _kept(data: Dataset, share: float) -> Array:
    return (data.label > 0) | (uniform(data.row_id, _SALT) < share)


def _train(found: Material, seed: int, share: float) -> tuple[Trained, float]:
    """A model on sampled rows, and the processor seconds of its fit."""
    parts = found.parts
    train, valid, calibrate = (part.take(_kept(part, share)) for part in (parts.train, parts.valid, parts.calibrate))
    started = time.process_time()
    trained = train_family(FAMILY, train, valid, calibrate, parts.spec, seed, service=SERVICE, entities=found.spec.entities)
    return trained, time.process_time() - started


def _row(p: F64, full: F64, test: Dataset, rows: int, seconds: float) -> dict[str, Any]:
    return {
        **metrics_of(p, test),
        "mean_p": float(p.mean()),
        "ne_difference": difference(p, full, test),
        "train_rows": rows,
        "fit_cpu_s": round(seconds, 1),
        "finite": bool(np.isfinite(p).all()),
    }


def markdown(result: dict[str, Any]) -> str:
    """Every share, before and after the correction."""
    rows = [
        [
            name,
            f"{row['train_rows']:,}",
            f"{row['fit_cpu_s']:.0f} s",
            f"{row['mean_p']:.4f}",
            interval(row["calibration"]),
            interval(row["ne"]),
            "" if name == "all rows" else interval(row["ne_difference"], 4, sign=True),
        ]
        for name, row in result["versions"].items()
    ]
    head = [
        "XGBoost trained on",
        "training rows",
        "processor time",
        "mean p",
        "clicks / promised",
        "NE",
        "NE minus full training's",
    ]
    return (
        f"{result['n']:,} test impressions, {result['clicks']:,} clicks, {result['days']} days; 95% intervals, differences "
        f"paired by row.\n\n{table(head, rows)}"
    )
