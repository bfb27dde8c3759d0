"""What ingestion of predictions and of clicks have in common: one at a time, and records of a segment in chunks."""

import fcntl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from infra.errors import ExplainedError
from infra.home import Home

T = TypeVar("T")


@contextmanager
def alone(home: Home, folder: Path) -> Iterator[None]:
    """One ingestion of a folder's segments at a time: two that cut the same segment into different chunks would each see the
    other's as not yet done.

    The lock goes with the process that holds it, however that ends.
    """
    with home.writing(folder / ".ingesting").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def size_of(segment: Path, offset: int) -> int:
    """Bytes of a segment.  Raises ExplainedError where there are fewer than the `offset` up to which it was ingested."""
    size = segment.stat().st_size
    if size < offset:
        raise ExplainedError(
            f"{segment} has {size} bytes, but {offset} were ingested from it: it was cut or replaced; restore it, "
            "or move it away if its records are in the lake"
        )
    return size


def chunks(records: Iterable[tuple[T, int]], offset: int, chunk_bytes: int) -> Iterator[tuple[list[T], int]]:
    """(records, offset behind them) in chunks of about `chunk_bytes`, of records that come with the offset behind them."""
    chunk: list[T] = []
    start = end = offset
    for record, end in records:
        chunk.append(record)
        if end - start >= chunk_bytes:
            yield chunk, end
            chunk, start = [], end
    if chunk:
        yield chunk, end
