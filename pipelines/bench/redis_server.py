"""A Redis server of a benchmark's own on a free loopback port, which can be killed and started again with what it held.

Used by `pipelines.bench.outage` and `pipelines.bench.stores`.
"""

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from infra.errors import ExplainedError
from infra.home import Home
from infra.lake import watermark_us
from pipelines.bench.processes import END_S, cpu_seconds, free_port
from pipelines.materialize import materialize_online
from pipelines.sources.contract import SourceSpec

START_S = 20.0
# A branch is served from Redis where the settings name the branch itself: their source is the home's folder.
SERVE = """
import json, sys
from pathlib import Path
from infra.settings import Settings, use
from serving.serve import serve
root = Path(sys.argv[1])
chosen = Settings(home=root.parent, source=root.name, host="127.0.0.1", port=int(sys.argv[2]), **json.loads(sys.argv[3]))
use(chosen)
serve(chosen.base(), chosen)
"""


def have_redis() -> bool:
    """Whether redis-server can be run."""
    return shutil.which("redis-server") is not None


class RedisServer:
    """redis-server; what was written stays in an append-only file."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        files = ["--dir", str(folder), "--save", "", "--appendonly", "yes", "--auto-aof-rewrite-percentage", "0"]
        self._command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", *files]
        self.start()

    @property
    def url(self) -> str:
        """What the setting `online_url` takes."""
        return f"redis://127.0.0.1:{self.port}"

    @property
    def cpu_s(self) -> float:
        """Processor seconds since it was started last."""
        return cpu_seconds(self._process.pid)

    def start(self) -> None:
        """Start it and wait until it answers with what it held.  Raises ExplainedError where it doesn't."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        end = time.perf_counter() + START_S
        while time.perf_counter() < end and self._process.poll() is None:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1) as link:
                link.sendall(b"PING\r\n")
                if link.recv(64).startswith(b"+PONG"):  # -LOADING while it still reads its file
                    return
            time.sleep(0.02)
        raise ExplainedError(f"redis-server did not answer on port {self.port} within {START_S:g} s")

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """SIGTERM, and SIGKILL where that is not enough."""
        self._process.terminate()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self.kill()


@contextmanager
def redis_of(work: Home, source: SourceSpec) -> Iterator[RedisServer]:
    """A server filled with what a home's online store holds by its watermark, on the cores of who asks for it."""
    with tempfile.TemporaryDirectory() as folder:
        running = RedisServer(Path(folder))
        try:
            materialize_online(work, source, watermark_us(work), running.url)
            yield running
        finally:
            running.stop()
