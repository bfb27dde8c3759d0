"""Log lines about requests that were refused: a few a second, and how many were left out, so that asking fills no disk.

What was sent is not repeated, only the id that a request gave itself.  Used by `serving.rank_handler` and `serving.app`.
"""

import logging
from time import monotonic

import msgspec

from infra.logs import about
from serving.messages import Id

LINES_A_SECOND = 10
_log = logging.getLogger("clickproof.serving")


class _Named(msgspec.Struct):
    request_id: Id | None = None


_named = msgspec.json.Decoder(_Named)


class Refusals:
    """Of a process."""

    def __init__(self) -> None:
        self._since = 0.0  # monotonic: when the present second began
        self._told = self._left_out = 0

    def tell(self, route: str, status: int, body: bytes = b"", request_id: int | None = None) -> None:
        """A request was refused with this status; its id is in the body that it sent, where not given."""
        now = monotonic()
        if now - self._since >= 1.0:
            if self._left_out:
                _log.info("%d more requests were refused", self._left_out)
            self._since, self._told, self._left_out = now, 0, 0
        if self._told >= LINES_A_SECOND:
            self._left_out += 1
            return
        self._told += 1
        known = _id(body) if request_id is None else request_id
        before = about.set(() if known is None else (known,))
        try:
            _log.info("a request was refused: %s, %d", route, status, extra={"fields": {"route": route, "status": status}})
        finally:
            about.reset(before)


def _id(body: bytes) -> int | None:
    """The id that a body gives its request; None where it has none, or is no such body."""
    try:
        return _named.decode(body).request_id if body else None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
