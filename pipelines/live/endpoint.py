"""The endpoint that a drill breaks: the production app with wrapped parts and routes to inject and heal; a process of its own.

`python -m pipelines.live.endpoint` is told folder, port, drill token, settings and previous model as `infra.child` does, and
serves until its parent ends or it is told to stop.  The routes exist here
only, and need the token; so does the header with which a request brings its simulated time.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from starlette.types import ASGIApp, Receive, Scope, Send

from infra import child
from infra.home import Home
from infra.redaction import hide
from infra.settings import Settings
from models.artefact import Artefact, load
from monitoring.bugs.catalogue import bug as look_up
from pipelines.live.injection import Fault, Injection
from pipelines.live.token import HEADER, TokenNeeded, holds
from pipelines.live.wrapped import WrappedScorer, asked_at_us
from serving.app import create_app
from serving.connections import within_limits
from serving.events import ClickIntake, add_events
from serving.metrics import ServingMetrics
from serving.rank_handler import Service
from serving.serve import load_service

KEEP_ALIVE_S = 86_400
TIME_HEADER = "X-Drill-Time"  # microseconds since the epoch, UTC


class Order(BaseModel):
    """Body of POST /drill/inject."""

    code: str
    intensity: str
    seed: int
    onset_us: int


class Timed:
    """Middleware: a request that shows the token may say what time it is."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app, self._token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] == "http":
            headers = dict(scope["headers"])
            at_us = headers.get(TIME_HEADER.lower().encode())
            if at_us is not None and holds(headers.get(HEADER.lower().encode(), b"").decode("latin-1"), self._token):
                asked_at_us.set(int(at_us))
        await self._app(scope, receive, send)


def drill_app(home: Home, settings: Settings, token: str, previous: str) -> FastAPI:
    """The production app on a branch, composed for a drill; `previous` is the hash of the model that served before."""
    fault = Fault()
    scorers: list[WrappedScorer] = []
    intake, metrics = ClickIntake(home), ServingMetrics()

    def compose() -> Service:
        service = load_service(home, settings)
        fault.artefacts = artefacts(home, previous)
        scorers.append(WrappedScorer(service.scorer, fault))
        intake.open(scorers[0].clock)
        return replace(service, scorer=scorers[0])

    app = create_app(compose, settings, metrics)
    add_events(app, intake, settings, metrics)
    app.add_middleware(Timed, token=token)
    app.add_middleware(TokenNeeded, token=token, below="/drill/")

    @app.post("/drill/inject", include_in_schema=False)
    async def inject(order: Order) -> dict[str, Any]:
        scorers[0].begin(Injection(look_up(order.code), order.intensity, order.seed, order.onset_us))
        return {"injected": order.code}

    @app.post("/drill/heal", include_in_schema=False)
    async def heal() -> dict[str, Any]:
        scorers[0].begin(None)
        return {"injected": None}

    return app


def artefacts(home: Home, previous: str) -> Mapping[str, Artefact]:
    """The models that a rollout could mistake for the champion: by family, and `previous`, which served before it."""
    folders = [path for path in sorted(home.artefacts.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    found = {folder.name: load(home.artefacts, folder.name) for folder in folders}
    return {**{artefact.family: artefact for name, artefact in found.items() if name != previous}, "previous": found[previous]}


def main() -> None:
    """Serve as standard input says."""
    settings, order = child.ordered()
    hide(order["token"])
    app = drill_app(Home(Path(order["root"])), settings, order["token"], order["previous"])
    # The market keeps one connection, and may be paused for long.
    uvicorn.run(
        app,
        host=settings.host,
        port=order["port"],
        access_log=False,
        log_level="warning",
        timeout_keep_alive=KEEP_ALIVE_S,
        **within_limits(settings),
    )


if __name__ == "__main__":
    main()
