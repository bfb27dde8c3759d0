"""The command as a user runs it, and what the main job left: for integration tests of all rooms."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.home import Home
from infra.settings import Settings


@dataclass(frozen=True)
class MainJob:
    """What `clickproof train --size tiny --json` left and said."""

    settings: Settings
    home: Home
    result: dict[str, Any]
    said: str  # on standard error


def clickproof(*arguments: str, home: Path, status: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the command as a user does; fails the test with its output where it ends with another status."""
    command = [Path(sys.executable).with_name("clickproof"), *arguments, "--home", home]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == status, f"{arguments} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done
