"""What Ctrl-C does: ends at once.  Every write is atomic, so the next run goes on from what was finished.

Without it the terminal's signal ends Prefect's own server first, and the flow waits for that server's answer for minutes.
"""

import os
import signal
import sys
from types import FrameType

INTERRUPTED = 130  # what shells call a program ended by Ctrl-C
_SAID = b"\nclickproof: interrupted; run it again to go on from what is finished\n"


def end_at_once() -> None:
    """From now on SIGINT stops Prefect's server, if this process started one, and ends the process."""
    signal.signal(signal.SIGINT, _end)


def _end(_: int, __: FrameType | None) -> None:
    os.write(2, _SAID)  # not by `print`: Python refuses that where the signal came in the middle of another line
    server = sys.modules.get("prefect.server.api.server")
    for started in list(server.SubprocessASGIServer._instances.values()) if server else ():
        if started.server_process is not None:
            started.server_process.kill()
    os._exit(INTERRUPTED)
