"""Progress of long work: a bar with rate and estimate on a terminal, a line now and then elsewhere."""

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")
LINE_EVERY_S = 10.0


def progress(items: Iterable[T], what: str, unit: str, total: int | None = None, shown: bool = True) -> Iterator[T]:
    """The items, while standard error tells how far they are; silent with `shown` False, and when all is done in no time."""
    if not shown:
        yield from items
    elif sys.stderr.isatty():
        yield from tqdm(items, desc=what, unit=unit, total=total, leave=False, delay=1.0)
    else:
        yield from _lines(items, what, unit, total if total is not None else _length(items))


def _length(items: Iterable[object]) -> int | None:
    return len(items) if isinstance(items, Sized) else None


def _lines(items: Iterable[T], what: str, unit: str, total: int | None) -> Iterator[T]:
    started = said = time.perf_counter()
    for done, item in enumerate(items):
        now = time.perf_counter()
        if done and now - said >= LINE_EVERY_S:
            said, rate = now, done / (now - started)
            left = "" if total is None else f" of {total}, about {(total - done) / rate:.0f} s left"
            print(f"{what}: {done}{left} ({rate:.3g} {unit}/s)", file=sys.stderr, flush=True)
        yield item
