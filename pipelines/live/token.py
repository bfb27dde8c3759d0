"""The drill token: who may break things.  Read from the settings, or made up at start; compared in constant time.

Called by the page, and by the endpoint that a drill starts.  A header carries it: no page of another origin can send that.
"""

import hmac
import secrets

from starlette.exceptions import HTTPException
from starlette.requests import Request

from infra.settings import Settings

HEADER = "X-Drill-Token"


def drill_token(chosen: Settings) -> str:
    """The settings' token, or a new one."""
    return chosen.drill_token or secrets.token_urlsafe(16)


def holds(given: str | None, token: str) -> bool:
    """Whether somebody showed the token; how long that takes to say does not depend on how nearly right it was."""
    return hmac.compare_digest((given or "").encode(), token.encode())


def check(request: Request, token: str) -> None:
    """Raises a 403 that says what is missing."""
    if not holds(request.headers.get(HEADER), token):
        raise HTTPException(403, f"this needs the drill token in the header {HEADER}; `clickproof live` prints it")
