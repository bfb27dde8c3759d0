"""Server processes of a benchmark: started on a free loopback port, kept on a core, timed by the kernel, ended by their ids.

Used by `pipelines.bench.serve` and by answers that drive a real server.  Processor time comes from /proc, so these need Linux.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import NamedTuple

from infra.errors import ExplainedError

SERVE = """
import json, sys
from pathlib import Path
from infra.home import Home
from infra.settings import Settings
from serving.serve import serve
chosen = json.loads(sys.argv[3]) if len(sys.argv) > 3 else {}
serve(Home(Path(sys.argv[1])), Settings(host="127.0.0.1", port=int(sys.argv[2]), **chosen))
"""
START_S = 90.0  # a busy machine takes its time to import everything
END_S = 20.0
READY_IN_A_ROW = 12  # answers of /readyz for each worker: the kernel deals connections out at random
STILL_S = 0.05  # a server that used less than a tick of the kernel's accounting in this time has nothing left to do
# A worker process on a shared core computes on one thread; what is not ours takes all cores unless told otherwise.
ONE_THREAD = ("env", "OMP_NUM_THREADS=1", "OPENBLAS_NUM_THREADS=1")

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Server(NamedTuple):
    """A running server: its loopback port and its process, which may have children."""

    port: int
    pid: int

    def cpu_s(self) -> float:
        """Processor seconds so far, with all its children."""
        return cpu_seconds(self.pid)

    def main_thread_s(self) -> float:
        """Processor seconds so far of the process' first thread, which answers requests in a server of one worker."""
        fields = Path(f"/proc/{self.pid}/task/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S

    def settle(self) -> float:
        """Wait until it has nothing left to do (five seconds at most); its processor seconds then."""
        before = self.cpu_s()
        for _ in range(100):
            time.sleep(STILL_S)
            now = self.cpu_s()
            if now == before:
                break
            before = now
        return before


def cores() -> tuple[set[int], set[int]]:
    """(the server's, the client's): one core each where this process may use several, otherwise the same one.

    Raises ExplainedError where the system does not say."""
    if not hasattr(os, "sched_getaffinity") or not Path("/proc/self/stat").exists():
        raise ExplainedError("servers are timed by Linux's own accounting (/proc): run this on Linux")
    allowed = sorted(os.sched_getaffinity(0))
    return {allowed[0]}, {allowed[-1]}


@contextmanager
def on_cores(chosen: set[int]) -> Iterator[None]:
    """Run the block, and every process that it starts, on these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, chosen)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def free_port() -> int:
    """A loopback port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


@contextmanager
def server(program: str, root: Path, *arguments: str, on: set[int] | None = None) -> Iterator[Server]:
    """Python source as a server process, given a home's root, a port and `arguments`; ready when /readyz says so."""
    port = free_port()
    command = [*ONE_THREAD, sys.executable, "-c", program, str(root), str(port), *arguments]
    with started(command, port, "/readyz", on) as process:
        yield process


@contextmanager
def started(command: Sequence[str], port: int, ready: str, on: set[int] | None = None) -> Iterator[Server]:
    """A server process whose path `ready` answers 200, kept on the cores `on` (by default where this process may run); ended
    afterwards with everything that it started.

    Raises ExplainedError with what it said where it ends by itself or isn't ready in time."""
    with tempfile.TemporaryFile() as said:
        with on_cores(on) if on else nullcontext():
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said)
        try:
            _wait_ready(process, port, ready, said.fileno())
            yield Server(port, process.pid)
        finally:
            _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """SIGTERM to the process and its children; SIGKILL to those that don't go."""
    family = tree(process.pid)
    for signalled in (signal.SIGTERM, signal.SIGKILL):
        for pid in family:
            with suppress(ProcessLookupError):
                os.kill(pid, signalled)
        end = time.perf_counter() + END_S
        while time.perf_counter() < end:
            if process.poll() is not None and not any(Path(f"/proc/{pid}").exists() for pid in family[1:]):
                return
            time.sleep(0.02)
    process.wait()


def _wait_ready(process: "subprocess.Popen[bytes]", port: int, path: str, said: int) -> None:
    end = time.perf_counter() + START_S
    last = b"no answer"
    while time.perf_counter() < end:
        if process.poll() is not None:
            raise ExplainedError(f"the server ended with status {process.returncode}:\n{_tail(said)}")
        last = get(port, path)
        if last.split()[1:2] == [b"200"]:
            return
        if b"no model could be loaded" in last:
            break
        time.sleep(0.1)
    raise ExplainedError(f"the server was not ready in {START_S:g} s; {path}: {last.decode()[-500:]}\n{_tail(said)}")


def wait_for_all(port: int, workers: int) -> None:
    """Wait until `workers` processes listen on the port and each that a connection may reach is ready.

    Raises ExplainedError where they don't get there in time."""
    end, in_a_row = time.perf_counter() + START_S, 0
    while in_a_row < READY_IN_A_ROW * workers:
        if time.perf_counter() > end:
            raise ExplainedError(f"{workers} workers were not ready on port {port} in {START_S:g} s")
        ready = len(listeners(port)) >= workers and get(port, "/readyz").split()[1:2] == [b"200"]
        in_a_row = in_a_row + 1 if ready else 0
        if not ready:
            time.sleep(0.1)


def listeners(port: int) -> set[str]:
    """The sockets (by inode) that listen on an IPv4 port (state 0A of /proc/net/tcp)."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {row[9] for row in rows if row[1].endswith(f":{port:04X}") and row[3] == "0A"}


def _tail(file: int) -> str:
    return os.pread(file, 1 << 20, 0).decode(errors="replace")[-2000:]


def get(port: int, path: str) -> bytes:
    """The whole answer to a GET on loopback; "no connection" where nobody listens."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as link:
            link.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
            return link.makefile("rb").read()
    except OSError as error:
        return f"no connection: {error}".encode()


def tree(pid: int) -> list[int]:
    """A process and all that descend from it; the process first."""
    children: dict[int, list[int]] = defaultdict(list)
    for fields in _stats():
        children[fields[1]].append(fields[0])
    found = [pid]
    for one in found:
        found += children[one]
    return found


def cpu_seconds(pid: int) -> float:
    """Processor seconds that a process and its descendants have used, user and system, all threads, and those of children
    that ended; in ticks of 10 ms on most systems."""
    family = set(tree(pid))
    return sum(sum(fields[2:]) for fields in _stats() if fields[0] in family) / _TICKS_PER_S


def _stats() -> Iterator[tuple[int, ...]]:
    """(pid, parent, user, system, user of ended children, system of ended children) of every process, times in ticks."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(FileNotFoundError, ProcessLookupError):  # it ended meanwhile
                fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
                yield int(name), int(fields[1]), *map(int, fields[11:15])
