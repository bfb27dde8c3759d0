"""How fast simulated time goes: seconds of the world's in one of ours.  The market waits for it, the page's slider sets it."""

import threading
import time

from infra.clock import SECOND_US

# What the slider offers: paused, real time, then an hour in a minute, in 10 s, 5 s, 2 s and 1 s, and as fast as it goes.
FASTEST = 1_000_000.0
SPEEDS = (0.0, 1.0, 60.0, 360.0, 720.0, 1800.0, 3600.0, FASTEST)
LAG_S = 0.5  # further behind than this, time is taken from where the work stands: nothing is ever made up for


class Stopped(Exception):
    """Whoever waits is to end."""


class Pace:
    """A clock that can be sped up, paused and stopped from other threads."""

    def __init__(self, speed: float, now_us: int) -> None:
        self._changed = threading.Condition()
        self._speed = speed
        self._stopped = False
        self._from_us, self._since = now_us, time.perf_counter()
        self._reached_us = now_us

    @property
    def speed(self) -> float:
        """Simulated seconds a second; 0 while paused."""
        return self._speed

    @property
    def now_us(self) -> int:
        """The simulated time: never ahead of what was waited for by more than the clock has gone since."""
        with self._changed:
            return self._now()

    @property
    def reached_us(self) -> int:
        """The last instant that was waited for: how far the work has come."""
        with self._changed:
            return self._reached_us

    def set(self, speed: float) -> None:
        """Go on at another speed from here."""
        with self._changed:
            self._anchor(self._now())
            self._speed = max(float(speed), 0.0)
            self._changed.notify_all()

    def stop(self) -> None:
        """Wake everybody who waits with `Stopped`."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def wait(self, until_us: int) -> None:
        """Return when the simulated time has come to `until_us`.  Raises Stopped."""
        with self._changed:
            while not self._stopped:
                left_s = self._left_s(until_us)
                if left_s is not None and left_s <= 0:
                    self._reached_us = max(self._reached_us, until_us)
                    if left_s < -LAG_S:
                        self._anchor(until_us)
                    return
                self._changed.wait(left_s)
            raise Stopped

    def _left_s(self, until_us: int) -> float | None:
        """Seconds of ours until then; None while paused."""
        if self._speed == 0:
            return None if until_us > self._from_us else 0.0
        due = self._since + (until_us - self._from_us) / SECOND_US / self._speed
        return due - time.perf_counter()

    def _now(self) -> int:
        if self._speed == 0:
            return self._from_us
        gone_us = int((time.perf_counter() - self._since) * self._speed * SECOND_US)
        return max(min(self._from_us + gone_us, self._reached_us + int(self._speed * LAG_S * SECOND_US)), self._from_us)

    def _anchor(self, now_us: int) -> None:
        self._from_us, self._since = now_us, time.perf_counter()
