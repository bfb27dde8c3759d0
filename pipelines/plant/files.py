"""Where a plant keeps what it made once, in its home's folder `plant`: Arrow files, written whole or not at all."""

import os
from pathlib import Path

import pyarrow as pa
from pyarrow import ipc

from infra.clock import day_name
from infra.home import Home

_OPTIONS = ipc.IpcWriteOptions(compression="lz4")


def path(home: Home, what: str, day_us: int) -> Path:
    """The file of one product and day."""
    return home.root / "plant" / what / f"day={day_name(day_us)}.arrow"


def save(home: Home, file: Path, table: pa.Table) -> None:
    """Write a table; a reader finds the whole of it or nothing."""
    beside = home.writing(file).with_name(f".{file.name}.{os.getpid()}")
    with ipc.new_file(str(beside), table.schema, options=_OPTIONS) as out:
        out.write_table(table.combine_chunks())
    os.replace(beside, file)


def load(file: Path) -> pa.Table:
    """What `save` wrote."""
    with pa.memory_map(str(file)) as source:
        return ipc.open_file(source).read_all()
