"""Processes that the endpoint has beside it while the rollout document asks for them: the guard of a canary, the scorer of
shadows.  `serving.serve` is told which there are; it knows of neither what they do.

One that dies is started again.  One that can't be kept alive is given up, and whoever named it says what follows from that: a
canary without a guard does not stay.
"""

import logging
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from infra import child
from infra.errors import ExplainedError
from infra.home import Home
from infra.settings import Settings
from serving import rollout_store
from serving.rollout import Rollout

LOOK_S = 0.2
GIVEN_UP = 3  # deaths within SOUND_S of their starts, one after the other
SOUND_S = 30.0
AGAIN_S = 1.0  # pause before one that died is started again

_log = logging.getLogger("clickproof.serving")


@dataclass(frozen=True, slots=True)
class Companion:
    """A module that is run as a process (see `infra.child`), and when."""

    module: str
    wanted: Callable[[Rollout], bool]
    given_up: Callable[[Home, Rollout], object] | None = None  # what follows when it can't be kept alive


class Companions:
    """Looks at the document in a thread, and starts and ends processes."""

    def __init__(self, home: Home, settings: Settings, companions: Sequence[Companion]) -> None:
        self._home = home
        self._kept = [_Kept(home, settings, companion) for companion in companions]
        self._stamp: object = ()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look_on, name="companions", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End them all."""
        self._stop.set()
        self._thread.join()
        for kept in self._kept:
            kept.end()

    def _look_on(self) -> None:
        rollout: Rollout | None = None
        said = ""
        while not self._stop.wait(LOOK_S):
            try:
                stamp = rollout_store.stamp(self._home)
                if stamp != self._stamp:
                    rollout = rollout_store.read(self._home) if stamp is not None else None
                    self._stamp, said = stamp, ""
            except (ExplainedError, OSError) as error:
                if str(error) != said:
                    _log.error("companions of the rollout stay as they are: %s", error)
                said = str(error)
            if rollout is not None:
                for kept in self._kept:
                    kept.look(rollout)


class _Kept:
    """One companion with its process, if it has one."""

    def __init__(self, home: Home, settings: Settings, companion: Companion) -> None:
        self._home, self._settings, self._companion = home, settings, companion
        self._process: subprocess.Popen[bytes] | None = None
        self._started = self._died = 0.0
        self._deaths = 0
        self._given_up: Rollout | None = None  # the document for which it was

    def look(self, rollout: Rollout) -> None:
        """Let it run, or not."""
        if not self._companion.wanted(rollout):
            self.end()
            self._deaths, self._given_up = 0, None
        elif self._process is not None:
            if self._process.poll() is not None:
                self._count_death(self._process.returncode)
        elif self._deaths >= GIVEN_UP:
            if self._given_up != rollout:
                self._give_up(rollout)
        elif time.monotonic() - self._died >= AGAIN_S:
            self._process = child.start(self._companion.module, self._settings, root=str(self._home.root))
            self._started = time.monotonic()

    def end(self) -> None:
        """Stop it, if it runs."""
        if self._process is not None:
            child.stop(self._process)
            self._process = None

    def _count_death(self, status: int) -> None:
        self.end()
        self._died = time.monotonic()
        self._deaths = 1 if self._died - self._started > SOUND_S else self._deaths + 1
        _log.error("%s ended with status %s; starting it again", self._companion.module, status)

    def _give_up(self, rollout: Rollout) -> None:
        self._given_up = rollout
        _log.error("%s died %d times in a row and is given up", self._companion.module, GIVEN_UP)
        if self._companion.given_up is not None:
            try:
                self._companion.given_up(self._home, rollout)
            except (ExplainedError, OSError):
                _log.exception("what should follow from that failed")
                self._given_up = None  # again at the next look
