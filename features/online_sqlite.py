"""The embedded online store: one SQLite file in the table layout of Feast 0.67's SQLite store, so that Feast reads what we
write.

Two tables are our own: `clickproof_rows` (exact stamps and the snapshot of each stored row; Feast keeps whole seconds) and
`clickproof_marks` (up to when each view is complete).  A batch and its mark are one transaction; readers see neither or both.
"""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC

import numpy as np

from features.catalogue import View
from features.online_guard import Written, admitted, newer
from features.online_values import PROJECT, Encoded, Mark, RawRows
from infra.clock import to_datetime
from infra.home import Home

_AT_ONCE = 500  # keys in one SELECT


class SqliteStore:
    """Implements `features.online_store.OnlineStore`.  Safe to use from several threads; several processes may have it open."""

    def __init__(self, home: Home) -> None:
        """Opens the store, making it where the home may be written.  Raises FileNotFoundError where there is none to read."""
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
        if home.writable:
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS clickproof_rows (view TEXT, entity_key BLOB, event_us INTEGER,"
                " available_us INTEGER, snapshot INTEGER, PRIMARY KEY (entity_key, view)) WITHOUT ROWID"
            )
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS clickproof_marks"
                " (view TEXT PRIMARY KEY, snapshot INTEGER, event_us INTEGER, available_us INTEGER, writes INTEGER)"
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
        table = _table(view)
        # Feast's own statements (feast.infra.online_stores.sqlite.SqliteTable), so either side may come first.
        self._db.execute(
            f"CREATE TABLE IF NOT EXISTS {table} (entity_key BLOB, feature_name TEXT, value BLOB, value_text TEXT,"
            " vector_value BLOB, event_ts timestamp, created_ts timestamp, PRIMARY KEY(entity_key, feature_name))"
        )
        self._db.execute(f"CREATE INDEX IF NOT EXISTS {table}_ek ON {table} (entity_key)")
        held = self._stamps(view, rows.keys)
        at = admitted(rows.event_us, rows.available_us, [held.get(key) for key in rows.keys])
        event, available = rows.event_us[at].tolist(), rows.available_us[at].tolist()
        keys = [rows.keys[i] for i in at.tolist()]
        stamps = list(zip(keys, map(_feast_second, event), map(_feast_second, available), strict=True))
        for name, values in rows.values.items():
            self._db.executemany(
                f"INSERT INTO {table} (entity_key, feature_name, value, event_ts, created_ts) VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT(entity_key, feature_name) DO UPDATE SET "
                "value = excluded.value, event_ts = excluded.event_ts, created_ts = excluded.created_ts",
                ((key, name, values[i], e, a) for i, (key, e, a) in zip(at.tolist(), stamps, strict=True)),
            )
        self._db.executemany(
            "INSERT OR REPLACE INTO clickproof_rows VALUES (?, ?, ?, ?, ?)",
            zip([view.name] * len(keys), keys, event, available, rows.snapshot[at].tolist(), strict=True),
        )
        changed = newer(mark, self._read_marks().get(view.name))
        self._db.execute("INSERT OR REPLACE INTO clickproof_marks VALUES (?, ?, ?, ?, ?)", (view.name, *changed))
        return Written(len(at), len(rows.keys) - len(at))

    def _stamps(self, view: View, keys: list[bytes]) -> dict[bytes, tuple[int, int]]:
        held = {}
        for low in range(0, len(keys), _AT_ONCE):
            part = keys[low : low + _AT_ONCE]
            for key, event, available in self._db.execute(
                "SELECT entity_key, event_us, available_us FROM clickproof_rows "
                f"WHERE entity_key IN ({_marks(part)}) AND view = ?",
                (*part, view.name),
            ):
                held[key] = (event, available)
        return held

    def marks(self) -> dict[str, Mark]:
        """See OnlineStore: read again only after the file changed."""
        with self._lock:
            return self._known_marks()

    def _known_marks(self) -> dict[str, Mark]:
        version = self._db.execute("PRAGMA data_version").fetchone()[0]
        if version != self._marks[0]:
            self._marks = (version, self._read_marks())
        return self._marks[1]

    def _read_marks(self) -> dict[str, Mark]:
        found = self._db.execute("SELECT view, snapshot, event_us, available_us, writes FROM clickproof_marks")
        return {name: Mark(*rest) for name, *rest in found}

    def rows(self, views: tuple[View, ...], keys: list[bytes]) -> dict[str, RawRows]:
        """See OnlineStore."""
        place = {key: i for i, key in enumerate(keys)}
        raw = {v.name: RawRows(np.full(len(keys), -1), {f.name: [b""] * len(keys) for f in v.features}) for v in views}
        with self._lock:
            if len(keys) <= _AT_ONCE:
                self._fill(raw, views, keys, place)
            else:
                with self._one_moment():
                    for low in range(0, len(keys), _AT_ONCE):
                        self._fill(raw, views, keys[low : low + _AT_ONCE], place)
        return raw

    def _fill(self, raw: dict[str, RawRows], views: tuple[View, ...], keys: list[bytes], place: dict[bytes, int]) -> None:
        """One statement for all views, which sees one moment of the store by itself."""
        written = [view.name for view in views if view.name in self._known_marks()]  # other tables may not be there yet
        which = ",".join(f"?{i + 1}" for i in range(len(keys)))
        selects = [f"SELECT view, entity_key, NULL, snapshot FROM clickproof_rows WHERE entity_key IN ({which})"]
        selects += [
            f"SELECT '{name}', entity_key, feature_name, value FROM {PROJECT}_{name} WHERE entity_key IN ({which})"
            for name in written
        ]
        for name, key, feature, value in self._db.execute(" UNION ALL ".join(selects), keys):
            if name in raw:
                if feature is None:
                    raw[name].snapshot[place[key]] = value
                elif feature in raw[name].values:
                    raw[name].values[feature][place[key]] = value

    @contextmanager
    def _one_moment(self) -> Iterator[None]:
        """All reads inside see the store as it was at the first of them."""
        self._db.execute("BEGIN")
        try:
            yield
        finally:
            self._db.execute("COMMIT")

    def everything(self, view: View) -> tuple[list[bytes], RawRows]:
        """See OnlineStore."""
        with self._lock:
            found = self._db.execute("SELECT entity_key FROM clickproof_rows WHERE view = ?", (view.name,)).fetchall()
        keys = [key for (key,) in found]
        return keys, self.rows((view,), keys)[view.name]


def _table(view: View) -> str:
    return f"{PROJECT}_{view.name}"


def _marks(keys: list[bytes]) -> str:
    return ",".join("?" * len(keys))


def _feast_second(at_us: int) -> int:
    """A time as Feast's SQLite store writes it: UTC read as if it were local time, in whole seconds (it reads it back
    alike)."""
    naive = to_datetime(at_us).astimezone(UTC).replace(tzinfo=None)
    return int(naive.timestamp())
