"""Branches: a second home with everything that the base has, for a drill to break.  Called by the drill and gauntlet runners.

Parquet files and Delta logs are hard-linked, since whoever writes them writes a new file and moves it into place; everything
else (SQLite, the prediction log, models) is copied.  So a branch costs little, and nothing done in it reaches the base.
"""

import hashlib
import os
import re
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pyarrow.fs as pfs
from deltalake.fs import DeltaStorageHandler

from infra.errors import ExplainedError
from infra.home import Home
from infra.lake import Lake

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SQLITE = b"SQLite format 3\0"
_BESIDE_SQLITE = ("-wal", "-shm", "-journal")  # a database's own temporary files: its content is copied through SQLite


def create(base: Home, name: str) -> Home:
    """A writable branch of `base` in base.branches/NAME, with the content of this moment.

    `base` may be read-only: a drill opens it as `Home(root, writable=False)`.  Where the base's lake is an object store, its
    tables are downloaded into the branch.  ValueError for a name unfit for a folder, ExplainedError where it is taken."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} cannot name a branch; use letters, digits, dots, dashes and underscores")
    branch = Home(base.branches / name)
    if branch.root.exists():
        raise ExplainedError(f"the branch {name!r} exists at {branch.root}; heal it (drop it) first, or choose another name")
    making = Home(base.branches / f".{name}.making")  # moved into place when complete
    shutil.rmtree(making.root, ignore_errors=True)
    making.root.mkdir(parents=True)
    for source in _files(base):
        target = making.root / source.relative_to(base.root)
        target.parent.mkdir(parents=True, exist_ok=True)
        _bring(source, target)
    lake = Lake.of(base)
    if lake.url != str(base.lake):
        remote = pfs.PyFileSystem(DeltaStorageHandler(lake.url))
        pfs.copy_files("", str(making.lake), source_filesystem=remote, destination_filesystem=pfs.LocalFileSystem())
    for database in making.mlflow.rglob("*.db"):
        _repoint(database, base.root, branch.root)
    making.root.rename(branch.root)
    return branch


def drop(branch: Home) -> None:
    """Remove a branch and all that is in it.  ValueError for a home that is no branch."""
    if branch.root.parent.name != "branches":
        raise ValueError(f"{branch.root} is not a branch (its folder is not inside `branches`); nothing was removed")
    shutil.rmtree(branch.root)


def fingerprint(home: Home, ignoring: tuple[str, ...] = ()) -> str:
    """BLAKE2b of names and contents of everything in a home except its branches: equal before and after if nothing changed.

    `ignoring` names folders of the home that are left out too."""
    whole = hashlib.blake2b(digest_size=16)
    for path in sorted(_files(home, ("branches", *ignoring))):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
        whole.update(f"{path.relative_to(home.root)} {content}\n".encode())
    lake = Lake.of(home)
    if lake.url != str(home.lake):
        whole.update(repr(lake.versions()).encode())
    return whole.hexdigest()


def _files(home: Home, without: tuple[str, ...] = ("branches",)) -> Iterator[Path]:
    for folder, subfolders, names in os.walk(home.root):
        if Path(folder) == home.root:
            subfolders[:] = [name for name in subfolders if name not in without]
        yield from (Path(folder, name) for name in names if not name.endswith(_BESIDE_SQLITE))


def _bring(source: Path, target: Path) -> None:
    if source.suffix == ".parquet" or source.parent.name == "_delta_log":
        try:
            os.link(source, target)
        except OSError:  # a file system without hard links
            shutil.copy2(source, target)
        return
    with source.open("rb") as file:
        is_sqlite = file.read(len(_SQLITE)) == _SQLITE
    if is_sqlite:
        with closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True)) as old, closing(sqlite3.connect(target)) as new:
            old.backup(new)  # a consistent state, though somebody may be writing
    else:
        shutil.copy2(source, target)


def _repoint(database: Path, base: Path, branch: Path) -> None:
    """MLflow keeps the full paths of run artefacts: those in a branch's database must lead into the branch."""
    with closing(sqlite3.connect(database)) as db, db:
        tables = [row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            texts = [
                row[1] for row in db.execute(f'PRAGMA table_info("{table}")') if row[2].upper().startswith(("VARCHAR", "TEXT"))
            ]
            for column in texts:
                db.execute(
                    f'UPDATE "{table}" SET "{column}" = replace("{column}", ?, ?) WHERE instr("{column}", ?)',
                    (f"{base}/", f"{branch}/", f"{base}/"),
                )
