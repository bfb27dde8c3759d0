"""How many threads torch may use while a block runs.  Torch keeps one number a process, so it is set and put back."""

from collections.abc import Iterator
from contextlib import contextmanager

TRAINING_THREADS = 2


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
    """Run the block with the threads that training uses."""
    with torch_threads(TRAINING_THREADS):
        yield
