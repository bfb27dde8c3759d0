"""Where a plant keeps what it made once, in its home's folder `plant`: Arrow files, written whole or not at all."""

import os
from collections.abc import Sequence
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


def load(file: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """What `save` wrote, or some columns of it."""
    with pa.memory_map(str(file)) as source:
        options = ipc.IpcReadOptions()
        if columns is not None:
            schema = ipc.open_file(source).schema
            options.included_fields = [schema.get_field_index(name) for name in columns]
        return ipc.open_file(source, options=options).read_all()
