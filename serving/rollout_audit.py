"""The audit log of rollouts: a JSON line a change, who, when, from, to and why; never rewritten.

`serving.rollout_store` writes a line before its change takes effect, and reads them for `history` and rollbacks.
"""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from infra.home import Home
from serving.rollout import Rollout

GUARD, SERVER = "guard", "server"  # who end a canary by themselves: it left its bands; it has no guard
_log = logging.getLogger("clickproof.serving")


class Entry(msgspec.Struct, frozen=True, rename={"before": "from", "after": "to"}):
    """One change."""

    number: int
    at_us: int  # by the machine's clock
    who: str
    why: str
    before: Rollout | None  # None: there was no champion
    after: Rollout
    undoes: int | None = None  # a rollback: number of the change of champion that it takes back

    @property
    def moved(self) -> bool:
        """Whether there is another champion since."""
        return self.before is None or self.before.champion != self.after.champion


def path(home: Home) -> Path:
    """Where the log lies."""
    return home.rollout / "audit.jsonl"


def append(home: Home, entry: Entry) -> None:
    """One line more, on disk when this returns; behind a line that a crash cut short it begins a new one."""
    line = msgspec.json.encode(entry) + b"\n"
    with home.writing(path(home)).open("ab+") as file:
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(size - 1)
            line = line if file.read(1) == b"\n" else b"\n" + line
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def effective(home: Home, number: int) -> tuple[Entry, ...]:
    """The changes that led to document `number`, oldest first.

    A line that a crash cut short is left out, and so is a change that was written down and never took effect: its number is
    above the document's, or a later line has it again.
    """
    if not path(home).exists():
        return ()
    latest: dict[int, Entry] = {}
    for line in path(home).read_bytes().splitlines():
        try:
            entry = msgspec.json.decode(line, type=Entry)
        except msgspec.DecodeError as error:
            _log.warning("%s: a line is left out (%s); a process was killed while it wrote", path(home), error)
            continue
        latest[entry.number] = entry
    return tuple(latest[each] for each in sorted(latest) if each <= number)


def sent_back(entries: Sequence[Entry]) -> int:
    """How many canaries ended without anybody asking."""
    return sum(
        entry.who in (GUARD, SERVER) and entry.before is not None and entry.before.canary is not None for entry in entries
    )


def to_take_back(entries: Sequence[Entry]) -> Entry | None:
    """The latest change of champion that no rollback took back; None where there is none.  So rollbacks go further back."""
    undone = {entry.undoes for entry in entries}
    for entry in reversed(entries):
        if entry.moved and entry.before is not None and entry.undoes is None and entry.number not in undone:
            return entry
    return None
