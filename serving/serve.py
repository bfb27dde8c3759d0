"""`clickproof serve`: the endpoint on a host and port, with the champion and the online store of a home."""

import logging
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial

import uvicorn
from fastapi import FastAPI

from infra import logs
from infra.clock import Clock, LakeClock, SystemClock
from infra.errors import ExplainedError
from infra.home import Home
from infra.lake import watermark_us
from infra.redaction import guard
from infra.settings import Settings, use
from serving import rollout_store, shadow_log
from serving.app import create_app
from serving.companions import Companion, Companions
from serving.connections import within_limits
from serving.events import ClickIntake, add_events
from serving.follower import NOT_YET, Follower
from serving.front_door import front_door
from serving.metrics import ServingMetrics
from serving.metrics_share import SharedMetrics, forget
from serving.rank_handler import Service
from serving.rollout_audit import sent_back
from serving.rollout_routes import add_rollout
from serving.waiting_room import WaitingRoom
from serving.workers import Place, listening, supervise

GIVE_WAY_S = 1e-3  # a thread that loads a model or ads gives way to requests this soon: Python's 5 ms are several answers

_log = logging.getLogger("clickproof.serving")


SHADOWS = Companion("serving.shadow", lambda rollout: bool(rollout.shadows))


def serve(home: Home, settings: Settings, companions: Sequence[Companion] = ()) -> None:
    """Answer requests until the process is told to stop (SIGINT or SIGTERM); the log is closed then.

    `companions` run beside it when the rollout wants them, and the scorer of shadows.  Raises ExplainedError where the port is
    taken.
    """
    logs.begin(settings.log_format)
    _check_ports(settings)
    started_ns = time.monotonic_ns()
    beside = Companions(home, settings, (SHADOWS, *companions))
    try:
        if settings.workers == 1:
            _answer(home, settings, started_ns, ServingMetrics())
            return
        forget(home)
        supervise(settings.workers, partial(_work, home, settings, started_ns))
    finally:
        beside.close()


def _work(home: Home, settings: Settings, started_ns: int, place: Place) -> None:
    """One worker of several."""
    use(settings)
    guard()
    logs.begin(settings.log_format, place.number)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # uvicorn raises the signal again once it has closed down
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent passes it on
    shared = SharedMetrics(home, place.number, settings.workers)
    try:
        _answer(home, settings, started_ns, shared.metrics, place)
    except Exception:  # noqa: BLE001 - whatever it is, it ends the worker
        _log.critical("worker %d ends", place.number, exc_info=True)  # what multiprocessing would print is not redacted
        sys.exit(1)
    finally:
        shared.close()


def _answer(home: Home, settings: Settings, started_ns: int, metrics: ServingMetrics, place: Place | None = None) -> None:
    servers: list[uvicorn.Server] = []

    def held(ready: bool) -> bool:
        return place is not None and place.held(ready) and not servers[0].should_exit

    sys.setswitchinterval(GIVE_WAY_S)
    app = home_app(home, settings, started_ns, metrics, place.ready if place else None, held)
    room = WaitingRoom(app.state.rank)
    if settings.grpc_port:
        from serving.grpc_door import add_grpc  # gRPC's own library is loaded where somebody wants it

        add_grpc(app, room, settings)
    door = within_limits(settings, front_door(app.state.rank, room))
    config = uvicorn.Config(app, access_log=False, log_config=None, **door)
    with listening(settings.host, settings.port) as sock:
        servers.append(uvicorn.Server(config))
        servers[0].run(sockets=[sock])


def home_app(
    home: Home,
    settings: Settings,
    started_ns: int,
    metrics: ServingMetrics,
    ready: Callable[[], None] | None = None,
    held: Callable[[bool], bool] | None = None,
) -> FastAPI:
    """The whole endpoint of a home: ranking as its rollout says, and click intake, which needs no model.  They share a clock,
    so that no click comes before its impression; it began to run at `started_ns` (monotonic).

    `ready` is called when requests can be answered, and may be called again; `held` is that of `serving.app.create_app`."""
    intake = ClickIntake(home)
    following: list[Follower] = []

    def load() -> Service:
        clock = server_clock(home, settings, started_ns)
        metrics.watch_log("events", intake.open(clock).files)
        following[:] = [Follower(home, settings, clock, background=True)]
        service = following[0].load()
        _tell(home, following[0], metrics)
        return service

    def renew() -> Service | None:
        if ready is not None:
            ready()
        follower = following[0]
        before = follower.rollout, follower.refusals
        service = follower.renew()
        if (follower.rollout, follower.refusals) != before:
            _tell(home, follower, metrics)
        return service

    app = create_app(load, settings, metrics, renew, held)
    add_events(app, intake, settings, metrics)
    add_rollout(app, home, settings, metrics, lambda name: following[0].tried(name) if following else NOT_YET)
    return app


def _tell(home: Home, follower: Follower, metrics: ServingMetrics) -> None:
    """What metrics say of the rollout."""
    rollout = follower.rollout
    if rollout is not None:
        ended = sent_back(rollout_store.history(home))
        behind_s = partial(shadow_log.behind_s, home, SystemClock().now_us()) if rollout.shadows else float
        metrics.rollout(rollout.number, follower.answering, len(follower.refusals), ended, behind_s)


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
    """What a home serves now, ready and warm; `clock` is by default what the settings ask for.

    Raises where a home has no champion or no features."""
    return Follower(home, settings, clock or server_clock(home, settings)).load()


def server_clock(home: Home, settings: Settings, started_ns: int | None = None) -> Clock:
    """The clock that the settings ask for."""
    if settings.clock == "system":
        return SystemClock()
    return LakeClock(watermark_us(home), time.monotonic_ns() if started_ns is None else started_ns)
