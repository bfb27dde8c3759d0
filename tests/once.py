"""What several processes that run the tests would make alike is made by the first that needs it; the others wait for it.

The processes are pytest-xdist's (`pytest -n 2`); a session of one process makes it for itself.
"""

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

SEVERAL = "PYTEST_XDIST_WORKER" in os.environ  # whether this is one of several processes


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder of this process's own with what `make` puts into the folder that it is given."""
    mine = factory.mktemp(name)
    if not SEVERAL:
        make(mine)
        return mine
    first = factory.getbasetemp().parent / name  # which all processes of a session have in common
    with first.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not first.with_suffix(".done").exists():
            shutil.rmtree(first, ignore_errors=True)  # of somebody who failed
            first.mkdir()
            make(first)
            first.with_suffix(".done").touch()
        fcntl.flock(lock, fcntl.LOCK_UN)  # also where a process that `make` started has the file open still
    shutil.copytree(first, mine, dirs_exist_ok=True)
    return mine
