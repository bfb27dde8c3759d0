"""The embedded online store: one SQLite file, in the table layout of Feast 0.67's SQLite store, so that Feast reads what we
write.

Two tables are our own: `clickproof_rows` (each row as one value, see `features.packed`: what we read ourselves) and
`clickproof_marks` (up to when each view is complete).  A batch and its mark are one transaction; readers see neither or both.
"""

import sqlite3
import struct
import threading
from datetime import UTC

from features.catalogue import View
from features.online_guard import Written, admitted, check_layout, newer
from features.online_values import PROJECT, Encoded, Mark
from features.packed import layout
from infra.clock import to_datetime
from infra.errors import ExplainedError
from infra.home import Home

FORMAT = 2  # of our two tables
_AT_ONCE = 500  # keys in one SELECT
_STAMPS = struct.Struct("<qq")  # event_us, available_us in a packed row, behind the layout id


class SqliteStore:
    """Implements `features.online_store.OnlineStore`.  Safe to use from several threads; several processes may have it open."""

    def __init__(self, home: Home) -> None:
        """Opens the store, making it where the home may be written.  Raises FileNotFoundError where there is none to read,
        ExplainedError where it was written by an older version."""
        path = home.online
        if home.writable:
            home.writing(path)
        elif not path.exists():
            raise FileNotFoundError(f"{path} is not there: run clickproof materialize, which fills the online store")
        self._writable = home.writable
        self._path = path
        uri = path.resolve().as_uri() + ("" if home.writable else "?mode=ro")
        self._db = sqlite3.connect(uri, uri=True, check_same_thread=False, isolation_level=None, timeout=30)
        self._lock = threading.Lock()
        self._marks: tuple[int, dict[str, Mark]] = (-1, {})
        self._check_format()
        if home.writable:
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute(f"PRAGMA user_version={FORMAT}")
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS clickproof_rows"
                " (view TEXT, entity_key BLOB, packed BLOB, PRIMARY KEY (entity_key, view)) WITHOUT ROWID"
            )
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS clickproof_marks (view TEXT PRIMARY KEY, snapshot INTEGER, event_us INTEGER,"
                " available_us INTEGER, writes INTEGER, layout INTEGER)"
            )

    def _check_format(self) -> None:
        ours = self._db.execute("SELECT 1 FROM sqlite_master WHERE name = 'clickproof_rows'").fetchone()
        if ours and self._db.execute("PRAGMA user_version").fetchone()[0] != FORMAT:
            self._db.close()
            raise ExplainedError(
                f"{self._path} was written by another version of clickproof; delete it and run clickproof materialize"
            )

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def put(self, view: View, rows: Encoded, mark: Mark | None) -> Written:
        """See OnlineStore.  Raises PermissionError on a read-only home."""
        if not self._writable:
            raise PermissionError(f"{self._path} is read-only here: a drill may write only to its own branch")
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                counts = self._put(view, rows, mark)
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")
            self._marks = (-1, {})  # data_version tells of other connections' writes only
            return counts

    def _put(self, view: View, rows: Encoded, mark: Mark | None) -> Written:
        stored = self._read_marks().get(view.name)
        check_layout(view, stored)
        table = f"{PROJECT}_{view.name}"
        # Feast's own statements (feast.infra.online_stores.sqlite.SqliteTable), so either side may come first.
        self._db.execute(
            f"CREATE TABLE IF NOT EXISTS {table} (entity_key BLOB, feature_name TEXT, value BLOB, value_text TEXT,"
            " vector_value BLOB, event_ts timestamp, created_ts timestamp, PRIMARY KEY(entity_key, feature_name))"
        )
        self._db.execute(f"CREATE INDEX IF NOT EXISTS {table}_ek ON {table} (entity_key)")
        held = self._packed((view,), rows.keys)[view.name]
        stamps = [None if row is None else _STAMPS.unpack_from(row, 8) for row in held]
        at = admitted(rows.event_us, rows.available_us, stamps)
        event, available = rows.event_us[at].tolist(), rows.available_us[at].tolist()
        keys = [rows.keys[i] for i in at.tolist()]
        written = list(zip(keys, map(_feast_second, event), map(_feast_second, available), strict=True))
        for name, values in rows.values.items():
            self._db.executemany(
                f"INSERT INTO {table} (entity_key, feature_name, value, event_ts, created_ts) VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT(entity_key, feature_name) DO UPDATE SET "
                "value = excluded.value, event_ts = excluded.event_ts, created_ts = excluded.created_ts",
                ((key, name, values[i], e, a) for i, (key, e, a) in zip(at.tolist(), written, strict=True)),
            )
        self._db.executemany(
            "INSERT OR REPLACE INTO clickproof_rows (view, entity_key, packed) VALUES (?, ?, ?)",
            ((view.name, key, rows.packed[i]) for i, key in zip(at.tolist(), keys, strict=True)),
        )
        changed = newer(mark, stored, layout(view).id)
        self._db.execute("INSERT OR REPLACE INTO clickproof_marks VALUES (?, ?, ?, ?, ?, ?)", (view.name, *changed))
        return Written(len(at), len(rows.keys) - len(at))

    def marks(self) -> dict[str, Mark]:
        """See OnlineStore: read again only after the file changed."""
        with self._lock:
            version = self._db.execute("PRAGMA data_version").fetchone()[0]
            if version != self._marks[0]:
                self._marks = (version, self._read_marks())
            return self._marks[1]

    def _read_marks(self) -> dict[str, Mark]:
        found = self._db.execute("SELECT view, snapshot, event_us, available_us, writes, layout FROM clickproof_marks")
        return {name: Mark(*rest) for name, *rest in found}

    def rows(self, views: tuple[View, ...], keys: list[bytes]) -> dict[str, list[bytes | None]]:
        """See OnlineStore."""
        with self._lock:
            if len(keys) <= _AT_ONCE:
                return self._packed(views, keys)
            self._db.execute("BEGIN")  # all reads inside see the store as it was at the first of them
            try:
                return self._packed(views, keys)
            finally:
                self._db.execute("COMMIT")

    def _packed(self, views: tuple[View, ...], keys: list[bytes]) -> dict[str, list[bytes | None]]:
        if len(keys) == 1:  # a request for one user
            one = dict(self._db.execute("SELECT view, packed FROM clickproof_rows WHERE entity_key = ?", keys))
            return {view.name: [one.get(view.name)] for view in views}
        found: dict[tuple[str, bytes], bytes] = {}
        for low in range(0, len(keys), _AT_ONCE):
            part = keys[low : low + _AT_ONCE]
            which = ",".join("?" * len(part))
            for view, key, packed in self._db.execute(
                f"SELECT view, entity_key, packed FROM clickproof_rows WHERE entity_key IN ({which})", part
            ):
                found[view, key] = packed
        return {view.name: [found.get((view.name, key)) for key in keys] for view in views}

    def everything(self, view: View) -> tuple[list[bytes], list[bytes]]:
        """See OnlineStore."""
        with self._lock:
            found = self._db.execute("SELECT entity_key, packed FROM clickproof_rows WHERE view = ?", (view.name,)).fetchall()
        return [key for key, _ in found], [packed for _, packed in found]


def _feast_second(at_us: int) -> int:
    """A time as Feast's SQLite store writes it: UTC read as if it were local time, in whole seconds (it reads it back
    alike)."""
    naive = to_datetime(at_us).astimezone(UTC).replace(tzinfo=None)
    return int(naive.timestamp())
