"""`mlflow models serve` of the same trees, which gets its rows ready-made: a peer of `clickproof bench serve`.

Our endpoint finds its features itself and is compared with this all the same.  Saved without a signature, because checking one
costs MLflow more.  Asked in the format that its documentation has for tables, and in the one for tensors, which is cheaper.
"""

import json
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from models.artefact import Artefact
from models.boosted_trees import BoostedTrees
from pipelines.bench.processes import ONE_THREAD, Server, free_port, started
from pipelines.environment import bare

PATH = "/invocations"
FORMATS = ("dataframe_split", "inputs")


@contextmanager
def serving(artefact: Artefact, folder: Path, on: set[int] | None = None) -> Iterator[Server]:
    """MLflow's server with the artefact's trees, saved below `folder`, as its documentation starts it."""
    port = free_port()
    programs = f"PATH={Path(sys.executable).parent}:{bare()['PATH']}"  # it starts uvicorn by name
    command = [*ONE_THREAD, programs, sys.executable, "-m", "mlflow", "models", "serve"]
    options = ["--model-uri", str(save(artefact, folder)), "--env-manager", "local", "--host", "127.0.0.1"]
    with started([*command, *options, "--port", str(port)], port, "/ping", on) as server:
        yield server


def save(artefact: Artefact, folder: Path) -> Path:
    """The artefact's trees as an MLflow model."""
    assert isinstance(artefact.model, BoostedTrees)
    model = folder / "mlflow-model"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow warns about its own type hints and about models without a signature
        import mlflow.xgboost

        mlflow.xgboost.save_model(artefact.model.booster, model)
    return model


def bodies(form: str, names: Sequence[str], matrices: Sequence[np.ndarray]) -> list[bytes]:
    """Rows [n, features] as JSON in one of FORMATS.  What is missing is written NaN, which MLflow reads: null would make a
    column of nothing but nulls an object, and XGBoost refuses those."""
    return [json.dumps(_body(form, names, rows)).encode() for rows in matrices]


def _body(form: str, names: Sequence[str], rows: np.ndarray) -> dict[str, Any]:
    data = rows.astype(np.str_).astype(np.float64).tolist()  # the shortest digits that are the number
    return {"inputs": data} if form == "inputs" else {"dataframe_split": {"columns": list(names), "data": data}}
