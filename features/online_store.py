"""The one writer of every online store, with the guard that all of them share: an older row never replaces a newer one.

`pipelines.materialize` feeds daily rows and profiles, the live path pushes `user_recent`; `features.online` reads.  Feast's
SQLite store overwrites whatever was there and its Redis store doesn't; written through here, both agree with the as-of rule: of
an entity's rows the greatest event_timestamp wins, ties by the greatest available_at.
"""

from typing import Protocol

import numpy as np
import pyarrow as pa

from features.catalogue import View, view
from features.online_guard import Written
from features.online_values import Encoded, Mark, encode
from features.snapshots import times_us
from infra.errors import ExplainedError
from infra.home import Home
from infra.redaction import redacted
from infra.settings import settings


class OnlineStore(Protocol):
    """Where serving reads features: `features.online_sqlite` and `features.online_redis`."""

    def put(self, view: View, rows: Encoded, mark: Mark | None) -> Written:
        """Write rows that aren't older than what is stored, and the view's mark if it is newer."""
        ...

    def marks(self) -> dict[str, Mark]:
        """The mark of every view that was ever written; cheap enough for every request."""
        ...

    def rows(self, views: tuple[View, ...], keys: list[bytes]) -> dict[str, list[bytes | None]]:
        """The packed rows (`features.packed`) of some entities in views of that entity, by view; None: there is none."""
        ...

    def everything(self, view: View) -> tuple[list[bytes], list[bytes]]:
        """Keys and packed rows of all entities of a view."""
        ...

    def close(self) -> None: ...


def online_url(home: Home) -> str:
    """CLICKPROOF_ONLINE_URL for the home that the settings name, nothing for any other: a branch keeps its own file, so a drill
    can't reach the server that serves."""
    return settings().online_url.get_secret_value() if home.root == settings().base().root else ""


def open_store(home: Home, url: str | None = None) -> OnlineStore:
    """The online store of a home: the SQLite file in it, or the Redis server of a URL (redis://HOST:PORT); without `url`, what
    `online_url` says."""
    url = online_url(home) if url is None else url
    if url.startswith("redis://"):
        from features.online_redis import RedisStore

        return RedisStore(url, home.writable)
    if url:
        raise ExplainedError(
            f"unknown online store {redacted(url)!r}: give redis://HOST:PORT, or nothing for the SQLite file in the home"
        )
    from features.online_sqlite import SqliteStore

    return SqliteStore(home)


def write(store: OnlineStore, name: str, rows: pa.Table, mark: Mark | None = None) -> Written:
    """Write snapshot rows (columns as in `features.snapshots.schema`) of the view `name`; several rows of an entity are reduced
    to the newest.  `mark` says up to when the view is complete now."""
    target = view(name)
    return store.put(target, encode(target, rows), mark)


def push(store: OnlineStore, name: str, rows: pa.Table) -> Written:
    """Write rows of a push view as they come; the view is then complete up to the newest of them.

    Raises ValueError for a view that isn't pushed."""
    if view(name).refresh != "push":
        raise ValueError(f"{name} is a batch view: it is written by materialisation, not pushed")
    event_us, available_us = times_us(rows["event_timestamp"]), times_us(rows["available_at"])
    if rows.num_rows == 0:
        return Written(0, 0)
    newest = int(np.lexsort((available_us, event_us))[-1])
    mark = Mark(int(rows["snapshot"][newest].as_py()), int(event_us[newest]), int(available_us[newest]))
    return write(store, name, rows, mark)
