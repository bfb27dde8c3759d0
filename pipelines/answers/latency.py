"""Where the time of a request goes: the real server as its own process, every request timed by stage and by its client."""

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from infra.home import Home
from infra.settings import Settings
from models.plots import BLUE, GREEN, INK, ORANGE, VIOLET, save
from pipelines.answers.show import panels
from pipelines.answers.workplace import times, workplace
from pipelines.bench.closed_loop import Load, drive
from pipelines.bench.population import Population
from pipelines.bench.processes import server
from pipelines.console import say
from pipelines.markdown import table
from serving.champion import champion
from serving.metrics import ServingMetrics
from serving.scorer import STAGES, Answer

QUESTION = "The latency budget by stage?"
NUMBER = 12

CANDIDATES = (20, 100)
REQUESTS, WARM_UP, SECONDS = 1500, 200, 20.0
TIMED = ("decode", *STAGES, "answer", "total")  # what the server times of each request
MEANING = {
    "decode": "JSON body to request",
    "fetch": "read the user's rows, find ads, campaign, placement, derive",
    "encode": "columns to the model's inputs",
    "score": "the model alone",
    "calibrate": "margin to calibrated logit",
    "policy": "order, slots, propensities, arm",
    "log": "write the prediction log",
    "answer": "answer to JSON",
    "rest": "read the body, marks",
    "HTTP": "socket, parser, metrics, and the client itself",
}
PROGRAM = """
import sys
from pipelines.answers.latency import serve_recorded
serve_recorded(sys.argv[1], int(sys.argv[2]))
"""
TIMINGS = "timings.npy"


class Recorder(ServingMetrics):
    """The server's metrics, and each request's timings as they are: a histogram can't give a percentile to the microsecond."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int, ...]] = []

    def ranked(self, answer: Answer, decode_ns: int, encode_ns: int, total_ns: int) -> None:
        """See ServingMetrics."""
        super().ranked(answer, decode_ns, encode_ns, total_ns)
        self.rows.append((decode_ns, *answer.stage_ns, encode_ns, total_ns))


def serve_recorded(root: str, port: int) -> None:
    """The endpoint as `clickproof serve` starts it, on loopback; on SIGTERM the timings go to a file in the home."""
    import uvicorn

    from serving.app import create_app
    from serving.connections import within_limits
    from serving.front_door import front_door
    from serving.serve import load_service

    home, chosen, recorder = Home(Path(root)), Settings(host="127.0.0.1", port=port), Recorder()
    app = create_app(lambda: load_service(home, chosen), chosen, recorder)
    door = within_limits(chosen, front_door(app.state.rank))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # uvicorn raises the signal again once it has closed down
    try:
        uvicorn.run(app, host=chosen.host, port=port, access_log=False, log_level="warning", **door)
    finally:
        np.save(home.writing(home.root / TIMINGS), np.array(recorder.rows, np.int64))


def run(chosen: Settings) -> dict[str, Any]:
    """Microseconds by stage at 20 and 100 candidates, on one connection that asks again as soon as it is answered."""
    home = chosen.base()
    artefact = champion(home)
    asked = Population.of(home, artefact, seed=12)
    load_before = os.getloadavg()[0]
    say("driving the server")
    waited: list[list[float]] = []
    with workplace(home, "latency") as work:
        with server(PROGRAM, work.root) as (port, _):
            for candidates in CANDIDATES:
                bodies = asked.bodies(candidates, 512)
                loads = [Load(candidates, 1, requests, SECONDS) for requests in (WARM_UP, times(chosen, REQUESTS))]
                waited += [asyncio.run(drive(port, load, bodies)) for load in loads]
        timings = np.load(work.root / TIMINGS, allow_pickle=False) / 1e3
    ends = np.cumsum([len(part) for part in waited])
    cells = [
        _budget(timings[ends[i] - len(waited[i]) : ends[i]], np.array(waited[i]) * 1e6) | {"candidates": candidates}
        for i, candidates in zip((1, 3), CANDIDATES, strict=True)
    ]
    return {
        "family": artefact.family,
        "cells": cells,
        "cores": os.cpu_count(),
        "load_before": round(load_before, 1),
    }


def _budget(timings: npt.NDArray[Any], client_us: npt.NDArray[Any]) -> dict[str, Any]:
    """{stage: {mean, p50, p99}} in us of n requests; `timings` [n, len(TIMED)]."""
    stages = dict(zip(TIMED, timings.T, strict=True))
    total = stages.pop("total")
    stages["rest"] = total - sum(stages.values())
    stages["HTTP"] = client_us - total
    figures = {name: _figures(values) for name, values in stages.items()}
    whole = _figures(client_us)
    # Means add up by construction only if no request was paired with another's timings; medians need not.
    adds_up = {kind: sum(f[kind] for f in figures.values()) / whole[kind] for kind in ("mean", "p50")}
    return {"n": len(client_us), "stages": figures, "client": whole, "inside": _figures(total), "adds_up": adds_up}


def _figures(values: npt.NDArray[Any]) -> dict[str, float]:
    return {
        "mean": round(float(values.mean()), 1),
        "p50": round(float(np.percentile(values, 50)), 1),
        "p99": round(float(np.percentile(values, 99)), 1),
    }


def markdown(result: dict[str, Any]) -> str:
    """The budget, and what it adds up to."""
    cells = result["cells"]
    rows: list[list[object]] = []
    for stage in cells[0]["stages"]:
        found = [cell["stages"][stage] for cell in cells]
        rows.append([stage, MEANING[stage], *(f"{f[kind]:,.0f}" for f in found for kind in ("mean", "p50", "p99"))])
    whole = [f"**{cell['client'][kind]:,.0f}**" for cell in cells for kind in ("mean", "p50", "p99")]
    rows.append(["**all**", "as the client sees it", *whole])
    head = ["stage", "what", *(f"{kind}, N={cell['candidates']}" for cell in cells for kind in ("mean", "p50", "p99"))]
    sums = "; ".join(
        f"N={c['candidates']}: means add up to {c['adds_up']['mean']:.1%} of the mean, medians to {c['adds_up']['p50']:.1%} of "
        "the median"
        for c in cells
    )
    return (
        f"Microseconds, {result['family']}, {cells[0]['n']:,} requests each on one connection; the machine has "
        f"{result['cores']} cores and a load of {result['load_before']:g} before the run.\n\n{table(head, rows)}\n\n{sums}.\n\n"
        "![The budget](figures/latency.png)"
    )


def draw(result: dict[str, Any], folder: Path) -> Path:
    """The mean request as one bar a number of candidates."""
    figure, (axes,) = panels("Where a request's time goes (mean)", x="microseconds", y="candidates", height=3.4)
    colours = [VIOLET, BLUE, "#6c8ebf", ORANGE, "#d9a066", "#b8860b", GREEN, "#c2528b", "#5b8a8a", INK]
    for place, cell in enumerate(result["cells"]):
        left = 0.0
        for (stage, found), colour in zip(cell["stages"].items(), colours, strict=True):
            axes.barh(place, found["mean"], left=left, color=colour, height=0.6, label=stage if place == 0 else None)
            left += found["mean"]
    axes.set_yticks(range(len(result["cells"])), [str(cell["candidates"]) for cell in result["cells"]])
    axes.set_xlim(right=axes.get_xlim()[1] * 1.3)
    return save(figure, folder / "latency.png")
