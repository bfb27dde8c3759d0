"""Figures for the docs: what a command printed, kept as JSON in docs/figures with hashes of the rooms that it measured."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "figures"
ROOMS = ("infra", "features", "models", "serving", "monitoring", "pipelines")


@dataclass(frozen=True, slots=True)
class Figure:
    """One command's result, and the state of the code it came from."""

    command: str
    rooms: dict[str, str]  # room -> hash of its Python files when measured
    result: dict[str, Any]

    def changed_rooms(self) -> list[str]:
        """Rooms whose code has changed since the figure was measured."""
        return [room for room, found in self.rooms.items() if room_hash(room) != found]


def room_hash(room: str) -> str:
    """SHA-256 (16 hex digits) over names and contents of a room's Python files."""
    digest = hashlib.sha256()
    for path in sorted((ROOT / room).rglob("*.py")):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def record(name: str, command: str, rooms: tuple[str, ...], result: dict[str, Any]) -> Path:
    """Keep a result under docs/figures/NAME.json, in the order that it was made in: tables are made from it."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{name}.json"
    content = {"command": command, "rooms": {room: room_hash(room) for room in rooms}, "result": result}
    path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
    return path


def load(name: str) -> Figure:
    """The figure of that name; FileNotFoundError says which command makes it."""
    path = FOLDER / f"{name}.json"
    content = json.loads(path.read_text())
    return Figure(content["command"], content["rooms"], content["result"])


def names() -> list[str]:
    """Names of all recorded figures."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))
