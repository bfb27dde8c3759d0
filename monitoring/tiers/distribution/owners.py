"""Which key owns a column, and the invariants that follow: an owner's rows agree within an hour, and for fixed attributes for
ever.

Nobody has to declare that an ad has one category and one click rate a snapshot: the reference shows it.  A row that differs
from its owner's rows before and after it, where those two agree, is `apart` (an update changes a value once; damage to some
rows changes it there and back).  A row that differs from what its owner always had breaks the `map`.  Both hardly ever happen
by themselves, so a fraction of a percent of damaged rows is plain to see without knowing any right value.
"""

from collections.abc import Sequence

import numpy as np

from monitoring.tiers.distribution.categories import _find
from monitoring.tiers.distribution.parts import Part, lasts
from monitoring.tiers.distribution.rows import BOTH, EVERYTHING, F64, Array, Bool, Groups, Rows, same

AGREE = 0.9995  # of rows have their owner's first value: an invariant
LOOSE = 0.9  # of rows: still good enough to say whose rows move together
APART = 0.0005  # of rows may be apart in an invariant
HOURS = 0.75  # of the hours must agree: in the others a new snapshot arrived
LEAST_SHARED, LEAST_PART = 200, 0.1  # rows (and part of all) that share their owner with others: fewer show nothing


def find_owner(hours: Sequence[Rows], column: str, numeric: bool, keys: Sequence[str], agree: float) -> str:
    """The coarsest of `keys` (finest last) within whose owners a column agrees, in every hour together; "" where none."""
    for key in keys:
        if column in key.split(BOTH):
            continue
        rows = shared = lonely = good = 0
        for hour in hours:
            groups = hour.groups(key)
            values = hour.any_values(column, numeric)
            first = np.repeat(groups.first(values), groups.sizes)
            together = np.repeat(groups.sizes > 1, groups.sizes)
            agreeing = int(np.count_nonzero(same(values[groups.order], first) & together))
            here = int(np.count_nonzero(together))
            good += agreeing >= agree * here
            lonely += int(np.count_nonzero(apart(values, groups)))
            rows, shared = rows + hour.rows, shared + here
        if shared < max(LEAST_SHARED, LEAST_PART * rows):
            continue
        if good >= HOURS * len(hours) and (agree < AGREE or lonely <= APART * shared):
            return key
    return ""


def apart(values: Array, groups: Groups) -> Bool:
    """[n] rows whose run of equal values lies between two runs of one other value, within an owner and in order of time."""
    ordered = values[groups.order]
    begins = np.ones(len(ordered), bool)
    if len(ordered):
        begins[1:] = ~same(ordered[1:], ordered[:-1])
        begins[groups.starts] = True
    heads = np.flatnonzero(begins)
    found = np.zeros(len(values), bool)
    if len(heads) < 3 or len(heads) == len(groups.starts):
        return found
    owner = groups.owner[groups.order[heads]]
    value = ordered[heads]
    lonely = np.zeros(len(heads), bool)
    lonely[1:-1] = (owner[:-2] == owner[2:]) & same(value[:-2], value[2:])
    found[groups.order] = np.repeat(lonely, np.diff(np.append(heads, len(ordered))))
    return found


