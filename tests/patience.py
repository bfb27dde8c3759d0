"""Waiting for what must come about, for as long as a busy machine takes: for tests of threads, servers and processes."""

import time
from collections.abc import Callable

PATIENCE_S = 180.0  # a machine with much else to do; only a test that fails waits so long


def until(holds: Callable[[], object], said: Callable[[], object] = lambda: "") -> None:
    """Wait until `holds` is true; where it never is, fail the test with what `said` returns then."""
    end = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < end, f"not within {PATIENCE_S:g} s: {said()}"
        time.sleep(0.01)
