"""Users' stored rows: one read for a request, kept as long as nobody has written users since.

The cache never outlives the push view: a row is used again only while the store's marks say that no view of users was written
after it was read.  Where the store can't be read the last row known stands in, marked stale, and an unknown user where there
is none.  Used by `features.online`.
"""

from collections import Counter
from collections.abc import Sequence
from time import monotonic

import numpy as np

from features.batch import I64
from features.catalogue import View
from features.online_store import OnlineStore
from features.online_values import key_bytes
from features.side_by_side import Columns, Entities

MOST = 50_000  # users kept: some 2 kB each
JUST_S = 0.25  # between a read and the answer that it was for
Generation = tuple[int, ...]  # how often each view of users was written

_FIRST = slice(0, 1)


class Users:
    """The rows of users in some views."""

    def __init__(self, store: OnlineStore, views: Sequence[View], most: int = MOST) -> None:
        """`most` users are kept, one at least."""
        self.columns = Columns(views)
        self.counts: Counter[str] = Counter()  # hits, misses
        self._store = store
        self._most = max(most, 1)
        self._kept: dict[int, tuple[Generation, float, Entities]] = {}  # with when it was read; least recently used first
        self.unknown = self._unpacked([[None] for _ in views], _FIRST) if views else self.columns.nothing(1)

    def kept(self, user_id: int, now: Generation) -> Entities | None:
        """The row of a user, if it was read since users were last written."""
        entry = self._kept.pop(user_id, None)
        if entry is None:
            return None
        self._kept[user_id] = entry
        return entry[2] if entry[0] == now else None

    def just_read(self, user_id: int, now: Generation) -> Entities | None:
        """The row of a user that was read for this very request: users may have been written in the meantime."""
        entry = self._kept.get(user_id)
        if entry is None or (entry[0] != now and monotonic() - entry[1] > JUST_S):
            return None
        return entry[2]

    def last(self, user_id: int) -> Entities | None:
        """The row of a user as it was last seen, however long ago."""
        entry = self._kept.get(user_id)
        return None if entry is None else entry[2]

    def one(self, user_id: int, now: Generation) -> Entities:
        """The row of a user [1], from the store where it isn't kept.  Raises what the store raises, and ValueError for a row
        that can't be read."""
        row = self.kept(user_id, now)
        if row is not None:
            self.counts["hits"] += 1
            return row
        self.counts["misses"] += 1
        found = self._store.rows(self.columns.views, self.key(user_id))
        return self.keep(user_id, now, [found[view.name] for view in self.columns.views])

    def key(self, user_id: int) -> list[bytes]:
        """A user's key in the store."""
        return key_bytes(self.columns.views[0], [user_id])

    def keep(self, user_id: int, now: Generation, packed: Sequence[Sequence[bytes | None]]) -> Entities:
        """Unpack a user's row and keep it."""
        row = self._unpacked(packed, _FIRST)
        self._kept[user_id] = now, monotonic(), row
        if len(self._kept) > self._most:
            del self._kept[next(iter(self._kept))]
        return row

    def many(self, user_id: I64) -> Entities:
        """The rows of several users, in their order [n]."""
        distinct, place = np.unique(user_id, return_inverse=True)
        found = self._store.rows(self.columns.views, key_bytes(self.columns.views[0], distinct.tolist()))
        return self._unpacked([found[view.name] for view in self.columns.views], place)

    def _unpacked(self, packed: Sequence[Sequence[bytes | None]], place: I64 | slice) -> Entities:
        rows = [one.unpack(values) for one, values in zip(self.columns.layouts, packed, strict=True)]
        return self.columns.beside(rows, [place] * len(rows))
