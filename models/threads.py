"""How many threads numerical libraries may use while a block runs; each keeps one number a process, so it is set and put back.

Training takes one thread on purpose: with two threads on two cores that others use too, each waits for the other in a spinning
loop.  At a load of 3.5 on two cores, 259,000 rows took one thread and two threads: XGBoost 8.4 and 48 s, DCNv2 6.8 and 212 s,
b(slot) 2.3 and 16 s (xgboost 3.2, torch 2.13, numpy 2.4).
"""

from collections.abc import Iterator
from contextlib import contextmanager

TRAINING_THREADS = 1


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Run the block with `count` torch threads."""
    import torch

    before = torch.get_num_threads()
    if before == count:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def training_threads() -> Iterator[None]:
    """Run the block with the torch threads that training uses."""
    with torch_threads(TRAINING_THREADS):
        yield


@contextmanager
def blas_threads(count: int) -> Iterator[None]:
    """Run the block with `count` threads in numpy's matrix products."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(count, user_api="blas"):
        yield
