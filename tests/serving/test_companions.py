"""Processes beside the endpoint: they run while the document wants them, are started again, and end with whoever needs them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace
from patience import until

from infra.home import Home
from infra.settings import Settings
from serving import companions as room
from serving import rollout_store
from serving.companions import Companion, Companions
from serving.rollout import Rollout, encode

ONE, TWO = f"{1:016x}", f"{2:016x}"
SOUND = """
import os, sys, time
from pathlib import Path
from infra import child
chosen, order = child.ordered()
mine = Path(order["root"]) / f"alive-{os.getpid()}"
mine.with_name("being-written").write_text(chosen.write_token.get_secret_value())
mine.with_name("being-written").rename(mine)
try:
    time.sleep(600)
finally:
    (Path(order["root"]) / f"over-{os.getpid()}").touch()
"""
TOKEN = "a-token-that-nobody-may-see"


@pytest.fixture(autouse=True)
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two modules to run: one that works and one that dies."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "sound_companion.py").write_text(SOUND)
    (tmp_path / "modules" / "broken_companion.py").write_text("raise SystemExit(3)")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "modules"), os.getcwd()]))
    monkeypatch.setattr(room, "AGAIN_S", 0.05)


def put(home: Home, rollout: Rollout) -> None:
    """The document, as it is."""
    path = home.writing(rollout_store.document(home))
    beside = path.with_suffix(".beside")
    beside.write_bytes(encode(rollout))
    os.replace(beside, path)


def pids(home: Home, said: str) -> set[int]:
    return {int(path.name.partition("-")[2]) for path in home.root.glob(f"{said}-*")}


@contextmanager
def running(home: Home, *companions: Companion) -> Iterator[None]:
    found = Companions(home, Settings(write_token=TOKEN), companions)
    try:
        yield
    finally:
        found.close()


def with_shadows(module: str, given_up: Callable[[Home, Rollout], object] | None = None) -> Companion:
    return Companion(module, lambda rollout: bool(rollout.shadows), given_up)


def test_one_runs_while_the_document_wants_it_and_is_started_again_when_it_dies(tmp_path: Path) -> None:
    home, calm = Home(tmp_path), Rollout(1, ONE)
    put(home, calm)
    with running(home, with_shadows("sound_companion")):
        time.sleep(0.5)
        assert not pids(home, "alive")
        put(home, replace(calm, number=2, shadows=(TWO,)))
        (first,) = until(lambda: pids(home, "alive"))
        assert (tmp_path / f"alive-{first}").read_text() == TOKEN
        assert TOKEN not in Path(f"/proc/{first}/cmdline").read_text() + Path(f"/proc/{first}/environ").read_text()
        os.kill(first, signal.SIGKILL)
        (second,) = until(lambda: pids(home, "alive") - {first})
        put(home, replace(calm, number=3))
        until(lambda: second in pids(home, "over"))
        put(home, replace(calm, number=4, shadows=(TWO,)))
        (third,) = until(lambda: pids(home, "alive") - {first, second})
    assert third in pids(home, "over")


def test_a_damaged_document_is_told_once_and_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    home, whole = Home(tmp_path), Rollout(1, ONE, (TWO,))
    put(home, whole)
    with running(home, with_shadows("sound_companion")):
        (one,) = until(lambda: pids(home, "alive"))
        rollout_store.document(home).write_text('{"number": 2')
        until(lambda: "stay as they are" in caplog.text)
        time.sleep(5 * room.LOOK_S)
        assert caplog.text.count("stay as they are") == 1
        assert not pids(home, "over")
        put(home, replace(whole, number=2, shadows=()))
        until(lambda: one in pids(home, "over"))


def test_one_that_always_dies_is_given_up_and_what_follows_follows(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    home, told = Home(tmp_path), []
    put(home, Rollout(1, ONE, (TWO,)))
    with running(home, with_shadows("broken_companion", lambda _, rollout: told.append(rollout.number))):
        until(lambda: told)
        time.sleep(0.5)
    assert told == [1]
    assert caplog.text.count("ended with status 3") == room.GIVEN_UP


def test_it_does_not_outlive_a_parent_that_is_killed(tmp_path: Path) -> None:
    home = Home(tmp_path)
    put(home, Rollout(1, ONE, (TWO,)))
    program = (
        "import sys, time; from pathlib import Path; from infra.home import Home; from infra.settings import Settings\n"
        "from serving.companions import Companion, Companions\n"
        "Companions(Home(Path(sys.argv[1])), Settings(), [Companion('sound_companion', lambda _: True)]); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)])
    (child,) = until(lambda: pids(home, "alive"))
    parent.kill()
    parent.wait()
    until(lambda: child in pids(home, "over"))
