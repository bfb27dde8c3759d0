"""A process that works for another one and never outlives it: told what to do by one line on its standard input, which then
stays open until the parent closes it or dies.

Settings go this way too, with their secrets: what stands on a command line, everybody on the machine can read.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from typing import IO, Any

from infra.redaction import guard
from infra.settings import Settings, revealed, use


def start(module: str, chosen: Settings, **more: Any) -> "subprocess.Popen[bytes]":
    """Run `python -m module` with these settings, and with `more`, which must be JSON.  It ends with its standard input.

    It is in a session of its own: the terminal's Ctrl-C is for the parent, which then ends it."""
    process = subprocess.Popen([sys.executable, "-m", module], stdin=subprocess.PIPE, start_new_session=True)
    with suppress(BrokenPipeError):  # it is dead already; its status says so to whoever looks
        _pipe(process).write(json.dumps({"settings": revealed(chosen), **more}).encode() + b"\n")
        _pipe(process).flush()
    return process


def stop(process: "subprocess.Popen[bytes]", seconds: float = 30.0) -> None:
    """Let it end, and wait for that; kill it where it takes longer."""
    with suppress(BrokenPipeError):
        _pipe(process).close()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def ordered() -> tuple[Settings, dict[str, Any]]:
    """In the child: the settings, which are this process' from now on, and what else the parent said.

    From now on the process gets SIGTERM when its standard input closes, and ends by it as by `sys.exit`."""
    order = json.loads(sys.stdin.readline())
    chosen = Settings(**order.pop("settings"))
    use(chosen)
    guard()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    threading.Thread(target=_end_with_parent, name="end with parent", daemon=True).start()
    return chosen, order


def _end_with_parent() -> None:
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


def _pipe(process: "subprocess.Popen[bytes]") -> IO[bytes]:
    assert process.stdin is not None
    return process.stdin
