"""`clickproof serve`: the endpoint on a host and port, with the champion and the online store of a home."""

import copy
import gc
import logging
import signal
import socket
import sys
import time
from functools import partial
from typing import Any, cast

import numpy as np
import uvicorn
from fastapi import FastAPI
from uvicorn.config import LOGGING_CONFIG

from features.batch import FeatureSource
from features.catalogue import Entity
from features.online import OnlineSource
from infra.clock import Clock, LakeClock, SystemClock
from infra.errors import ExplainedError
from infra.home import Home
from infra.lake import watermark_us
from infra.redaction import guard
from infra.settings import Settings, use
from models.artefact import Artefact
from models.engines.choice import use_fastest
from serving.app import create_app
from serving.assignment import Assignment
from serving.champion import champion
from serving.connections import within_limits
from serving.events import ClickIntake, add_events
from serving.front_door import WaitingRoom, front_door
from serving.messages import ModelAnswer, context_kinds, context_names
from serving.metrics import ServingMetrics
from serving.metrics_share import SharedMetrics, forget
from serving.policy import Policy, policy_of
from serving.prediction_log import PredictionLog
from serving.rank_handler import Service
from serving.scorer import RankRequest, Scorer, candidate_rows, fetch
from serving.workers import listening, supervise

# An A/A experiment: both arms get the champion, so that assignment, its log and its checks are in use before the first A/B.
ARMS, WEIGHTS = ("a", "b"), (0.5, 0.5)
WARM_UP_ROWS = 20

_log = logging.getLogger("clickproof.serving")


def serve(home: Home, settings: Settings) -> None:
    """Answer requests until the process is told to stop (SIGINT or SIGTERM); the log is closed then.

    Raises ExplainedError where the port is taken.
    """
    _check_ports(settings)
    started_ns = time.monotonic_ns()
    if settings.workers == 1:
        _answer(home, settings, started_ns, ServingMetrics())
        return
    forget(home)
    supervise(settings.workers, partial(_work, home, settings, started_ns))


def _work(home: Home, settings: Settings, started_ns: int, number: int) -> None:
    """One worker of several."""
    use(settings)
    guard()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # uvicorn raises the signal again once it has closed down
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent passes it on
    shared = SharedMetrics(home, number, settings.workers)
    try:
        _answer(home, settings, started_ns, shared.metrics)
    finally:
        shared.close()


def _answer(home: Home, settings: Settings, started_ns: int, metrics: ServingMetrics) -> None:
    app = home_app(home, settings, started_ns, metrics)
    logs: dict[str, Any] = copy.deepcopy(LOGGING_CONFIG)
    logs["loggers"]["clickproof"] = {"handlers": ["default"], "level": "INFO", "propagate": False}
    room = WaitingRoom(app.state.rank)
    if settings.grpc_port:
        from serving.grpc_door import add_grpc  # gRPC's own library is loaded where somebody wants it

        add_grpc(app, room, settings)
    door = within_limits(settings, front_door(app.state.rank, room))
    config = uvicorn.Config(app, access_log=False, log_config=logs, **door)
    with listening(settings.host, settings.port) as sock:
        uvicorn.Server(config).run(sockets=[sock])


def _kept_fresh(service: Service) -> Service:
    """Ads are loaded in the background from now on; a drill, whose clock runs faster, looks at every request instead."""
    source = service.scorer.source
    if isinstance(source, OnlineSource):
        source.keep_fresh()
    return service


def home_app(home: Home, settings: Settings, started_ns: int, metrics: ServingMetrics) -> FastAPI:
    """The whole endpoint of a home: ranking with its champion, and click intake, which needs no model.  They share a clock,
    so that no click comes before its impression; it began to run at `started_ns` (monotonic)."""
    intake = ClickIntake(home)

    def load() -> Service:
        clock = server_clock(home, settings, started_ns)
        intake.open(clock)
        return _kept_fresh(load_service(home, settings, clock))

    app = create_app(load, settings, metrics)
    add_events(app, intake, settings, metrics)
    return app


