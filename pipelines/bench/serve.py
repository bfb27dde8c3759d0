"""What a request costs end to end, beside what it must cost and what others take for it.  Called by `clickproof bench serve`.

Every server is a process of its own with the same model, on one core; the client has the other.  All stand side by side and
are asked in turn, so that a busy minute of the machine is everybody's.  Compared is processor time by the kernel's accounting:
times by the clock say little on shared cores.  All on a branch of the home, so that the prediction log that people monitor
stays as it is.
"""

import json
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np

from features.catalogue import Entity
from features.online import OnlineSource
from infra import branch
from infra.errors import ExplainedError
from infra.home import Home
from infra.lake import watermark_us
from infra.settings import Settings
from models.artefact import Artefact
from models.boosted_trees import BoostedTrees
from pipelines.bench import cpu_clock, doors, fixed_model, knee, micro_batch, stages
from pipelines.bench.boxes import boxes
from pipelines.bench.closed_loop import have_wrk
from pipelines.bench.contest import SLOW_S, Cell, Contestant, side_by_side
from pipelines.bench.faults import FaultPlan, faults
from pipelines.bench.open_loop import OpenLoop, Outcome, poisson
from pipelines.bench.peers import mlflow_server, naive, noop, raw
from pipelines.bench.population import ZIPF, Population, body, message, ranked_users, zipf
from pipelines.bench.processes import ONE_THREAD, SERVE, cores, on_cores, server
from pipelines.bench.worker_counts import worker_counts
from pipelines.console import say
from pipelines.sources.contract import SourceSpec
from serving.messages import context_names
from serving.scorer import candidate_rows, fetch

OURS = "clickproof"
GOALS: dict[str, tuple[str, float]] = {
    "limit_n20": ("at most", 2.0),
    "limit_n100": ("at most", 2.0),
    "naive_n20": ("at least", 25.0),
    "naive_n100": ("at least", 25.0),
    "mlflow_n20": ("at least", 10.0),
    "mlflow_n100": ("at least", 10.0),
    "p99_over_p50_at_half_knee": ("at most", 4.0),
    "goodput_at_3_knees_over_knee": ("at least", 0.9),
    "stages_add_up": ("within", stages.TOLERANCE),
}
PEERS = {"naive": "naive", "mlflow": "mlflow_dataframe_split", "mlflow_inputs": "mlflow_inputs"}  # ratio -> whose
POOL = 480  # connections of the open loop: more than the server lets wait, fewer than it holds
PATIENCE_MS = knee.DEADLINE_S * 1e3 / 2  # under overload: what lets a request wait longer answers callers who have left
PATIENT = {"max_wait_ms": SLOW_S * 1e3}  # in a closed loop nobody leaves: a pause of the machine must not refuse anybody
AROUND = {"half": 0.5, "knee": 1.0, "triple": 3.0}  # of the knee's rate
LOOKS = 3  # the middle one counts
SEED = 20

Cells = dict[str, dict[tuple[int, int], Cell]]


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    candidates: tuple[int, ...] = (20, 100)
    connections: tuple[int, ...] = (1, 16)
    rounds: int = 3
    seconds: int = 3  # a round of a fast server
    counted: int = 60  # requests a round of the slowest server; MLflow's gets five times as many
    probe_s: float = 4.0  # one rate on the way to the knee
    look_s: float = 6.0  # half the knee, the knee, three times the knee, each LOOKS times
    bodies: int = 30_000
    faults: FaultPlan = field(default_factory=FaultPlan)
    batches: Mapping[str, Sequence[int]] = field(
        default_factory=lambda: {"micro_batch": (1, 2, 4, 8, 16), "connections": (1, 4, 16, 64)}
    )
    ready: int = 128  # requests whose features are looked up beforehand, for the raw model and MLflow

    @property
    def loads(self) -> list[tuple[int, int]]:
        """(candidates, connections) of every cell."""
        return [(n, connections) for n in self.candidates for connections in self.connections]


