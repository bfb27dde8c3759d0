"""What a person meets who interrupts, mistypes, or whose files break."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from as_a_user import MainJob, clickproof
from patience import PATIENCE_S, until

from infra.home import Home
from infra.lake import Lake

TINY = ("--size", "tiny")


def test_ctrl_c_ends_at_once_with_everything_it_started(tmp_path: Path) -> None:
    """A terminal sends SIGINT to the whole group: Prefect's server dies too, and nobody may wait for it."""
    command = [str(Path(sys.executable).with_name("clickproof")), "train", *TINY, "--home", str(tmp_path)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stderr is not None
    said = ""
    with process.stderr as stream:
        for line in stream:
            said += line
            if line.startswith("ingest events"):
                break
        os.killpg(process.pid, signal.SIGINT)
        status = process.wait(PATIENCE_S)
        said += stream.read()
    assert status == 130, said
    assert "run it again" in said
    until(lambda: not of_group(process.pid), lambda: of_group(process.pid))


IN_THE_MIDDLE = """
import io, os, signal, sys
from pipelines.interrupt import end_at_once

class Interrupted(io.RawIOBase):
    def writable(self):
        return True
    def write(self, text):
        os.kill(os.getpid(), signal.SIGINT)
        return len(text)

end_at_once()
sys.stderr = io.TextIOWrapper(io.BufferedWriter(Interrupted()), line_buffering=True)
print("half a line", file=sys.stderr)
"""


def test_ctrl_c_in_the_middle_of_a_line_ends_it_too() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IN_THE_MIDDLE], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 130, done.stderr
    assert "run it again" in done.stderr


def of_group(pid: int) -> str:
    """Its processes that are still there."""
    return subprocess.run(["pgrep", "--list-name", "-g", str(pid)], capture_output=True, text=True, check=False).stdout


@pytest.fixture
def ingested(main_job: MainJob, tmp_path: Path) -> Home:
    """A copy of a home whose events are in its lake."""
    shutil.copytree(main_job.settings.home, tmp_path, dirs_exist_ok=True)
    return Home(tmp_path / main_job.home.root.name)


def test_a_file_that_breaks_after_it_was_ingested_takes_no_row_away(ingested: Home) -> None:
    home = ingested
    before = Lake.of(home).read("clicks").num_rows
    landed = sorted((home.landing / "clicks").glob("day=*/*.parquet"))[3]
    landed.write_bytes(b"junk")
    done = clickproof("ingest", *TINY, home=home.root.parent, status=2)
    assert str(landed) in done.stderr
    assert "The lake keeps what it had" in done.stderr
    assert Lake.of(home).read("clicks").num_rows == before


def test_a_file_that_was_never_readable_is_named(ingested: Home) -> None:
    bad = sorted((ingested.landing / "clicks").glob("day=*"))[-1] / "part-9.parquet"
    bad.write_bytes(b"junk")
    done = clickproof("ingest", *TINY, home=ingested.root.parent)
    assert "refused: " in done.stderr
    assert bad.name in done.stderr


def test_a_wrong_setting_is_named_without_a_traceback(tmp_path: Path) -> None:
    done = clickproof("ingest", *TINY, "--seed", "-1", home=tmp_path, status=2)
    assert "seed is -1" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_home_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    done = clickproof("ingest", *TINY, home=tmp_path / "file", status=2)
    assert "--home" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_taken_port_is_said_before_anything_is_loaded(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = [str(Path(sys.executable).with_name("clickproof")), "serve", *TINY, "--home", str(tmp_path)]
        environment = {**os.environ, "CLICKPROOF_PORT": str(port)}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=PATIENCE_S, check=False)
    assert done.returncode == 2
    assert "CLICKPROOF_PORT=8010" in done.stderr


def test_a_drill_on_nothing_says_what_to_do(tmp_path: Path) -> None:
    done = clickproof("inject", "LEAK01", *TINY, home=tmp_path, status=2)
    assert "make train" in done.stderr
