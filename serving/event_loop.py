"""How late the event loop is: what one long turn costs everybody who waits.  Started by `serving.app`."""

import asyncio
from time import monotonic_ns

from serving.histogram import Times

EVERY_S = 0.1


async def feel(lag: Times) -> None:
    """Until cancelled: sleep a while, and add by how much it was longer than asked for."""
    while True:
        began = monotonic_ns()
        await asyncio.sleep(EVERY_S)
        lag.add(max(0, monotonic_ns() - began - int(EVERY_S * 1e9)))
