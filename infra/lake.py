"""The lake: Delta tables in one folder or under one URL, partitioned by a string column `day` (YYYY-MM-DD, day of arrival).

Ingestion, the prediction log and all readers of events go through it.  A commit is atomic: a reader, or whoever comes after a
writer was killed, meets the table as it was before or as it is after.  No JVM; Spark, Trino and DuckDB read the same tables.
"""

import json
from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pds
import pyarrow.fs as pfs
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, Transaction, WriterProperties, write_deltalake
from deltalake.exceptions import CommitFailedError, TableNotFoundError
from deltalake.fs import DeltaStorageHandler
from deltalake.transaction import AddAction, RemoveAction

from infra.clock import to_us
from infra.errors import ExplainedError
from infra.home import Home, ReadOnlyHome
from infra.settings import settings

EVENT_TABLES = ("requests", "impressions", "clicks", "users", "ads")
# Writers and readers hold a row group at a time; the default of a million rows would make memory grow with the day.
ROWS_A_GROUP = 65_536
_GROUPS = WriterProperties(max_row_group_size=ROWS_A_GROUP)
_TRIES = 5  # commits that meet another writer's commit are tried again this often


class MissingTable(ExplainedError, LookupError):
    """A table was read that nothing has written yet."""


class Lake:
    """Delta tables under `url`, a folder or an object store's URL.  Holds no state between calls."""

    def __init__(self, url: str | Path, writable: bool = True) -> None:
        self.url = str(url).rstrip("/")
        self.writable = writable

    @classmethod
    def of(cls, home: Home) -> "Lake":
        """The lake of a home: the folder `lake` in it.

        For the home that the settings name, `CLICKPROOF_LAKE_URL` takes its place where set (under the home's name, so that
        sources do not mix).  A branch always keeps its lake in its own folder: a drill cannot reach the base's object store."""
        url = settings().lake_url.get_secret_value().rstrip("/")
        remote = url and home.root == settings().base().root
        return cls(f"{url}/{home.root.name}" if remote else home.lake, home.writable)

    def append(
        self, table: str, data: pa.Table, txn: tuple[str, int] | None = None, widen: bool = False
    ) -> bool:  # fmt: skip
        """Add rows; `data` has the column `day`.  The first write makes the table, with the schema of `data`.

        `txn` = (application, n) makes it exactly-once: False, and nothing is written, when the application's transaction n or a
        later one is in the table already.  `widen` admits new (nullable) columns; otherwise columns must be the table's.
        Raises ReadOnlyHome, and deltalake's SchemaMismatchError or DeltaError for data that do not fit."""
        if "day" not in data.column_names:
            raise ValueError(f"rows for {table!r} have no column `day`, which partitions it; there are {data.column_names}")
        return self._commit(table, data, txn, widen=widen)

    def replace_day(
        self, table: str, day: str, data: pa.Table | pa.RecordBatchReader, txn: tuple[str, int] | None = None
    ) -> bool:
        """Make `data` the whole content of one day, whatever was there; the column `day` is added where absent.

        Rows of a reader (without the column `day`) go to disk in their order as they come, and one commit names the file:
        memory does not grow with them.  Doing it again gives the same content.  `txn` as in `append`.  Raises as `append`,
        and when a row is of another day."""
        if date.fromisoformat(day).isoformat() != day:
            raise ValueError(f"{day!r} is not a day; write YYYY-MM-DD")
        if isinstance(data, pa.RecordBatchReader):
            return self._stream(table, day, data, txn)
        if "day" not in data.column_names:
            data = data.append_column(pa.field("day", pa.string(), nullable=False), pa.repeat(day, len(data)))
        return self._commit(table, data, txn, day=day)

    def _commit(
        self, table: str, data: pa.Table, txn: tuple[str, int] | None, *, day: str | None = None, widen: bool = False
    ) -> bool:
        if not self.writable:
            raise ReadOnlyHome(f"{self._uri(table)} is read-only here: a drill may write only to its own branch")
        data = data.combine_chunks()  # deltalake 1.6 writes the chunks of a table in any order, rows of one chunk in theirs
        for attempt in range(_TRIES):
            found = self._open(table)
            if txn and found and _applied(found, txn[0]) >= txn[1]:
                return False
            if found and day and not txn and not len(data) and {"day": day} not in found.partitions():
                return True  # it is empty already
            names = [f.name for f in found.schema().fields] if found else data.column_names
            if set(names) == set(data.column_names):
                data = data.select(names)
            target: Any = found or self._uri(table)
            once = _properties(found, day, txn)
            try:
                if day is None:
                    merge: Any = "merge" if widen and found else None
                    write_deltalake(
                        target, data, mode="append", partition_by=["day"], schema_mode=merge, commit_properties=once,
                        writer_properties=_GROUPS,
                    )  # fmt: skip
                else:
                    of_day = f"day = '{day}'"
                    write_deltalake(
                        target, data, mode="overwrite", partition_by=["day"], predicate=of_day, commit_properties=once,
                        writer_properties=_GROUPS,
                    )  # fmt: skip
            except CommitFailedError:
                if attempt == _TRIES - 1:
                    raise
                continue  # another writer was first: look at the table again
            return True
        raise AssertionError("unreachable")

    def _stream(self, table: str, day: str, rows: pa.RecordBatchReader, txn: tuple[str, int] | None) -> bool:
        """`replace_day` by hand: `write_deltalake` queues what it is given faster than it writes partitions (1.6.6)."""
        if not self.writable:
            raise ReadOnlyHome(f"{self._uri(table)} is read-only here: a drill may write only to its own branch")
        schema = rows.schema.append(pa.field("day", pa.string(), nullable=False))
        found = DeltaTable.create(self._uri(table), schema, mode="ignore", partition_by=["day"])
        there = found.to_pyarrow_dataset().schema
        if {f.name: f.type for f in schema} != {f.name: f.type for f in there}:
            raise ValueError(f"rows for {table!r} are {rows.schema.names}, the table is {there.names}: no fit")
        files = pfs.PyFileSystem(DeltaStorageHandler(self._uri(table)))
        path = f"day={day}/part-{uuid4()}.parquet"
        named = False  # by a commit
        try:
            added = _write_file(files, path, rows, day)
            for attempt in range(_TRIES):
                found = self._table(table)
                if txn and _applied(found, txn[0]) >= txn[1]:
                    return False
                try:
                    found.create_write_transaction(
                        added, "overwrite", found.schema(), ["day"], [("day", "=", day)],
                        commit_properties=_properties(found, day, txn),
                    )  # fmt: skip
                except CommitFailedError:
                    if attempt == _TRIES - 1:
                        raise
                    continue
                named = bool(added)
                return True
            raise AssertionError("unreachable")
        finally:
            if not named:
                files.delete_file(path)

    def read(self, table: str, columns: Sequence[str] | None = None, days: Iterable[str] | None = None) -> pa.Table:
        """Rows of the given days (all by default), ordered by day and then as written; columns as written, or as asked for.

        An empty table with the right schema where no row is; MissingTable where nothing wrote the table."""
        rows = None if days is None else pc.field("day").isin(pa.array(list(days), pa.string()))
        return self.scan(table).to_table(columns=list(columns) if columns is not None else None, filter=rows)

    def scan(self, table: str) -> pds.FileSystemDataset:
        """The table as a pyarrow dataset: filters on `day` and on statistics skip whole files; DuckDB and Polars read it.

        Files are in order of day and commit, so the same lake is read in the same order everywhere."""
        found = self._table(table)
        whole = found.to_pyarrow_dataset()
        written = {row["path"]: row["modification_time"] for row in pa.table(found.get_add_actions()).to_pylist()}
        files = sorted(whole.get_fragments(), key=lambda f: (f.path.split("/")[0], written[f.path], f.path))
        return pds.FileSystemDataset(files, whole.schema, whole.format, whole.filesystem)

    def has(self, table: str) -> bool:
        """Whether the table exists (it may be empty)."""
        return self._open(table) is not None

    def days(self, table: str) -> list[str]:
        """Days that hold rows, in order; none where the table is absent."""
        found = self._open(table)
        return sorted({str(p["day"]) for p in found.partitions()}) if found else []

    def version(self, table: str) -> int:
        """The table's version, which counts its commits from 0; -1 where absent."""
        found = self._open(table)
        return found.version() if found else -1

    def versions(self) -> dict[str, int]:
        """Version of every table there is."""
        return {name: self.version(name) for name in self.tables()}

    def tables(self) -> list[str]:
        """Names of the tables there are, in order."""
        try:
            root = pfs.PyFileSystem(DeltaStorageHandler(self.url))
        except TableNotFoundError:
            return []
        entries = root.get_file_info(pfs.FileSelector("", recursive=False))
        return sorted(e.base_name for e in entries if e.type == pfs.FileType.Directory and self.has(e.base_name))

    def committed(self, table: str, app: str) -> int:
        """The last transaction of an application in a table; -1 where there is none."""
        found = self._open(table)
        return _applied(found, app) if found else -1

    def _uri(self, table: str) -> str:
        return f"{self.url}/{table}"

    def _open(self, table: str) -> DeltaTable | None:
        return DeltaTable(self._uri(table)) if DeltaTable.is_deltatable(self._uri(table)) else None

    def _table(self, table: str) -> DeltaTable:
        found = self._open(table)
        if found is None:
            made_by = "`clickproof ingest`" if table != "predictions" else "serving some requests, then `clickproof ingest`"
            raise MissingTable(f"there is no table {table!r} in the lake at {self.url}; it is made by {made_by}")
        return found


