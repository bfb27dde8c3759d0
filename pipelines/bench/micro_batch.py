"""When it pays to score waiting requests in one call of the model: `CLICKPROOF_MICRO_BATCH` against how many wait.

Called by `pipelines.bench.serve`.  A server for each setting, asked in turn in a closed loop: with c connections up to c - 1
requests wait while one is answered, so c is how deep the queue gets.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from infra.home import Home
from pipelines.bench.contest import SLOW_S, Cell, Contestant, side_by_side
from pipelines.bench.processes import SERVE, server
from pipelines.console import say

SECONDS = 1  # a round
MARGIN = 0.05  # of the processor time: less than that is not worth a setting


def curve(
    work: Home,
    bodies: Mapping[int, Sequence[bytes]],
    n: int,
    loads: Mapping[str, Sequence[int]],
    rounds: int,
    on: set[int],
) -> dict[str, Any]:
    """{candidates, cells: {connections: {setting: figures}}, pays: {connections: what pays there, or null}} at n candidates.

    For the settings `loads["micro_batch"]`, of which 1 is one, and the numbers of connections `loads["connections"]`."""
    batches, several = loads["micro_batch"], loads["connections"]
    say(f"micro-batches of {', '.join(map(str, batches))}")
    with ExitStack() as running:
        contestants = []
        for batch in batches:
            settings = {"micro_batch": batch, "max_wait_ms": SLOW_S * 1e3}
            one = running.enter_context(server(SERVE, work.root, json.dumps(settings), on=on))
            contestants.append(Contestant(str(batch), one, bodies))
        cells = side_by_side(contestants, [(n, connections) for connections in several], rounds, SECONDS)
    by_connections = {c: {batch: cells[str(batch)][n, c] for batch in batches} for c in several}
    return {
        "candidates": n,
        "cells": {str(c): {str(batch): cell.figures() for batch, cell in row.items()} for c, row in by_connections.items()},
        "pays": {str(c): pays(row) for c, row in by_connections.items()},
    }


def pays(row: Mapping[int, Cell]) -> dict[str, Any] | None:
    """From which setting on it pays, which one takes least processor time, and what that one does, as ratios over 1; None where
    nothing pays: takes less than 1 by MARGIN, its worst round against the best of 1."""
    figures = {batch: cell.figures() for batch, cell in sorted(row.items())}
    alone = figures[1]
    found = [batch for batch, of_one in figures.items() if of_one["cpu_us_range"][1] < (1 - MARGIN) * alone["cpu_us_range"][0]]
    if not found:
        return None
    best = min(found, key=lambda batch: figures[batch]["cpu_us"])
    ratios = {name: round(figures[best][name] / alone[name], 3) for name in ("cpu_us", "rps", "p50_ms", "p99_ms")}
    return {"from": found[0], "best": best, **ratios}
