"""The control room's page: static files, the state as JSON, and the writes that need the drill token.

The page asks for the state once a second.  It asks no other host for anything, and a Content-Security-Policy holds it to that.
A browser that asks for the page of another site is refused.
Built by `pipelines.live.run`.
"""

from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from infra.errors import ExplainedError
from pipelines.live.pace import SPEEDS
from pipelines.live.report import report_html
from pipelines.live.room import Room, bugs
from pipelines.live.token import TokenNeeded

PAGE = files("pipelines.live") / "page"
_POLICY = "default-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
# Evidently's report holds its own scripts and styles inline, and words from the log: in a sandbox it can reach neither the page
# nor the token that the page keeps.
_REPORT_POLICY = (
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; "
    "img-src data:; font-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


_ANOTHER_SITE = "a page of another site asked for this; open the control room itself"


class Wanted(BaseModel):
    """Body of POST /api/inject."""

    code: str
    intensity: str


class Speed(BaseModel):
    """Body of POST /api/speed."""

    speed: float = Field(ge=0)


def page_app(room: Room, about: dict[str, Any]) -> FastAPI:
    """The page of a control room; `about` is what does not change: model, size, endpoint."""
    app = FastAPI(title="Clickproof control room", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    fixed = {**about, "bugs": bugs(), "speeds": list(SPEEDS)}

    app.add_middleware(TokenNeeded, token=room.token, below="/api/")

    @app.middleware("http")
    async def headers(request: Request, call: Callable[[Request], Awaitable[Response]]) -> Response:
        answer = await call(request) if _of_this_site(request) else JSONResponse({"detail": _ANOTHER_SITE}, 403)
        answer.headers.setdefault("Content-Security-Policy", _POLICY)
        answer.headers["X-Content-Type-Options"] = "nosniff"
        answer.headers["Referrer-Policy"] = "no-referrer"
        answer.headers["Cache-Control"] = "no-store"
        return answer

    @app.get("/api/about")
    def about_it() -> dict[str, Any]:
        return fixed

    @app.get("/api/state")
    def state() -> dict[str, Any]:
        return room.state()

    @app.get("/api/incidents/{number}")
    def incident(number: int) -> dict[str, Any]:
        return room.incident(number)

    @app.get("/api/incidents/{number}/report")
    def report(number: int) -> Response:
        html = report_html(room.incident(number), list(room.evidence.logs), room.evidence.reference)
        return Response(html, media_type="text/html; charset=utf-8", headers={"Content-Security-Policy": _REPORT_POLICY})

    @app.post("/api/inject")
    def inject(wanted: Wanted) -> dict[str, Any]:
        room.inject(wanted.code, wanted.intensity)
        return room.state()

    @app.post("/api/heal")
    def heal() -> dict[str, Any]:
        room.heal()
        return room.state()

    @app.post("/api/speed")
    def speed(wanted: Speed) -> dict[str, Any]:
        room.pace.set(wanted.speed)
        return room.state()

    @app.post("/api/incidents/{number}/{state}")
    def judge(number: int, state: str) -> dict[str, Any]:
        if state not in ("acknowledged", "false-alarm"):
            raise HTTPException(404, "an incident can be acknowledged or called a false-alarm")
        room.judge(number, state)
        return room.state()

    @app.exception_handler(ExplainedError)
    def explained(request: Request, error: ExplainedError) -> Response:
        return JSONResponse({"detail": str(error)}, 409)

    app.mount("/", StaticFiles(directory=str(PAGE), html=True), name="page")
    return app


def _of_this_site(request: Request) -> bool:
    """Whether nobody says that a page of another site sent this: browsers do, in headers that no page can change.

    Opening the page from a link elsewhere is fine.  Programs that are no browsers send neither header."""
    fetched = request.headers.get("sec-fetch-site", "none")
    origin = urlsplit(request.headers.get("origin", ""))
    if request.scope["path"].startswith("/api/") and fetched not in ("none", "same-origin"):
        return False
    return "origin" not in request.headers or origin.netloc == request.headers.get("host")
