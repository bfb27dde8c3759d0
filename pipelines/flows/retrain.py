"""Retraining as a flow: the training flow on the newest matured days; the gates compare with the champion."""

from typing import Any

from prefect import flow

from infra.settings import Settings
from pipelines.flows.train import train
from pipelines.training_set import Window


@flow(name="retrain")
def retrain(chosen: Settings, windows: dict[str, Window]) -> dict[str, Any]:
    """Train, gate, promote; see `pipelines.flows.train`."""
    return train(chosen, windows)
