"""Waiting for what must come about, for as long as a busy machine takes: for tests of threads, servers and processes."""

import time
from collections.abc import Callable
from typing import TypeVar

PATIENCE_S = 180.0  # a machine with much else to do; only a test that fails waits so long

T = TypeVar("T")


def until(found: Callable[[], T], said: Callable[[], object] = lambda: "") -> T:
    """What `found` returns, once it is true of it; where it never is, fail the test with what `said` returns then."""
    end = time.monotonic() + PATIENCE_S
    while not (value := found()):
        assert time.monotonic() < end, f"not within {PATIENCE_S:g} s: {said()}"
        time.sleep(0.01)
    return value
