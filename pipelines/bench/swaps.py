"""Whether anybody notices that the model is changed: promoted twenty times under load, then taken back.

A part of `clickproof bench serve`.  Changes are made as `clickproof rollout` makes them, by another process; the server polls
the document, loads and tries the model beside its work, and lets it answer.
"""

import asyncio
import json
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from infra.clock import SECOND_US, SystemClock
from infra.home import Home
from models.registry import Registry
from pipelines.bench.open_loop import poisson
from pipelines.bench.population import message
from pipelines.bench.processes import SERVE, get, server
from pipelines.bench.witness import Sight, Witness, percentiles_ms
from pipelines.console import say
from serving import rollout_store

SWAPS, ROLLBACKS = 20, 5
MOST_S = 90.0
PATIENCE_MS = 5000.0
SEED = 25
BACK = "rollback"
CHANGE = """
import sys
from pathlib import Path
from infra.clock import SECOND_US, SystemClock
from infra.home import Home
from serving import rollout_store
from serving.rollout import promote
home, who, why = Home(Path(sys.argv[1])), "clickproof bench serve", "the model is changed under load"
rollout_store.read(home)
print("ready", flush=True)
for line in sys.stdin:
    name = line.strip()
    if name == "rollback":
        entry = rollout_store.rollback(home, who, why)
    else:
        entry = rollout_store.change(home, who, why, lambda now: promote(now, name))
    print(entry.after.champion, flush=True)
"""


class Change(NamedTuple):
    """One change of the model."""

    asked: str  # the model to promote, or BACK
    effective_s: float  # from asking until the document said so
    answered_s: float  # from then until the first answer by that model


def swaps(work: Home, bodies: Sequence[bytes], rate: float, on: set[int], count: int = SWAPS) -> dict[str, Any] | None:
    """Figures of `count` promotions and some rollbacks at `rate` requests a second, sent open-loop; None where the home has one
    model only."""
    names = two_models(work)
    if names is None:
        return None
    say(f"changing the model {count} times at {rate:.0f} requests/s")
    with server(SERVE, work.root, json.dumps({"max_wait_ms": PATIENCE_MS}), on=on) as one:
        seen, changes = asyncio.run(_under_load(one.port, work, [message(of_one) for of_one in bodies], rate, names, count))
    return {"rate": round(rate, 1), **figures(seen, changes)}


def figures(seen: Sequence[Sight], changes: Sequence[Change]) -> dict[str, Any]:
    """What became of requests and changes."""
    promoted = [change for change in changes if change.asked != BACK]
    taken_back = [change for change in changes if change.asked == BACK]
    return {
        "swaps": len(promoted),
        "offered": len(seen),
        "failed": sum(not one.ok for one in seen),
        "models": len({one.said()["model"] for one in seen if one.ok}),
        "answers_s": _seconds([change.answered_s for change in promoted]),
        "rollbacks": len(taken_back),
        "rollback_s": _seconds([change.effective_s + change.answered_s for change in taken_back]),
        **percentiles_ms(seen),
    }


def two_models(work: Home) -> tuple[str, str] | None:
    """Another model of the home, if possible its champion before, and the champion."""
    now = rollout_store.read(work).champion
    before = [entry.before.champion for entry in rollout_store.history(work) if entry.before is not None]
    others = [name for name in [*reversed(before), *(version.hash for version in Registry.of(work).versions())] if name != now]
    return (others[0], now) if others else None


def _seconds(took: Sequence[float]) -> dict[str, float | None]:
    if not took:
        return {"median": None, "most": None}
    return {"median": round(float(np.median(took)), 3), "most": round(max(took), 3)}


async def _under_load(
    port: int, work: Home, messages: Sequence[bytes], rate: float, names: tuple[str, str], count: int
) -> tuple[list[Sight], list[Change]]:
    """(what the client saw, the changes that were answered by)."""
    pipe = asyncio.subprocess.PIPE
    changer = await asyncio.create_subprocess_exec(sys.executable, "-c", CHANGE, str(work.root), stdin=pipe, stdout=pipe)
    assert changer.stdin is not None
    assert changer.stdout is not None
    await changer.stdout.readline()  # it has imported everything
    witness = Witness(port)
    offering = asyncio.create_task(witness.offer(messages, poisson(rate, MOST_S, np.random.default_rng(SEED))))
    changes = []
    try:
        for asked in [*(names[number % 2] for number in range(count)), *[BACK] * min(ROLLBACKS, count)]:
            asked_s, before = witness.now_s, len(witness.seen)
            changer.stdin.write(f"{asked}\n".encode())
            champion = (await changer.stdout.readline()).decode().strip()
            changed_s = (
                witness.now_s - (SystemClock().now_us() - rollout_store.document(work).stat().st_mtime_ns // 1000) / SECOND_US
            )
            answered_s = await _first_answer(witness, before, champion)
            if answered_s is None:
                break
            changes.append(Change(asked, changed_s - asked_s, answered_s - changed_s))
            while await asyncio.to_thread(model_of, port) != champion and witness.now_s < MOST_S:
                await asyncio.sleep(0.02)
    finally:
        changer.stdin.close()
        await changer.wait()
        witness.stop()
    await offering
    return witness.seen, changes


async def _first_answer(witness: Witness, start: int, champion: str) -> float | None:
    """When the first answer by a model came, of those from `start` on; None where the time is up."""
    while witness.now_s < MOST_S:
        for at in range(start, len(witness.seen)):
            if witness.seen[at].ok and witness.seen[at].said()["model"] == champion:
                return witness.seen[at].ended_s
            start = at + 1
        await asyncio.sleep(0.005)
    return None


def model_of(port: int) -> str:
    """The model that answers, by GET /v1/model."""
    return str(json.loads(get(port, "/v1/model").partition(b"\r\n\r\n")[2])["model"])