class OwnedCounter:
    """Rows of one column that break what its owner leads one to expect."""

    def __init__(self, subject: str, column: str, family: str, owner: str, numeric: bool, request: str) -> None:
        """`request` is the key whose rows are damaged together ("" none): rows apart are counted by it."""
        self.subject, self.column, self.family, self.owner, self.numeric = subject, column, family, owner, numeric
        self.request = request
        # A pair of two features of few values is remembered; a user's with a feature would be too many to be met again.
        self.small = BOTH in owner and all(name.startswith("f_") for name in owner.split(BOTH))
        self.keys: Array | None = None
        self.values: Array = np.zeros(0)
        self.met = self.kept = 0  # owners met again with a known value, and those of them that kept it
        who = name_of(owner)
        self.parts = [
            Part(subject, "apart", f"differs from the same {who}'s other rows", "rare", family, True, lasts(request)),
            Part(subject, "map", f"differs from what the {who} always had", "rare", family, True, lasts(owner)),
        ]

    def _plain(self, rows: Rows) -> Array:
        """Values [n] that mean the same in every table; NaN or "" where null."""
        if self.numeric:
            return rows.number(self.column)
        codes, values = rows.codes(self.column)
        if values.dtype.kind in "iuf":
            return np.append(values.astype(np.float64), np.nan)[codes]
        return np.append(values, "")[codes] if len(values) else np.full(rows.rows, "")

    @property
    def fixed(self) -> bool:
        """Whether owners keep their values for good."""
        return self.met >= 30 and self.kept >= AGREE * self.met

    def broken(self, rows: Rows) -> tuple[Bool, Bool, Array]:
        """Rows apart [n], rows that break the map [n], and what the map says [n] (NaN or "" where it says nothing)."""
        groups = rows.groups(self.owner)
        values = self._plain(rows)
        loose = apart(rows.any_values(self.column, self.numeric), groups)
        expected = np.full(rows.rows, np.nan if values.dtype.kind == "f" else "", dtype=values.dtype)
        if self.keys is None or not self.fixed:
            return loose, np.zeros(rows.rows, bool), expected
        codes, keys = rows.codes(self.owner)
        place = np.append(_find(self.keys, keys), -1)[codes]
        known = place >= 0
        expected = expected.astype(np.result_type(values, self.values))
        expected[known] = self.values[place[known]]
        return loose, known & (values != expected) & ~_null(values) & ~_null(expected), expected

    def count(self, rows: Rows) -> F64:
        """(k, n, q, deff) [parts, 4]."""
        groups = rows.groups(self.owner)
        loose, broken, expected = self.broken(rows)
        known = np.count_nonzero(~_null(expected)) if self.fixed else 0
        together, hit = rows.groups(self.request) if self.request else None, np.flatnonzero(loose)
        return np.array([
            (together.independent(hit) if together and len(hit) else float(len(hit)), rows.rows, 0.0, 1.0),
            (groups.independent(np.flatnonzero(broken)), known, 0.0, 1.0),
        ])  # fmt: skip

    def learn(self, rows: Rows) -> None:
        """Remember each owner's value; a value once learned stays."""
        if self.owner == EVERYTHING or (BOTH in self.owner and not self.small) or (self.met >= 2000 and not self.fixed):
            return  # values of this column change: nothing to remember
        groups = rows.groups(self.owner)
        codes, keys = rows.codes(self.owner)
        own, first = groups.first(codes), groups.first(self._plain(rows))
        usable = (own >= 0) & ~_null(first)
        names, first = keys[own[usable]], first[usable]
        if self.keys is None:
            order = np.argsort(names, kind="stable")
            self.keys, self.values = names[order], first[order]
            return
        place = _find(self.keys, names)
        again = place >= 0
        self.met += int(again.sum())
        self.kept += int((self.values[place[again]] == first[again]).sum())
        if not again.all():
            self.keys, self.values = _merged(self.keys, self.values, names[~again], first[~again])


def _merged(keys: Array, values: Array, more: Array, theirs: Array) -> tuple[Array, Array]:
    """Sorted keys and their values with more of both in their places; no key is in both."""
    order = np.argsort(more, kind="stable")
    at = np.searchsorted(keys, more[order])
    wide = keys.astype(np.result_type(keys, more), copy=False), values.astype(np.result_type(values, theirs), copy=False)
    return np.insert(wide[0], at, more[order]), np.insert(wide[1], at, theirs[order])


def _null(values: Array) -> Bool:
    return np.isnan(values) if values.dtype.kind == "f" else values == ""


def name_of(key: str) -> str:
    """A key's name for people: without the prefix of features."""
    return "hour" if key == EVERYTHING else key.removeprefix("f_").replace(BOTH + "f_", " and ")