@dataclass(frozen=True, slots=True)
class Questions:
    """What is asked, prepared beforehand, by number of candidates."""

    bodies: dict[int, list[bytes]]
    rows: dict[int, list[np.ndarray]]  # float32 [n, features], as the trees read them
    users: int  # among whom the requests' users were drawn

    @classmethod
    def of(cls, home: Home, artefact: Artefact, plan: Plan) -> "Questions":
        """Users by Zipf, contexts and ads of the lake's last day."""
        asked, ranked = Population.of(home, artefact, SEED), ranked_users(home)
        context, at_us = context_names(artefact.spec.names), watermark_us(home)
        source = OnlineSource(home, cast(tuple[Entity, ...], artefact.entities), context, artefact.service)
        bodies, rows = {}, {}
        assert isinstance(artefact.model, BoostedTrees)
        for n in plan.candidates:
            requests = asked.requests(n, zipf(asked.rng, ranked, plan.bodies))
            bodies[n] = [body(request) for request in requests]
            columns = [fetch(source, candidate_rows(request, at_us)).columns for request in requests[: plan.ready]]
            rows[n] = [artefact.model.inputs(of_one)[0] for of_one in columns]
        source.close()
        return cls(bodies, rows, len(ranked))


def run(home: Home, source: SourceSpec, chosen: Settings, plan: Plan | None = None) -> dict[str, Any]:
    """Everything about serving in one run; docs/serving.md says what each figure means.

    Raises ExplainedError where the home holds nothing to ask about, or a server does not start."""
    plan, load_before = plan or Plan(), os.getloadavg()[0]
    server_cores, client_cores = cores()
    work = branch.create(home, f"bench-serve-{os.getpid()}-{secrets.token_hex(2)}")  # MLflow keeps a path's old connections
    try:
        say("training the fixed model")
        artefact = fixed_model.promote(work, source, chosen)
        asked = Questions.of(work, artefact, plan)
        with on_cores(client_cores):
            raw_us = raw_engines(work, artefact, asked, server_cores)
            cells = compare(work, artefact, asked, plan, server_cores)
            clients = clients_compared(work, asked, plan, server_cores)
            knees = knees_of(work, asked, plan, clients["asyncio"]["rps"] / 2, server_cores)
            budgets = stage_budgets(work, asked, plan, server_cores)
            n, both = plan.candidates[0], server_cores | client_cores
            load, half = (n, plan.connections[-1]), knees[str(n)]["rate"] / 2
            workers = worker_counts(work, asked.bodies, load, both, plan.seconds, plan.probe_s / 2)
            broken = faults(work, source, artefact, asked.bodies[n], half, load, server_cores, client_cores, plan.faults)
            rest_and_grpc = doors.compare(work, asked.bodies, plan.loads, plan.rounds, server_cores)
            batches = micro_batch.curve(work, asked.bodies, plan.candidates[0], plan.batches, plan.rounds, server_cores)
    finally:
        branch.drop(work)
    rank = by_load(cells[OURS])
    found = {
        "rank": rank,
        "ratios": {**ratios(cells, raw_us, plan), **beyond(knees)},
        "goals": GOALS,
        "stages": budgets,
        "raw_us": raw_us,
        "peers": {name: by_load(of_one) for name, of_one in cells.items() if name != OURS},
        "knee": knees,
        "workers": workers,
        "faults": broken,
        "grpc": rest_and_grpc,
        "micro_batch": batches,
        "clients": clients,
        "boxes": {str(n): boxes(cells[OURS][n, plan.connections[-1]].cpu_us) for n in plan.candidates},
        "users": {"count": asked.users, "zipf": ZIPF, "cache_hit_rate": hit_rate(cells[OURS])},
        "model": fixed_model.shape(artefact),
        "machine": {"cores": os.cpu_count(), "load_before": round(load_before, 1), "apart": server_cores != client_cores},
    }
    return cast(dict[str, Any], json.loads(json.dumps(found)))


