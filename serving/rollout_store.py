"""The rollout document of a home on disk: read, changed by one at a time, taken back.

`rollout/rollout.json` is replaced as a whole (written beside, flushed to disk, renamed), so a reader meets the old one or the
new one; the change is in the audit log before.  Whoever changes it decided on a numbered document, and is refused where
another change came first.  The registry's alias `champion` follows the document; where somebody moved it by hand,
`disagreement` says so.  Called by `clickproof rollout`, the gates, the guard and the endpoint.
"""

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from msgspec.structs import replace

from infra.clock import SystemClock
from infra.errors import ExplainedError
from infra.home import Home
from models.artefact import ArtefactError, verify
from models.registry import CHAMPION, Registry
from serving import rollout as transitions
from serving import rollout_audit as audit
from serving.rollout import Rollout, RolloutError, Transition, decode, encode
from serving.rollout_audit import Entry

_log = logging.getLogger("clickproof.serving")


def document(home: Home) -> Path:
    """Where the document lies."""
    return home.rollout / "rollout.json"


def stamp(home: Home) -> tuple[int, int] | None:
    """Something that differs after every change and costs one stat: to poll.  None where there is no document yet."""
    try:
        found = document(home).stat()
    except FileNotFoundError:
        return None
    return found.st_mtime_ns, found.st_ino


def read(home: Home) -> Rollout:
    """The document; where there is none yet, number 0 with the registry's champion.

    Raises ExplainedError where there is no champion either, RolloutError naming a field that is wrong.
    """
    found = _present(home)
    if found is None:
        raise ExplainedError(
            f"{home.root} has no champion yet: `make train` (or `clickproof train`) trains and promotes one; "
            "if there is one elsewhere, say where with --home FOLDER"
        )
    return found


def history(home: Home) -> tuple[Entry, ...]:
    """Every change that took effect, oldest first."""
    now = _document(home)
    return () if now is None else audit.effective(home, now.number)


def change(home: Home, who: str, why: str, transition: Transition, expected: int | None = None) -> Entry:
    """Apply a transition to the document, write that down, let it take effect, and let the registry's alias follow.

    `expected` is the number of the document that was decided on, the present one by default.  RolloutError where another
    change came first, where the transition refuses, or where `who` or `why` is empty; ExplainedError where the registry
    doesn't know a new champion.  When this returns the change survives a power loss.
    """
    now = _decided_on(home, expected)
    after = transition(now)
    if after.champion != now.champion:
        _check_known(home, after.champion)
    return _commit(home, who, why, now, after)


def rollback(home: Home, who: str, why: str, expected: int | None = None) -> Entry:
    """Let the champion before answer again: the latest promotion that was not taken back yet is.

    RolloutError where there was none before, ExplainedError where its artefact is damaged or gone.  Waits for nothing but the
    disk until it has taken effect: only the alias needs the registry.
    """
    now = _decided_on(home, expected)
    last = audit.to_take_back(history(home))
    other = "name another: clickproof rollout promote HASH --why TEXT"
    if last is None or last.before is None:
        raise RolloutError(f"there is no champion before {now.champion} in {audit.path(home)}; {other}")
    target = last.before.champion
    try:
        verify(home.artefacts, target)
    except ArtefactError as error:
        raise ExplainedError(f"the champion before can't answer again: {error}; or {other}") from None
    return _commit(home, who, why, now, transitions.rollback(now, target), last.number)


def crown(home: Home, who: str, why: str, artefact: str) -> Entry | None:
    """Make an artefact champion, also the first one of a home; None where it is champion already.  Else as `change`."""
    now = _present(home)
    if now is not None and now.champion == artefact:
        return None
    _check_known(home, artefact)
    return _commit(home, who, why, now, Rollout(0, artefact) if now is None else transitions.promote(now, artefact))


def disagreement(home: Home) -> str | None:
    """Why the registry's alias and the document name two champions, and what to do; None where they agree."""
    now = _document(home)
    if now is None:
        return None
    named = Registry.of(home).alias_hash(CHAMPION)
    if named == now.champion:
        return None
    return (
        f"{document(home)} says that {now.champion} is champion, the registry's alias names {named or 'nothing'}: somebody "
        "moved it by hand, or a change was cut short. The endpoint follows the document. `clickproof rollout realign` lets the "
        "alias follow too; `clickproof rollout promote HASH --why TEXT` makes another one champion"
    )


