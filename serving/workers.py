"""Several processes behind one port: each with its own event loop, store connection and log segment; they share nothing.

Every worker listens on the port by itself (SO_REUSEPORT) and the kernel deals connections out, so no process is in the way of
another's.  The parent only starts them, starts again what died, and passes on the signal to stop.  Called by `serving.serve`.
"""

import logging
import multiprocessing as mp
import multiprocessing.connection
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from ctypes import Array, c_byte
from dataclasses import dataclass
from multiprocessing.process import BaseProcess

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


DOWN, LOADING, READY = range(3)  # a worker does not listen; listens and says that it can't answer yet, or why; answers


@dataclass(frozen=True, slots=True)
class Place:
    """One worker's place among the others.

    Nobody whom some worker could serve is told to wait: so a worker that can't answer listens only where none can, to say so,
    and only the first one does; and while it does the others wait for it."""

    number: int
    states: "Array[c_byte]"  # of all workers; each writes its own, the parent those of the dead

    def held(self, ready: bool) -> bool:
        """Whether this worker does not listen yet; `ready` is whether it can answer.  Where it says no, it listens from then
        on."""
        if ready:
            self.ready()
            return LOADING in self.states
        if self.number != 0 or READY in self.states:
            return True
        self.states[self.number] = LOADING
        return False

    def ready(self) -> None:
        """It can answer now; may be said again."""
        self.states[self.number] = READY


def supervise(count: int, work: Callable[[Place], None]) -> None:
    """Run `work(place)` in `count` processes until SIGINT or SIGTERM; whichever dies before that is started again.

    `work` must be picklable, and end on SIGTERM; it also gets that when this process dies."""
    context = mp.get_context("spawn")
    states = context.RawArray(c_byte, count)
    stopping: list[int] = []
    for wanted in (signal.SIGINT, signal.SIGTERM):
        signal.signal(wanted, lambda received, _: stopping.append(received))
    waits, started = [RESTART_S[0]] * count, [0.0] * count
    due: dict[int, float] = {}  # the dead, and when they are started again
    workers: list[BaseProcess] = []

    def start(number: int) -> BaseProcess:
        states[number] = DOWN
        process = context.Process(target=_run, args=(work, Place(number, states)), name=f"worker {number}")
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
                states[number] = DOWN
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


def _run(work: Callable[[Place], None], place: Place) -> None:
    """In a worker."""
    threading.Thread(target=_end_with_parent, name="end with parent", daemon=True).start()
    work(place)


def _end_with_parent() -> None:
    """Without the parent nobody would start the dead again, guard the canary, or stop the workers."""
    parent = mp.parent_process()
    assert parent is not None, "workers are started by `supervise`"
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
