"""The drill token: who may break things.  Read from the settings, or made up at start; compared in constant time.

Called by the page, and by the endpoint that a drill starts.  A header carries it: a page of another origin can't send that
without being allowed to, which nobody is.
"""

import hmac
import secrets

from starlette.exceptions import HTTPException
from starlette.requests import Request

from infra.redaction import hide
from infra.settings import Settings

HEADER = "X-Drill-Token"


def drill_token(chosen: Settings) -> str:
    """The settings' token, or a new one; from now on no log shows it."""
    token = chosen.drill_token.get_secret_value() or secrets.token_urlsafe(16)
    hide(token)
    return token


def holds(given: str | None, token: str) -> bool:
    """Whether somebody showed the token; how long that takes to say does not depend on how nearly right it was."""
    return hmac.compare_digest((given or "").encode(), token.encode())


def check(request: Request, token: str) -> None:
    """Raises a 403 that says what is missing."""
    if not holds(request.headers.get(HEADER), token):
        raise HTTPException(403, f"this needs the drill token in the header {HEADER}; `clickproof live` prints it")