def _write_file(files: pfs.FileSystem, path: str, rows: pa.RecordBatchReader, day: str) -> list[AddAction | RemoveAction]:
    """Write rows as one file of a day; the action that makes it part of the table, none where there was no row."""
    count = 0
    with files.open_output_stream(path) as out, pq.ParquetWriter(out, rows.schema, compression="zstd") as file:
        for batch in rows:
            file.write_batch(batch)
            count += batch.num_rows
    info = files.get_file_info(path)
    written_ms = info.mtime_ns // 1_000_000
    action = AddAction(path, info.size, {"day": day}, written_ms, True, json.dumps({"numRecords": count}))
    return [action] if count else []


def _properties(table: DeltaTable | None, day: str | None, txn: tuple[str, int] | None) -> CommitProperties:
    """What a commit carries besides its files: the caller's transaction, and one for a replaced day, because Delta refuses a
    commit whose transaction another one changed meanwhile: two writers can't both fill a day that was empty."""
    transactions = [Transaction(*txn)] if txn else []
    if day is not None and table is not None:
        transactions.append(Transaction(f"day={day}", table.version() + 1))
    return CommitProperties(app_transactions=transactions or None)


def _applied(table: DeltaTable, app: str) -> int:
    last = table.transaction_version(app)
    return -1 if last is None else int(last)


def watermark_us(home: Home) -> int:
    """The latest instant, in us, that anything in a home is stamped with: arrivals in the lake, availability of features.

    Reads one day of one column a table, and the last manifest file a view.  MissingTable where there is nothing at all."""
    lake = Lake.of(home)
    last_days = [(table, days[-1:]) for table in EVENT_TABLES if (days := lake.days(table))]
    last_files = [
        files[-1] for view in (home.features / "_manifest").glob("*") if (files := sorted(view.glob("day=*.parquet")))
    ]
    latest = [lake.read(table, ["arrived_at"], days)["arrived_at"] for table, days in last_days]
    latest += [pq.read_table(file, columns=["available_at"])["available_at"] for file in last_files]
    known = [to_us(moment.as_py()) for column in latest if (moment := pc.max(column)).is_valid]
    if not known:
        raise MissingTable(f"nothing has been ingested into {home.root} yet; `clickproof ingest` does it")
    return max(known)