def _check_ports(settings: Settings) -> None:
    """Raises ExplainedError where somebody listens on a port already, before a model is loaded in vain."""
    if settings.grpc_port == settings.port:
        raise ExplainedError(
            f"REST and gRPC can't both have port {settings.port}; choose another with CLICKPROOF_GRPC_PORT=8011"
        )
    for port, setting in ((settings.port, "CLICKPROOF_PORT=8010"), (settings.grpc_port, "CLICKPROOF_GRPC_PORT=8011")):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((settings.host, port))  # 0, for no port, is always free
            except OSError as error:
                raise ExplainedError(
                    f"{settings.host}:{port} can't be used: {error.strerror}; choose another with {setting}"
                ) from error


def load_service(home: Home, settings: Settings, clock: Clock | None = None) -> Service:
    """The champion of a home with its online store, ready and warm; `clock` is by default what the settings ask for.

    Raises where a home has no champion or no features."""
    artefact = champion(home, settings.threads)
    engine = use_fastest(artefact.model)
    context = context_names(artefact.spec.names)
    source = OnlineSource(home, cast(tuple[Entity, ...], artefact.entities), context, artefact.service, degrade=True)
    try:
        policy = policy_of(settings.epsilon)
        clock = clock or server_clock(home, settings)
        assignment = Assignment(settings.experiment_salt, ARMS, WEIGHTS)
        warm_up(source, artefact, clock)
        scorer = Scorer(source, artefact, policy, assignment, PredictionLog(home), clock)
    except BaseException:
        source.close()
        raise
    gc.collect()
    gc.freeze()  # what is loaded now stays: the collector need not look at it again and again
    _log.info(
        "serving %s model %s with policy %s, %d thread(s), on %s; log %s",
        artefact.family, artefact.hash, policy.name, settings.threads, clock, scorer.log.path if scorer.log else None,
    )  # fmt: skip
    _log.info("engine: %s", engine)
    return Service(scorer, context_kinds(context), describe(artefact, context, policy, assignment, engine))


def server_clock(home: Home, settings: Settings, started_ns: int | None = None) -> Clock:
    """The clock that the settings ask for.  Raises ExplainedError for a name that doesn't exist."""
    if settings.clock == "system":
        return SystemClock()
    if settings.clock == "lake":
        return LakeClock(watermark_us(home), time.monotonic_ns() if started_ns is None else started_ns)
    raise ExplainedError(f"CLICKPROOF_CLOCK is {settings.clock!r}; it can be lake or system")


def warm_up(source: FeatureSource, artefact: Artefact, clock: Clock) -> None:
    """One request of someone unknown, not logged: the first real one should not pay for imports, caches and allocations."""
    kinds = context_kinds(context_names(artefact.spec.names))
    context: dict[str, str | int] = {name: "" if kind == "string" else -1 for name, kind in kinds.items()}
    request = RankRequest(user_id=-1, ad_id=np.arange(WARM_UP_ROWS), slots=1, context=context)
    batch = fetch(source, candidate_rows(request, clock.now_us()))
    artefact.probability(artefact.score(batch.columns), np.zeros(WARM_UP_ROWS, np.int64))


def describe(artefact: Artefact, context: tuple[str, ...], policy: Policy, assignment: Assignment, engine: str) -> ModelAnswer:
    """What GET /v1/model says."""
    spec = artefact.spec
    return ModelAnswer(
        artefact.hash,
        artefact.encoder_hash,
        artefact.family,
        {"categorical": list(spec.categorical), "numeric": list(spec.numeric), "sequence": list(spec.sequence)},
        {name: "string" if kind == "string" else "integer" for name, kind in context_kinds(context).items()},
        policy.name,
        dict(zip(assignment.arms, assignment.weights, strict=True)),
        engine,
    )
