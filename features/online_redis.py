"""The online store on a Redis server, in the key layout of Feast 0.67's Redis store, so that Feast reads what we write.

One hash an entity: fields murmur3(VIEW:FEATURE) hold values, `_ts:VIEW` the event time.  Fields and keys of our own:
`_row:VIEW` in the same hash (exact stamps and the snapshot), `clickproof:entities:VIEW` (the keys of a view, so that loading a
view need not scan the server), and `clickproof:marks` (up to when each view is complete).  There is one writer; the guard
reads, then writes.
"""

import struct
from typing import Any

import mmh3
import numpy as np
import redis

from features.catalogue import View
from features.online_guard import Written, admitted, newer
from features.online_values import PROJECT, Encoded, Mark, RawRows, varint
from infra.clock import SECOND_US

_MARKS = f"{PROJECT}:marks"
_ROW = struct.Struct("<qqq")  # event_us, available_us, snapshot
_MARK = struct.Struct("<qqqq")  # snapshot, event_us, available_us, writes
_AT_ONCE = 2000  # commands in one round trip


class RedisStore:
    """Implements `features.online_store.OnlineStore`.  Connects on first use; safe to use from several threads."""

    def __init__(self, url: str, writable: bool = True) -> None:
        self._url = url
        self._writable = writable
        self._client: Any = redis.Redis.from_url(url, socket_timeout=5)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def put(self, view: View, rows: Encoded, mark: Mark | None) -> Written:
        """See OnlineStore.  Raises PermissionError on a read-only home.  The mark is written last, after the rows it speaks
        for."""
        if not self._writable:
            raise PermissionError(f"{self._url} is read-only here: a drill may write only to its own branch")
        held = [_ROW.unpack(row)[:2] if row else None for row in self._hget(rows.keys, f"_row:{view.name}")]
        at = admitted(rows.event_us, rows.available_us, held).tolist()
        fields = {name: _field(view, name) for name in rows.values}
        for low in range(0, len(at), _AT_ONCE):
            with self._client.pipeline(transaction=False) as pipe:
                part = at[low : low + _AT_ONCE]
                for i in part:
                    event_us, available_us = int(rows.event_us[i]), int(rows.available_us[i])
                    values: dict[str | bytes, bytes] = {field: rows.values[name][i] for name, field in fields.items()}
                    values[f"_ts:{view.name}"] = _timestamp(event_us)
                    values[f"_row:{view.name}"] = _ROW.pack(event_us, available_us, int(rows.snapshot[i]))
                    pipe.hset(rows.keys[i] + PROJECT.encode(), mapping=values)
                pipe.sadd(_entities(view), *(rows.keys[i] for i in part))
                pipe.execute()
        self._client.hset(_MARKS, view.name, _MARK.pack(*newer(mark, self.marks().get(view.name))))
        return Written(len(at), len(rows.keys) - len(at))

    def _hget(self, keys: list[bytes], field: str) -> list[bytes | None]:
        found: list[bytes | None] = []
        for low in range(0, len(keys), _AT_ONCE):
            with self._client.pipeline(transaction=False) as pipe:
                for key in keys[low : low + _AT_ONCE]:
                    pipe.hget(key + PROJECT.encode(), field)
                found += pipe.execute()
        return found

    def marks(self) -> dict[str, Mark]:
        """See OnlineStore: one round trip."""
        return {name.decode(): Mark(*_MARK.unpack(packed)) for name, packed in self._client.hgetall(_MARKS).items()}

    def rows(self, views: tuple[View, ...], keys: list[bytes]) -> dict[str, RawRows]:
        """See OnlineStore."""
        fields: list[str | bytes] = []
        for view in views:
            fields += [f"_row:{view.name}", *(_field(view, feature.name) for feature in view.features)]
        found: list[list[bytes | None]] = []
        for low in range(0, len(keys), _AT_ONCE):
            with self._client.pipeline(transaction=False) as pipe:
                for key in keys[low : low + _AT_ONCE]:
                    pipe.hmget(key + PROJECT.encode(), fields)
                found += pipe.execute()
        raw, at = {}, 0
        for view in views:
            stamps = [row[at] for row in found]
            snapshot = np.array([_ROW.unpack(stamp)[2] if stamp else -1 for stamp in stamps], np.int64)
            values = {f.name: [row[at + 1 + i] or b"" for row in found] for i, f in enumerate(view.features)}
            raw[view.name] = RawRows(snapshot, values)
            at += 1 + len(view.features)
        return raw

    def everything(self, view: View) -> tuple[list[bytes], RawRows]:
        """See OnlineStore."""
        keys = sorted(self._client.smembers(_entities(view)))
        return keys, self.rows((view,), keys)[view.name]


def _entities(view: View) -> str:
    return f"{PROJECT}:entities:{view.name}"


def _field(view: View, feature: str) -> bytes:
    """Feast's hash field of a feature: murmur3, 32 bits, little endian."""
    return struct.pack("<I", mmh3.hash(f"{view.name}:{feature}", signed=False))


def _timestamp(at_us: int) -> bytes:
    """google.protobuf.Timestamp."""
    seconds, micros = divmod(at_us, SECOND_US)
    return b"\x08" + varint(seconds) + (b"\x10" + varint(micros * 1000) if micros else b"")
