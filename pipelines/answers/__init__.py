"""Answers: one file a question that a reader may ask, each run by `clickproof answer NAME` on what `make train` left.

An answer is a module with QUESTION, NUMBER (its place in docs/walkthrough.md), `run` and `markdown`, and with `draw` where a
picture says it better.  The table below names them all; a module is imported when it is asked.
"""

from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

from infra.errors import ExplainedError
from infra.settings import Settings

ANSWERS: dict[str, str] = {
    "why-ne": "pipelines.answers.why_ne",
    "calibrated": "pipelines.answers.calibrated",
    "downsampling": "pipelines.answers.downsampling",
    "auction-cost": "pipelines.answers.auction_cost",
    "families": "pipelines.answers.families",
    "split": "pipelines.answers.split",
    "leak": "pipelines.answers.leak",
    "two-columns": "pipelines.answers.two_columns",
    "gate": "pipelines.answers.gate",
    "late-labels": "pipelines.answers.late_labels",
    "position": "pipelines.answers.position",
    "cold-start": "pipelines.answers.cold_start",
    "point-in-time": "pipelines.answers.point_in_time",
    "online-offline": "pipelines.answers.online_offline",
    "staleness": "pipelines.answers.staleness",
    "store-down": "pipelines.answers.store_down",
    "latency": "pipelines.answers.latency",
    "capacity": "pipelines.answers.capacity",
    "engines": "pipelines.answers.engines",
    "model-age": "pipelines.answers.model_age",
    "shipping": "pipelines.answers.shipping",
    "ab-test": "pipelines.answers.ab_test",
    "drift-test": "pipelines.answers.drift_test",
}


class Answer(Protocol):
    """What an answer's module holds."""

    QUESTION: str
    NUMBER: int

    def run(self, chosen: Settings) -> dict[str, Any]:
        """Measure; JSON types only."""
        ...

    def markdown(self, result: dict[str, Any]) -> str:
        """The table for the page."""
        ...


@runtime_checkable
class Drawn(Protocol):
    """An answer with a picture."""

    def draw(self, result: dict[str, Any], folder: Path) -> Path:
        """Write the picture of a result into `folder`."""
        ...


def answer(name: str) -> Answer:
    """The module that answers; ExplainedError lists the names there are."""
    if name not in ANSWERS:
        raise ExplainedError(f"no answer {name!r}; there are {', '.join(sorted(ANSWERS))}")
    return cast(Answer, import_module(ANSWERS[name]))


def ask(name: str, chosen: Settings) -> dict[str, Any]:
    """One answer's result, with the data it was measured on under "on": the home, where the answer doesn't say otherwise."""
    result = answer(name).run(chosen)
    return {**result, "on": result.get("on", chosen.base().root.name)}