def agreed_champion(home: Home) -> str | None:
    """The champion by document and alias, None where nothing was ever promoted.  ExplainedError where they disagree."""
    told = disagreement(home)
    if told is not None:
        raise ExplainedError(told)
    found = _present(home)
    return found.champion if found else None


def realign(home: Home) -> str | None:
    """Let the registry's alias name the document's champion, with a decision in its audit.

    What the alias named before ("nothing" where it named nothing); None where they agreed.
    """
    with _locked(home, "alias.lock"):  # whoever comes last reads the latest document
        now, registry = read(home), Registry.of(home)
        named = registry.alias_hash(CHAMPION)
        if named == now.champion:
            return None
        _check_known(home, now.champion)
        done = history(home)
        why = f"{done[-1].who}: {done[-1].why}" if done else "the document says so"
        at_us = SystemClock().now_us()
        registry.decide(now.champion, f"champion by rollout {now.number}", True, (why,), at_us=at_us, alias=CHAMPION)
        return named or "nothing"


def _commit(home: Home, who: str, why: str, before: Rollout | None, after: Rollout, undoes: int | None = None) -> Entry:
    """Write the change down, let it take effect, and let the alias follow."""
    who, why = who.strip(), why.strip()
    if not who or not why:
        raise RolloutError(f"the audit log keeps {'who' if not who else 'why'}: give --{'who NAME' if not who else 'why TEXT'}")
    number = before.number if before else 0
    if before is not None and replace(after, number=number) == before:
        raise RolloutError(f"that changes nothing: document {number} says so already")
    entry = Entry(number + 1, SystemClock().now_us(), who, why, before, replace(after, number=number + 1), undoes)
    with _locked(home, "lock"):
        now = _present(home)
        if now != before:
            raise _came_first(home, number, now.number if now else 0)
        audit.append(home, entry)
        _replace(document(home), encode(entry.after))
    _follow(home, entry)
    return entry


def _follow(home: Home, entry: Entry) -> None:
    """The alias after a change of champion; the change has taken effect by then, whatever the registry says."""
    if not entry.moved:
        return
    champion = entry.after.champion
    try:
        named = realign(home)
    except Exception as error:
        said = str(error).partition("\n")[0]
        raise ExplainedError(
            f"change {entry.number} took effect ({champion} is champion), but the registry's alias could not follow: {said}; "
            "run `clickproof rollout realign` when the registry answers"
        ) from error
    expected = "nothing" if entry.before is None else entry.before.champion
    if named not in (None, expected):
        _log.warning("the registry's alias champion named %s, which no change says; it names %s now", named, champion)


def _decided_on(home: Home, expected: int | None) -> Rollout:
    """The document, if it is still the one that was decided on."""
    now = read(home)
    if expected not in (None, now.number):
        raise _came_first(home, expected or 0, now.number)
    return now


def _came_first(home: Home, expected: int, number: int) -> RolloutError:
    last = history(home)[-1:]
    by = f" ({last[0].who}: {last[0].why})" if last else ""
    return RolloutError(
        f"another change came first: you decided on document {expected}, it is number {number} by now{by}; "
        "look again (clickproof rollout show) and repeat the command if you still want it"
    )


def _check_known(home: Home, artefact: str) -> None:
    """The registry must know a new champion, or the alias could not follow.  Raises ExplainedError."""
    registry = Registry.of(home)
    if artefact not in {version.hash for version in registry.versions()}:
        raise ExplainedError(
            f"the registry {registry.url} does not know artefact {artefact}, so it can't be champion; "
            "training records what it makes (clickproof train)"
        )


def _present(home: Home) -> Rollout | None:
    """The document, or what stands for it where there is none yet; None without a champion."""
    found = _document(home)
    if found is not None:
        return found
    named = Registry.of(home).alias_hash(CHAMPION)
    return None if named is None else Rollout(0, named)


def _document(home: Home) -> Rollout | None:
    try:
        return decode(document(home).read_bytes())
    except FileNotFoundError:
        return None
    except RolloutError as error:
        last = f"the last good one is `to` in the last line of {audit.path(home)}"
        raise RolloutError(f"{document(home)}: {error}; {last}") from None


@contextmanager
def _locked(home: Home, name: str) -> Iterator[None]:
    with home.writing(home.rollout / name).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _replace(path: Path, content: bytes) -> None:
    """The file with other content, on disk when this returns."""
    beside = path.with_suffix(".new")
    with beside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
