"""The online store on a Redis server, in the key layout of Feast 0.67's Redis store, so that Feast reads what we write.

One hash an entity: fields murmur3(VIEW:FEATURE) hold values, `_ts:VIEW` the event time.  Fields and keys of our own:
`_row:VIEW` in the same hash (the row as one value, see `features.packed`), `clickproof:entities:VIEW` (the keys of a view, so
that loading a view need not scan the server), and `clickproof:marks` (up to when each view is complete).  There is one
writer; the guard reads, then writes.
"""

import struct
from typing import Any

import mmh3
import redis

from features.catalogue import View
from features.online_guard import Written, admitted, check_layout, newer
from features.online_values import PROJECT, Encoded, Mark, varint
from features.packed import layout
from infra.clock import SECOND_US

_MARKS = f"{PROJECT}:marks"
_STAMPS = struct.Struct("<qq")  # event_us, available_us in a packed row, behind the layout id
_MARK = struct.Struct("<qqqqq")  # snapshot, event_us, available_us, writes, layout
_AT_ONCE = 2000  # commands in one round trip


class RedisStore:
    """Implements `features.online_store.OnlineStore`.  Connects on first use; safe to use from several threads."""

    def __init__(self, url: str, writable: bool = True) -> None:
        self.url = url
        self._writable = writable
        self._client: Any = redis.Redis.from_url(url, socket_timeout=5)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def put(self, view: View, rows: Encoded, mark: Mark | None) -> Written:
        """See OnlineStore.  Raises PermissionError on a read-only home.  The mark is written last, after the rows it speaks
        for."""
        if not self._writable:
            raise PermissionError("the Redis store is read-only here: a drill may write only to its own branch")
        stored = self.marks().get(view.name)
        check_layout(view, stored)
        packed = self.rows((view,), rows.keys)[view.name]
        held = [None if row is None else _STAMPS.unpack_from(row, 8) for row in packed]
        at = admitted(rows.event_us, rows.available_us, held).tolist()
        fields = {name: _field(view, name) for name in rows.values}
        for low in range(0, len(at), _AT_ONCE):
            with self._client.pipeline(transaction=False) as pipe:
                part = at[low : low + _AT_ONCE]
                for i in part:
                    values: dict[str | bytes, bytes] = {field: rows.values[name][i] for name, field in fields.items()}
                    values[f"_ts:{view.name}"] = _timestamp(int(rows.event_us[i]))
                    values[row_field(view)] = rows.packed[i]
                    pipe.hset(hash_key(rows.keys[i]), mapping=values)
                pipe.sadd(_entities(view), *(rows.keys[i] for i in part))
                pipe.execute()
        self._client.hset(_MARKS, view.name, _MARK.pack(*newer(mark, stored, layout(view).id)))
        return Written(len(at), len(rows.keys) - len(at))

    def marks(self) -> dict[str, Mark]:
        """See OnlineStore: one round trip."""
        return {name.decode(): read_mark(packed) for name, packed in self._client.hgetall(_MARKS).items()}

    def rows(self, views: tuple[View, ...], keys: list[bytes]) -> dict[str, list[bytes | None]]:
        """See OnlineStore."""
        fields = [row_field(view) for view in views]
        found: list[list[bytes | None]] = []
        for low in range(0, len(keys), _AT_ONCE):
            with self._client.pipeline(transaction=False) as pipe:
                for key in keys[low : low + _AT_ONCE]:
                    pipe.hmget(hash_key(key), fields)
                found += pipe.execute()
        return {view.name: [row[i] for row in found] for i, view in enumerate(views)}

    def everything(self, view: View) -> tuple[list[bytes], list[bytes]]:
        """See OnlineStore."""
        keys = sorted(self._client.smembers(_entities(view)))
        there = zip(keys, self.rows((view,), keys)[view.name], strict=True)
        found = [(key, packed) for key, packed in there if packed is not None]
        return [key for key, _ in found], [packed for _, packed in found]


def hash_key(key: bytes) -> bytes:
    """The Redis key of an entity's hash, as Feast names it."""
    return key + PROJECT.encode()


def row_field(view: View) -> str:
    """The field of an entity's hash that holds its row as one value."""
    return f"_row:{view.name}"


def read_mark(packed: bytes) -> Mark:
    """A mark as it lies in `clickproof:marks`."""
    return Mark(*_MARK.unpack(packed))


def _entities(view: View) -> str:
    return f"{PROJECT}:entities:{view.name}"


def _field(view: View, feature: str) -> bytes:
    """Feast's hash field of a feature: murmur3, 32 bits, little endian."""
    return struct.pack("<I", mmh3.hash(f"{view.name}:{feature}", signed=False))


def _timestamp(at_us: int) -> bytes:
    """google.protobuf.Timestamp."""
    seconds, micros = divmod(at_us, SECOND_US)
    return b"\x08" + varint(seconds) + (b"\x10" + varint(micros * 1000) if micros else b"")
