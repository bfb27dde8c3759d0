"""`clickproof live`: starts the endpoint, the market, the monitors and the page on a branch, and ends them together.

Everything runs on this machine and on loopback.  The branch is dropped at the end; the base is never written.
"""

import fcntl
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from types import FrameType
from typing import Any

import uvicorn
from pydantic import SecretStr

from infra import branch, child
from infra.clock import day_name
from infra.errors import ExplainedError
from infra.home import Home
from infra.progress import progress
from infra.settings import Settings, secret_names
from pipelines.console import say
from pipelines.incident_store import IncidentStore
from pipelines.live import reference as reference_days
from pipelines.live.app import page_app
from pipelines.live.measures import KEPT_US, Measures
from pipelines.live.over_http import OverHttp
from pipelines.live.pace import Pace
from pipelines.live.room import Room
from pipelines.live.system import System
from pipelines.live.token import drill_token
from pipelines.live.vitals import Vitals
from pipelines.sources.registry import source_of
from pipelines.sources.world.source import WorldSource
from pipelines.training import SERVICE
from pipelines.watcher import Watcher
from pipelines.windows import columns_of
from serving.champion import champion
from serving.connections import within_limits

START_S = 120.0  # a busy machine takes its time to import everything
RUN = "run"  # the branch's name


def live(chosen: Settings) -> None:
    """Run until SIGINT or SIGTERM.  Raises ExplainedError where there is nothing to run, or the port is taken."""
    source = source_of(chosen)
    if not isinstance(source, WorldSource):
        raise ExplainedError(f"the control room needs a market that answers; {chosen.source} is a finished log")
    base = replace(chosen.base(), writable=False)
    if not base.lake.exists():
        raise ExplainedError(
            f"{base.root} holds nothing to run yet: make train (or name the size that you trained: --size tiny)"
        )
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        with ExitStack() as stack:
            _serve(_start(base, source, chosen, stack), chosen, stack)
    except KeyboardInterrupt:
        say("stopped; the branch is dropped")


def _interrupt(_: int, __: FrameType | None) -> None:
    raise KeyboardInterrupt


def _start(base: Home, source: WorldSource, chosen: Settings, stack: ExitStack) -> tuple[Room, dict[str, Any]]:
    """Everything but the page, running; what was started ends with `stack`."""
    page = stack.enter_context(_listening(chosen))
    usual = reference_days.reference(replace(base, writable=True), source, chosen, chosen.live_days)
    home = stack.enter_context(_branch_of(usual))
    artefact = champion(home)
    columns = columns_of(source.spec.entities, source.spec.context, artefact.service)
    token = drill_token(chosen)
    watcher = stack.enter_context(Watcher(columns))
    port = stack.enter_context(_endpoint(home, chosen, token, reference_days.before(usual)))
    measures, logs = Measures(columns), []
    end_us = source.resume(home).now_us
    windows = progress(reference_days.windows(usual), "monitors learn", "hour", reference_days.count(usual))
    for window in windows:
        watcher.warm_up(window)
        measures.learn(window)
        if window.end_us > end_us - KEPT_US:
            logs.append(window.log)
    measures.ready()
    system = System(home, source, SERVICE, logs)
    stack.callback(system.close)
    pace = Pace(chosen.live_speed, system.now_us)
    store = IncidentStore(home, chosen.webhook_url.get_secret_value())
    ask = OverHttp(home, port, token, pace, chosen.write_token.get_secret_value())
    room = Room(system, ask, pace, watcher, measures, Vitals(port), token, store)
    stack.callback(room.stop)
    _wait_ready(port)
    room.start()
    host, page_port = page.getsockname()
    say(f"control room: http://{host}:{page_port}/#token={token}")
    say(f"endpoint:     http://127.0.0.1:{port} (champion {artefact.hash})")
    say(f"the market goes on from {day_name(system.now_us)}; Ctrl-C stops everything")
    about = {
        "model": artefact.hash,
        "family": artefact.family,
        "size": chosen.size,
        "branch": str(home.root),
        "endpoint": f"http://127.0.0.1:{port}",
        "reference_days": chosen.live_days,
        "columns": {"categorical": list(columns.categorical), "numeric": list(columns.numeric)},
        "max_age_s": dict(columns.max_age_s),
    }
    return room, {"about": about, "socket": page}


def _serve(started: tuple[Room, dict[str, Any]], chosen: Settings, stack: ExitStack) -> None:
    room, rest = started
    app, limits = page_app(room, rest["about"]), within_limits(chosen)
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=2, **limits)
    uvicorn.Server(config).run(sockets=[rest["socket"]])


@contextmanager
def _listening(chosen: Settings) -> Iterator[socket.socket]:
    """The page's socket, taken before anything slow is started."""
    with closing(socket.socket()) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((chosen.host, chosen.live_port))
        except OSError as error:
            raise ExplainedError(
                f"{chosen.host}:{chosen.live_port} can't be used: {error.strerror}; choose another with --port 8090"
            ) from error
        yield listening


@contextmanager
def _branch_of(usual: Home) -> Iterator[Home]:
    """The branch that is broken, dropped at the end; one that a killed run left is dropped first."""
    with (usual.root / ".running").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ExplainedError(f"another control room runs on {usual.root}; stop it first, or train another --seed") from None
        left = Home(usual.branches / RUN)
        if left.root.exists():
            branch.drop(left)
        home = branch.create(replace(usual, writable=False), RUN)
        try:
            yield home
        finally:
            branch.drop(home)


@contextmanager
def _endpoint(home: Home, chosen: Settings, token: str, previous: str) -> Iterator[int]:
    """The endpoint's process on a free loopback port; it ends with its standard input, however this process ends."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    elsewhere = {name: SecretStr("") for name in secret_names() if name != "write_token"}  # a branch has all its state itself
    settings = chosen.model_copy(update={**elsewhere, "host": "127.0.0.1"})
    process = child.start("pipelines.live.endpoint", settings, root=str(home.root), port=port, token=token, previous=previous)
    try:
        yield port
    finally:
        child.stop(process, 20)


def _wait_ready(port: int) -> None:
    """Return when the endpoint has loaded its model.  Raises ExplainedError where it does not within `START_S`."""
    end, said = time.perf_counter() + START_S, "no answer"
    while time.perf_counter() < end:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5):
                return
        except urllib.error.HTTPError as error:
            said = error.read().decode()[-500:]
            if "no model could be loaded" in said:
                break
        except OSError:
            said = "no connection"
        time.sleep(0.1)
    raise ExplainedError(f"the endpoint was not ready after {START_S:g} s; /readyz said: {said}")
