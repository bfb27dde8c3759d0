"""The monitor in a process of its own, which is handed windows and nothing else.

Whoever injects a bug knows which; a detector in the same process could know it too.  So drills, the gauntlet and the control
room talk to a child process over pipes: it gets windows as Arrow, and answers findings and incidents as JSON.  It starts in an
empty folder and without the parent's environment, so it can't find the drill's branch or its settings either.
"""

import json
import os
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import IO, Any, Literal, Self

import pyarrow as pa

from monitoring.findings import Finding
from monitoring.incidents import Incident, State
from monitoring.monitor import Monitor, Seen
from monitoring.window import LogColumns, Window
from pipelines.environment import bare

_HEAD = struct.Struct("<I")
_TABLES = ("log", "clicks", "offline", "rescored", "day_old", "books", "refused")


@dataclass(frozen=True, slots=True)
class Watched:
    """What the monitor said to one window: `monitoring.monitor.Seen` with incidents as data."""

    start_us: int
    end_us: int
    findings: list[Finding]
    opened: list[dict[str, Any]]  # Incident.as_json of those that the window opened
    ran: list[str]
    skipped: dict[str, str]


class Watcher:
    """A monitor in a child process; a context manager that ends it."""

    def __init__(self, columns: LogColumns) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="watcher-")
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "pipelines.watcher"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=self._folder.name,
            env={**bare(), "HOME": self._folder.name, "OMP_NUM_THREADS": "1", "PYTHONPATH": _room()},
            start_new_session=True,  # a terminal's Ctrl-C is for its owner, and with that it ends
        )
        self._ask("columns", asdict(columns))

    def warm_up(self, window: Window) -> None:
        """See `Monitor.warm_up`."""
        self._ask("warm_up", window=window)

    def observe(self, window: Window) -> Watched:
        """See `Monitor.observe`."""
        said = self._ask("observe", window=window)
        return Watched(**{**said, "findings": [Finding(**found) for found in said["findings"]]})

    def keep(self, name: str) -> None:
        """Remember the monitor as it is now."""
        self._ask("keep", {"name": name})

    def back_to(self, name: str) -> None:
        """Go on from a monitor that was kept; it can be gone back to again."""
        self._ask("back_to", {"name": name})

    def forget(self, name: str) -> None:
        """Drop a monitor that was kept."""
        self._ask("forget", {"name": name})

    def incidents(self) -> list[dict[str, Any]]:
        """Every incident so far as data, with its hypotheses as they are now."""
        found: list[dict[str, Any]] = self._ask("incidents")["incidents"]
        return found

    def open_incidents(self) -> list[dict[str, Any]]:
        """Those that go on."""
        return [incident for incident in self.incidents() if incident["state"] in ("new", "acknowledged")]

    def set_state(self, number: int, state: str) -> None:
        """A person's word on an incident: acknowledged, resolved or false-alarm.  KeyError where there is no such number."""
        self._ask("set_state", {"number": number, "state": state})

    def cpu_s(self) -> float:
        """Processor seconds that the child has used."""
        return float(self._ask("cpu")["cpu_s"])

    def close(self) -> None:
        """End the child."""
        if self._process.stdin is not None:
            with suppress(BrokenPipeError):  # it has gone already, with a question unread
                self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _ask(self, op: str, meta: dict[str, Any] | None = None, window: Window | None = None) -> dict[str, Any]:
        """One question, one answer.  RuntimeError where the child failed: its own message stands above on standard error."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            _send(self._process.stdin, {"op": op, **(meta or {})}, window)
            answer, _ = _receive(self._process.stdout)
        except (BrokenPipeError, EOFError) as error:
            code = self._process.poll()
            raise RuntimeError(f"the monitor's process ended (status {code}) at {op!r}; its message is above") from error
        if "error" in answer:
            raise RuntimeError(f"the monitor's process: {answer['error']}")
        return answer


def _room() -> str:
    """The folder that this package is imported from."""
    return os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def _send(pipe: IO[bytes], message: dict[str, Any], window: Window | None = None) -> None:
    parts: list[bytes] = []
    if window is not None:
        tables = {name: table for name in _TABLES if (table := getattr(window, name)) is not None}
        parts = [_pack(table) for table in tables.values()]
        plan = dict(window.plan) if window.plan is not None else None
        message["window"] = {"start_us": window.start_us, "end_us": window.end_us, "plan": plan}
        message["tables"] = [[name, len(part)] for name, part in zip(tables, parts, strict=True)]
    head = json.dumps(message).encode()
    pipe.write(_HEAD.pack(len(head)) + head)
    for part in parts:
        pipe.write(part)
    pipe.flush()


def _receive(pipe: IO[bytes]) -> tuple[dict[str, Any], Window | None]:
    message: dict[str, Any] = json.loads(_exactly(pipe, _HEAD.unpack(_exactly(pipe, _HEAD.size))[0]))
    if "window" not in message:
        return message, None
    tables = {name: _unpack(_exactly(pipe, size)) for name, size in message["tables"]}
    return message, Window(**message["window"], **tables)


def _exactly(pipe: IO[bytes], size: int) -> bytes:
    """`size` bytes; EOFError where the other side has gone."""
    data = pipe.read(size)
    if len(data) < size:
        raise EOFError
    return data


def _pack(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return sink.getvalue().to_pybytes()


def _unpack(data: bytes) -> pa.Table:
    with pa.ipc.open_stream(pa.py_buffer(data)) as stream:
        return stream.read_all()


def _columns(message: dict[str, Any]) -> LogColumns:
    tuples = {name: tuple(message[name]) for name in ("categorical", "numeric", "ids")}
    return LogColumns(**tuples, families=message["families"], units=message["units"], max_age_s=message["max_age_s"])


def _as_json(seen: Seen) -> dict[str, Any]:
    return {
        "start_us": seen.start_us,
        "end_us": seen.end_us,
        "findings": [finding.as_json() for finding in seen.findings],
        "opened": [incident.as_json() for incident in seen.opened],
        "ran": seen.ran,
        "skipped": seen.skipped,
    }


def _answers(questions: Iterator[tuple[dict[str, Any], Window | None]]) -> Iterator[dict[str, Any]]:
    """The child's work: one answer a question."""
    monitor: Monitor | None = None
    kept: dict[str, Monitor] = {}
    for message, window in questions:
        op = message["op"]
        if op == "columns":
            monitor = Monitor(_columns(message))
            yield {}
            continue
        assert monitor is not None, "the first question names the columns"
        if op == "observe":
            assert window is not None
            yield _as_json(monitor.observe(window))
        elif op == "warm_up":
            assert window is not None
            monitor.warm_up(window)
            yield {}
        elif op == "keep":
            kept[message["name"]] = monitor.copy()
            yield {}
        elif op == "back_to":
            monitor = kept[message["name"]].copy()
            yield {}
        elif op == "forget":
            del kept[message["name"]]
            yield {}
        elif op == "incidents":
            yield {"incidents": [incident.as_json() for incident in monitor.desk.incidents]}
        elif op == "set_state":
            _say(monitor, message["number"], message["state"])
            yield {}
        elif op == "cpu":
            used = os.times()
            yield {"cpu_s": used.user + used.system}
        else:
            yield {"error": f"no question {op!r}"}


def _say(monitor: Monitor, number: int, state: State | Literal["normal"]) -> None:
    """Take in a person's word; `normal` acknowledges an incident as the new normal, so that the monitor learns it."""
    if state == "acknowledged" or state == "normal":
        monitor.desk.acknowledge(number, as_new_normal=state == "normal")
    elif state == "false-alarm":
        monitor.desk.false_alarm(number)
    else:
        _incident(monitor, number).state = state


def _incident(monitor: Monitor, number: int) -> Incident:
    for incident in monitor.desk.incidents:
        if incident.number == number:
            return incident
    raise KeyError(f"no incident {number}")


def main() -> None:
    """The child's entry: questions from standard input, answers to standard output."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not end up among the answers

    def questions() -> Iterator[tuple[dict[str, Any], Window | None]]:
        while True:
            try:
                yield _receive(sys.stdin.buffer)
            except EOFError:
                return

    for answer in _answers(questions()):
        _send(answers, answer)


if __name__ == "__main__":
    main()
