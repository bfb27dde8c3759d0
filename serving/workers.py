"""Several processes behind one port: each with its own event loop, store connection and log segment; they share nothing.

Every worker listens on the port by itself (SO_REUSEPORT) and the kernel deals connections out, so no process is in the way of
another's.  The parent only starts them, starts again what died, and passes on the signal to stop.  Called by `serving.serve`.
"""

import logging
import multiprocessing as mp
import multiprocessing.connection
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event

RESTART_S = (0.2, 10.0)  # first and longest wait before a dead worker is started again
SOUND_S = 5.0  # a worker that lived as long did not die of its start, and is started again after the first of these
LOOK_S = 0.05
STOP_S = 30.0  # for the requests under way

_log = logging.getLogger("clickproof.serving")


def listening(host: str, port: int) -> socket.socket:
    """A socket that shares its port with the other workers'."""
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind((host, port))
    return sock


@dataclass(frozen=True, slots=True)
class Place:
    """One worker's place among the others.

    The first one listens while it loads, to say so, the first time.  Every other one listens only when it can answer and the
    first one can too: nobody whom others could serve is told to wait."""

    number: int
    opened: Event  # set once worker 0 can answer

    def held(self, ready: bool) -> bool:
        """Whether this worker does not listen yet; `ready` is whether it can answer."""
        if self.opened.is_set():
            return not ready
        return self.number != 0

    def ready(self) -> None:
        """It can answer now; may be said again."""
        if self.number == 0:
            self.opened.set()


def supervise(count: int, work: Callable[[Place], None]) -> None:
    """Run `work(place)` in `count` processes until SIGINT or SIGTERM; whichever dies before that is started again.

    `work` must be picklable, and end on SIGTERM."""
    context = mp.get_context("spawn")
    opened = context.Event()
    stopping: list[int] = []
    for wanted in (signal.SIGINT, signal.SIGTERM):
        signal.signal(wanted, lambda received, _: stopping.append(received))
    waits, started = [RESTART_S[0]] * count, [0.0] * count
    due: dict[int, float] = {}  # the dead, and when they are started again
    workers: list[BaseProcess] = []

    def start(number: int) -> BaseProcess:
        process = context.Process(target=work, args=(Place(number, opened),), name=f"worker {number}")
        process.start()
        started[number] = time.monotonic()
        return process

    workers += [start(number) for number in range(count)]
    while not stopping:
        multiprocessing.connection.wait([one.sentinel for at, one in enumerate(workers) if at not in due], timeout=LOOK_S)
        now = time.monotonic()
        for number, process in enumerate(workers):
            if number in due:
                if now >= due[number] and not stopping:
                    del due[number]
                    workers[number] = start(number)
            elif not process.is_alive():
                sound = now - started[number] > SOUND_S
                waits[number] = RESTART_S[0] if sound else min(waits[number] * 2, RESTART_S[1])
                due[number] = now + waits[number]
                _log.error("worker %d ended with status %s; starting it again", number, process.exitcode)
    for process in workers:
        process.terminate()
    for process in workers:
        process.join(STOP_S)
        if process.is_alive():
            _log.error("%s did not stop within %g s; it is killed", process.name, STOP_S)
            process.kill()
            process.join()
