"""Tokens of requests that change something: the write token, for events, and the rollout token.  Compared in constant time, and
never logged.

Called by `serving.events` and `serving.rollout_routes` before they read a body.
"""

import hmac
from ipaddress import IPv6Address, ip_address

from fastapi import Request
from pydantic import SecretStr
from starlette.exceptions import HTTPException

_NEEDED = "this needs the write token, as the header 'Authorization: Bearer TOKEN'"
_FAR = (
    "this server has no write token, so only clients on its own machine may write; start it with CLICKPROOF_WRITE_TOKEN, "
    "and send that as 'Authorization: Bearer TOKEN'"
)


def check_writer(request: Request, token: SecretStr) -> None:
    """Raises 401 where the token is missing or wrong, and where there is none, 403 for clients that are not on loopback."""
    if token.get_secret_value():
        check_token(request, token, _NEEDED)
    elif not on_loopback(request.client.host if request.client else ""):
        raise HTTPException(403, _FAR)


def check_token(request: Request, token: SecretStr, needed: str) -> None:
    """Raises 401 with the message `needed` where a request does not show the token."""
    if not hmac.compare_digest(_bearer(request), token.get_secret_value().encode()):
        raise HTTPException(401, needed, {"WWW-Authenticate": "Bearer"})


def on_loopback(host: str) -> bool:
    """Whether an address is this machine's own; a name, or nothing, is not."""
    try:
        address = ip_address(host)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None  # ::ffff:127.0.0.1
    return (mapped or address).is_loopback


def _bearer(request: Request) -> bytes:
    """The token that a request shows; empty where it shows none."""
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    return given.strip().encode("latin-1") if scheme.lower() == "bearer" else b""
