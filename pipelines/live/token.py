"""The drill token: who may break things.  Read from the settings, or made up at start; compared in constant time.

Called by the page, and by the endpoint that a drill starts.  A header carries it: a page of another origin can't send that
without being allowed to, which nobody is.
"""

import hmac
import secrets

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from infra.redaction import hide
from infra.settings import Settings

HEADER = "X-Drill-Token"
_MISSING = f"this needs the drill token in the header {HEADER}; `clickproof live` prints it"


def drill_token(chosen: Settings) -> str:
    """The settings' token, or a new one; from now on no log shows it."""
    token = chosen.drill_token.get_secret_value() or secrets.token_urlsafe(16)
    hide(token)
    return token


def holds(given: str | None, token: str) -> bool:
    """Whether somebody showed the token; how long that takes to say does not depend on how nearly right it was.

    Nobody holds an empty token."""
    return bool(token) and hmac.compare_digest((given or "").encode(), token.encode())


class TokenNeeded:
    """Middleware: below a path, whatever is not only read needs the token; without it nothing of the body is read."""

    def __init__(self, app: ASGIApp, token: str, below: str) -> None:
        self._app, self._token, self._below = app, token, below

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        writes = scope["type"] == "http" and scope["method"] not in ("GET", "HEAD") and scope["path"].startswith(self._below)
        if writes and not holds(Headers(scope=scope).get(HEADER), self._token):
            await JSONResponse({"detail": _MISSING}, 403)(scope, receive, send)
        else:
            await self._app(scope, receive, send)
