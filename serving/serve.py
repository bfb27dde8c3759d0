"""`clickproof serve`: the endpoint on a host and port, with the champion and the online store of a home."""

import copy
import logging
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.config import LOGGING_CONFIG

from infra.clock import Clock, LakeClock, SystemClock
from infra.errors import ExplainedError
from infra.home import Home
from infra.lake import watermark_us
from infra.redaction import guard
from infra.settings import Settings, use
from serving.app import create_app
from serving.companions import Companion, Companions
from serving.connections import within_limits
from serving.events import ClickIntake, add_events
from serving.follower import NOT_YET, Follower
from serving.front_door import front_door
from serving.metrics import ServingMetrics
from serving.metrics_share import SharedMetrics, forget
from serving.rank_handler import Service
from serving.rollout_routes import add_rollout
from serving.workers import Place, listening, supervise

_log = logging.getLogger("clickproof.serving")


SHADOWS = Companion("serving.shadow", lambda rollout: bool(rollout.shadows))


def serve(home: Home, settings: Settings, companions: Sequence[Companion] = ()) -> None:
    """Answer requests until the process is told to stop (SIGINT or SIGTERM); the log is closed then.

    `companions` run beside it when the rollout wants them, and the scorer of shadows.  Raises ExplainedError where the port is
    taken.
    """
    _check_port(settings)
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
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # uvicorn raises the signal again once it has closed down
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent passes it on
    shared = SharedMetrics(home, place.number, settings.workers)
    try:
        _answer(home, settings, started_ns, shared.metrics, place)
    finally:
        shared.close()


def _answer(home: Home, settings: Settings, started_ns: int, metrics: ServingMetrics, place: Place | None = None) -> None:
    servers: list[uvicorn.Server] = []

    def held(ready: bool) -> bool:
        return place is not None and not place.opens and not (ready and place.opened.is_set()) and not servers[0].should_exit

    app = home_app(home, settings, started_ns, metrics, place.opened.set if place else None, held)
    logs: dict[str, Any] = copy.deepcopy(LOGGING_CONFIG)
    logs["loggers"]["clickproof"] = {"handlers": ["default"], "level": "INFO", "propagate": False}
    door = within_limits(settings, front_door(app.state.rank))
    config = uvicorn.Config(app, access_log=False, log_config=logs, **door)
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
        intake.open(clock)
        following[:] = [Follower(home, settings, clock, background=True)]
        return following[0].load()

    def renew() -> Service | None:
        if ready is not None:
            ready()
        return following[0].renew()

    app = create_app(load, settings, metrics, renew, held)
    add_events(app, intake, settings, metrics)
    add_rollout(app, home, settings, metrics, lambda name: following[0].tried(name) if following else NOT_YET)
    return app


def _check_port(settings: Settings) -> None:
    """Raises ExplainedError where somebody listens on the port already, before a model is loaded in vain."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            raise ExplainedError(
                f"{settings.host}:{settings.port} can't be used: {error.strerror}; choose another with CLICKPROOF_PORT=8010"
            ) from error


def load_service(home: Home, settings: Settings, clock: Clock | None = None) -> Service:
    """What a home serves now, ready and warm; `clock` is by default what the settings ask for.

    Raises where a home has no champion or no features."""
    return Follower(home, settings, clock or server_clock(home, settings)).load()


def server_clock(home: Home, settings: Settings, started_ns: int | None = None) -> Clock:
    """The clock that the settings ask for.  Raises ExplainedError for a name that doesn't exist."""
    if settings.clock == "system":
        return SystemClock()
    if settings.clock == "lake":
        return LakeClock(watermark_us(home), time.monotonic_ns() if started_ns is None else started_ns)
    raise ExplainedError(f"CLICKPROOF_CLOCK is {settings.clock!r}; it can be lake or system")