def raw_engines(work: Home, artefact: Artefact, asked: Questions, chosen: set[int]) -> dict[str, dict[str, float]]:
    """{engine: {candidates: processor us}} of the model alone, in a process of its own."""
    say("the model alone")
    with tempfile.TemporaryDirectory() as folder, on_cores(chosen):
        rows = Path(folder, "rows.npz")
        arrays: dict[str, Any] = {str(n): np.stack(several) for n, several in asked.rows.items()}
        np.savez(rows, **arrays)
        command = [*ONE_THREAD, sys.executable, "-c", raw.PROGRAM, str(work.root), artefact.hash, str(rows)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ExplainedError(f"the model alone could not be measured: {done.stderr[-2000:]}")
    return cast(dict[str, dict[str, float]], json.loads(done.stdout.splitlines()[-1]))


def compare(work: Home, artefact: Artefact, asked: Questions, plan: Plan, chosen: set[int]) -> Cells:
    """Ours and every peer, side by side."""
    with tempfile.TemporaryDirectory() as folder, contestants(work, artefact, asked, plan, chosen, Path(folder)) as found:
        say(f"driving {len(found)} servers in turn")
        return side_by_side(found, plan.loads, plan.rounds, plan.seconds)


@contextmanager
def contestants(
    work: Home, artefact: Artefact, asked: Questions, plan: Plan, on: set[int], folder: Path
) -> Iterator[list[Contestant]]:
    """Every server, running on the cores `on`."""
    say("starting clickproof, no-ops, naive, mlflow")
    with ExitStack() as running:
        ours = running.enter_context(server(SERVE, work.root, json.dumps(PATIENT), on=on))
        noops = {kind: running.enter_context(server(noop.PROGRAM, work.root, kind, on=on)) for kind in noop.KINDS}
        simple = running.enter_context(server(naive.PROGRAM, work.root, on=on))
        trees = running.enter_context(mlflow_server.serving(artefact, folder, on))
        names = fixed_model.inputs(artefact)
        yield [
            Contestant(OURS, ours, asked.bodies, measured=True),
            *(Contestant(f"noop_{kind}", one, asked.bodies) for kind, one in noops.items()),
            Contestant("naive", simple, asked.bodies, counted=plan.counted),
            *(
                Contestant(
                    f"mlflow_{form}",
                    trees,
                    {n: mlflow_server.bodies(form, names, several) for n, several in asked.rows.items()},
                    mlflow_server.PATH,
                    counted=5 * plan.counted,
                )
                for form in mlflow_server.FORMATS
            ),
        ]


def clients_compared(work: Home, asked: Questions, plan: Plan, on: set[int]) -> dict[str, Any]:
    """{client: figures} of the same closed loop by each client that there is."""
    found = {}
    with server(SERVE, work.root, json.dumps(PATIENT), on=on) as one:
        ours = Contestant(OURS, one, asked.bodies)
        for wrk in (True, False) if have_wrk() else (False,):
            cell = Cell()
            ours.measure(plan.candidates[0], plan.connections[-1], plan.seconds, cell, wrk)
            found["wrk" if wrk else "asyncio"] = cell.figures()
    return found


def knees_of(work: Home, asked: Questions, plan: Plan, first: float, on: set[int]) -> dict[str, Any]:
    """{candidates: the knee and what is around it} of a server with a core to itself; the search begins at the rate `first`."""
    with server(SERVE, work.root, json.dumps({"max_wait_ms": PATIENCE_MS}), on=on) as one:
        return {str(n): knee_of(Contestant(OURS, one, asked.bodies), n, plan, first) for n in plan.candidates}


def knee_of(ours: Contestant, n: int, plan: Plan, first: float) -> dict[str, Any]:
    """The knee, and how the server stands at half of it, at it and at three times it."""
    messages = [message(one) for one in ours.bodies[n]]
    rng = np.random.default_rng(SEED)

    def offer(rate: float, seconds: float) -> Outcome:
        pool = OpenLoop(ours.server.port, POOL)
        try:
            tally, cpu_s = pool.run(messages, poisson(rate, seconds, rng), knee.DEADLINE_S)
        finally:
            pool.close()
        ours.server.settle()
        return Outcome.of(tally, rate, seconds, knee.DEADLINE_S, cpu_s / seconds)

    found, probes = knee.find(lambda rate: offer(rate, plan.probe_s), first)
    say(f"knee at {n} candidates: {found.rate:.0f} requests/s")
    probes.append(offer(2 * found.rate, plan.probe_s))
    tried = [{name: offer(times * found.rate, plan.look_s) for name, times in AROUND.items()} for _ in range(LOOKS)]
    looks = {name: sorted((one[name] for one in tried), key=_badness)[LOOKS // 2] for name in AROUND}
    half = looks["half"]
    return {
        "rate": found.rate,
        "deadline_ms": knee.DEADLINE_S * 1e3,
        "p99_over_p50_at_half": _over(half.p99_ms, half.p50_ms),
        "goodput_at_3_over_knee": _over(looks["triple"].goodput, looks["knee"].goodput),
        **{name: _figures(outcome) for name, outcome in looks.items()},
        "probes": [_figures(outcome) for outcome in probes],
    }


def _badness(outcome: Outcome) -> tuple[float, float]:
    return -outcome.good_share, outcome.p99_ms or 0.0


def _figures(outcome: Outcome) -> dict[str, Any]:
    return {**asdict(outcome), "goodput": round(outcome.goodput, 1), "good_share": round(outcome.good_share, 4)}


def _over(one: float | None, other: float | None) -> float | None:
    return None if one is None or not other else round(one / other, 2)


def stage_budgets(work: Home, asked: Questions, plan: Plan, on: set[int]) -> dict[str, Any]:
    """{candidates: where a request's processor time goes}, at the most connections.

    HTTP is what our front door takes beside a handler that is busy for as long as the stages are and does nothing."""
    loads = [(n, plan.connections[-1]) for n in plan.candidates]
    with server(cpu_clock.PROGRAM, work.root, json.dumps(PATIENT), on=on) as one:
        timed = side_by_side([Contestant(OURS, one, asked.bodies, measured=True)], loads, plan.rounds, plan.seconds)[OURS]
    found = {}
    for load in loads:
        ours = timed[load]
        busy_us = sum(ours.inside.seconds.values()) / ours.inside.count * 1e6
        with server(noop.PROGRAM, work.root, "door", str(busy_us), on=on) as one:
            door = side_by_side([Contestant("door", one, asked.bodies)], [load], plan.rounds, plan.seconds)["door"][load]
        found[str(load[0])] = stages.budget(ours.inside, ours.cpu_us, door.cpu_us - busy_us, ours.background_us)
    return found


def by_load(cells: Mapping[tuple[int, int], Cell]) -> dict[str, dict[str, Any]]:
    """{candidates: {connections: figures}}."""
    found: dict[str, dict[str, Any]] = {}
    for (n, connections), cell in cells.items():
        found.setdefault(str(n), {})[str(connections)] = cell.figures()
    return found


def limit_us(cells: Cells, load: tuple[int, int]) -> float:
    """Processor time of the cheaper HTTP server that does nothing."""
    return min(cells[f"noop_{kind}"][load].cpu_us for kind in noop.KINDS)


def ratios(cells: Cells, raw_us: Mapping[str, Mapping[str, float]], plan: Plan) -> dict[str, float]:
    """Ours over the limit, peers over ours, in processor time a request: each at the number of connections where it looks worse
    for us."""
    found = {}
    for n in plan.candidates:
        fastest = min(engine[str(n)] for engine in raw_us.values())
        loads = [(n, connections) for connections in plan.connections]
        ours = {load: cells[OURS][load].cpu_us for load in loads}
        found[f"limit_n{n}"] = max(ours[load] / (limit_us(cells, load) + fastest) for load in loads)
        for ratio, peer in PEERS.items():
            found[f"{ratio}_n{n}"] = min(cells[peer][load].cpu_us / ours[load] for load in loads)
    return {name: round(ratio, 2) for name, ratio in found.items()}


def beyond(knees: Mapping[str, Mapping[str, Any]]) -> dict[str, float | None]:
    """The two ratios around the knee, at the number of candidates where each looks worse."""
    tails = [of_one["p99_over_p50_at_half"] for of_one in knees.values()]
    kept = [of_one["goodput_at_3_over_knee"] for of_one in knees.values()]
    return {
        "p99_over_p50_at_half_knee": None if None in tails else max(tails),
        "goodput_at_3_knees_over_knee": None if None in kept else min(kept),
    }


def hit_rate(cells: Mapping[tuple[int, int], Cell]) -> float | None:
    """Share of users found in the server's cache over all loads; None where it has no cache."""
    whole = stages.Sums()
    for cell in cells.values():
        whole = whole.plus(cell.inside)
    return whole.hit_rate
