"""The days that the control room's monitors learn from: the world goes on for two weeks with the champion choosing, at once.

What a model shows decides what its log looks like, so the history under the old ranker would not do.  The days are made on a
branch of their own, once for each champion; every start of the control room branches off from it and reads its windows.
"""

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
from pyarrow import ipc

from infra import branch
from infra.clock import DAY_US, HOUR_US, day_name
from infra.home import Home
from infra.progress import progress
from infra.settings import Settings
from monitoring.window import Window
from pipelines.live.ask import InProcess
from pipelines.live.system import System
from pipelines.plant.making import previous
from pipelines.sources.world.source import WorldSource
from pipelines.training import SERVICE
from serving.champion import champion

_TABLES = ("log", "clicks", "offline", "rescored", "day_old", "books", "refused")
_DONE = "done"
PREVIOUS = "previous.txt"  # the hash of the model that served before the champion: for a rollout to mix up


def reference(base: Home, source: WorldSource, chosen: Settings, days: int) -> Home:
    """A branch of `base` that went on for `days` days, with their windows beside it; made now where it is not there yet.

    Raises ExplainedError where the base has no champion."""
    name = f"live-{champion(base).hash[:8]}-{day_name(source.resume(base).now_us)}-{days}"
    home = Home(base.branches / name)
    with _alone(base):
        if not (_folder(home) / _DONE).exists():
            shutil.rmtree(home.root, ignore_errors=True)  # a start that was interrupted
            home = branch.create(base, name)
            _go_on(home, source, chosen, days)
            (_folder(home) / _DONE).touch()
    return home


def windows(home: Home) -> Iterator[Window]:
    """The reference's windows, hour by hour."""
    for path in sorted(_folder(home).glob("*.arrows")):
        yield _load(path)


def count(home: Home) -> int:
    """How many there are."""
    return len(list(_folder(home).glob("*.arrows")))


def _go_on(home: Home, source: WorldSource, chosen: Settings, days: int) -> None:
    _folder(home).mkdir(parents=True, exist_ok=True)
    system, ask = System(home, source, SERVICE), InProcess(home, chosen)
    (_folder(home) / PREVIOUS).write_text(previous(home, source).save(home.artefacts))
    first_us = system.now_us
    steps = range(first_us, first_us + days * DAY_US, HOUR_US)
    for hour_us in progress(steps, "days for the monitors to learn from", "hour"):
        while system.now_us < hour_us + HOUR_US:
            for window in system.step(ask, DAY_US):
                if window.start_us == first_us:
                    continue  # a trained home's store holds the night's rows already, half an hour early
                _save(_folder(home) / f"{window.start_us}.arrows", window)
    system.close()
    ask.close()


def before(home: Home) -> str:
    """The hash of the model that served before the champion."""
    return (_folder(home) / PREVIOUS).read_text()


def _folder(home: Home) -> Path:
    return home.root / "reference"


def _save(path: Path, window: Window) -> None:
    """One file a window: its tables as Arrow streams, one behind the other, each with its name."""
    with path.open("wb") as file:
        for name in _TABLES:
            table: pa.Table | None = getattr(window, name)
            if table is not None:
                about = {"table": name, "start_us": str(window.start_us), "end_us": str(window.end_us)}
                arms = {f"arm {arm}": repr(share) for arm, share in (window.plan or {}).items()}
                named = table.replace_schema_metadata(about | arms)
                with ipc.new_stream(file, named.schema, options=ipc.IpcWriteOptions(compression="lz4")) as stream:
                    stream.write_table(named)


def _load(path: Path) -> Window:
    tables: dict[str, pa.Table] = {}
    about: dict[str, str] = {}
    with path.open("rb") as file:
        while file.peek(1):
            table = ipc.open_stream(file).read_all()
            about = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
            tables[about["table"]] = table.replace_schema_metadata(None)
    plan = {key.removeprefix("arm "): float(share) for key, share in about.items() if key.startswith("arm ")}
    return Window(int(about["start_us"]), int(about["end_us"]), **tables, plan=plan)


@contextmanager
def _alone(base: Home) -> Iterator[None]:
    """One start at a time makes a reference; the lock goes with the process."""
    base.branches.mkdir(parents=True, exist_ok=True)
    with (base.branches / ".live").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
