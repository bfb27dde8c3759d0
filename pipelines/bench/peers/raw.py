"""The model alone on rows that are ready, in a process of its own: the floor below any scorer.  Started by
`pipelines.bench.serve`, which takes the fastest engine as "raw"; `raw_model` and `cpu_us` also serve other measurements.

Every call has other rows, as every request has: the same rows again would find the processor's caches and its branch predictor
prepared.
"""

import json
import time
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from infra.home import Home
from models.artefact import Artefact, load
from models.engines.engine import Engine, HasEngines

PROGRAM = """
import sys
from pathlib import Path
from pipelines.bench.peers.raw import main
main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
"""
CALLS = 5000


def main(root: Path, artefact: str, rows: Path) -> None:
    """Print {engine: {n: processor us a call}} for the matrices [k, n, features] in an npz file."""
    found: dict[str, dict[str, float]] = {}
    model = load(Home(root, writable=False).artefacts, artefact, threads=1).model
    assert isinstance(model, HasEngines)
    with np.load(rows, allow_pickle=False) as matrices:
        for n, several in matrices.items():
            for engine in model.engines():
                found.setdefault(engine.name, {})[n] = round(in_turn(engine, several), 2)
    print(json.dumps(found))


def in_turn(engine: Engine, matrices: np.ndarray) -> float:
    """Processor time of one call, us, where calls take the matrices [k, n, features] in turn."""
    ready = cycle([np.ascontiguousarray(rows) for rows in matrices])
    return cpu_us(lambda: engine((next(ready),)), CALLS)


def raw_model(artefact: Artefact, columns: Any) -> Callable[[], Any]:
    """The model without encoder and calibration on rows encoded beforehand, as it is without engines to choose from; `score`
    of a model that can't be split."""
    model = artefact.model
    if not isinstance(model, HasEngines):
        return lambda: artefact.score(columns)
    rows, engine = model.inputs(columns), model.engines()[0]
    return lambda: engine(rows)


def cpu_us(call: Callable[[], Any], times: int) -> float:
    """Processor time of one call, us: the median of ten batches."""
    call()
    batches = []
    for _ in range(10):
        started = time.process_time()
        for _ in range(max(times // 10, 1)):
            call()
        batches.append((time.process_time() - started) / max(times // 10, 1))
    return float(np.median(batches) * 1e6)
