"""Processes side by side that end together.  Used by `pipelines.gauntlet.run`."""

import multiprocessing as mp
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager


@contextmanager
def workers(count: int) -> Iterator[ProcessPoolExecutor]:
    """A pool; where the block ends in an error its processes are ended with it: a world takes a quarter of an hour."""
    others = set(mp.active_children())
    with ProcessPoolExecutor(count, mp_context=mp.get_context("spawn")) as pool:
        try:
            yield pool
        except BaseException:
            for process in set(mp.active_children()) - others:
                process.terminate()  # the pool sees it, drops what was queued and, on leaving the block, waits for all
            raise
