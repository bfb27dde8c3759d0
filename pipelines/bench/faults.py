"""The parts of `clickproof bench serve` that break something, or look at what is slow, one after the other.

Called by `pipelines.bench.serve`; `pipelines.faults_page` shows what they found.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from infra.home import Home
from models.artefact import Artefact
from pipelines.bench.kills import KILLS, kills
from pipelines.bench.outage import PHASES_S, outage
from pipelines.bench.stores import stores
from pipelines.bench.swaps import SWAPS, swaps
from pipelines.bench.tail import tail
from pipelines.sources.contract import SourceSpec

MOST_LOGGED = 200.0  # requests/s where workers are killed: every prediction is brought into the lake afterwards
GOALS: dict[str, tuple[str, float]] = {
    "kills": ("at least", KILLS),
    "missing": ("at most", 0),
    "answered_without_store": ("at least", 1.0),
    "p99_without_store_over_before": ("at most", 3.0),
    "swaps": ("at least", SWAPS),
    "failed_in_swaps": ("at most", 0),
    "rollback_s": ("at most", 1.0),
}


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """How much is broken, and for how long."""

    kills: int = KILLS
    phases_s: tuple[float, float, float] = PHASES_S  # of Redis: there, gone, back
    swaps: int = SWAPS
    look_s: float = 8.0
    closed_s: int = 3


def faults(
    work: Home,
    source: SourceSpec,
    artefact: Artefact,
    bodies: Sequence[bytes],
    rate: float,
    load: tuple[int, int],
    on: set[int],
    beside: set[int],
    plan: FaultPlan,
) -> dict[str, Any]:
    """Every part's figures and the goals, for requests with one number of candidates; `rate` is half the knee.

    Servers run on the cores `on`, several workers also on those `beside` them, where the client is."""
    parts = {
        "tail": tail(work, bodies, rate, on, plan.look_s),
        "stores": stores(work, source, artefact, bodies, load, plan.closed_s, on),
        "outage": outage(work, source, bodies, rate, on, plan.phases_s),
        "swaps": swaps(work, bodies, rate, on, plan.swaps),
        "kills": kills(work, bodies, min(rate, MOST_LOGGED), on | beside, plan.kills),
    }
    return {**parts, "against": against(parts), "goals": GOALS}


def against(parts: Mapping[str, Any]) -> dict[str, float | None]:
    """What the goals are about; None where it was not measured."""
    killed, gone, changed = parts["kills"], parts["outage"] or {}, parts["swaps"] or {}
    during, before = gone.get("during", {}), gone.get("before", {})
    slower = during["p99_ms"] / before["p99_ms"] if during.get("p99_ms") and before.get("p99_ms") else None
    return {
        "kills": killed["kills"],
        "missing": killed["missing_in_lake"],
        "answered_without_store": during.get("share"),
        "p99_without_store_over_before": None if slower is None else round(slower, 2),
        "swaps": changed.get("swaps"),
        "failed_in_swaps": changed.get("failed"),
        "rollback_s": changed["rollback_s"]["median"] if changed else None,
    }
