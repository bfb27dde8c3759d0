"""A real Redis server of a test's own, which can be stopped, killed and started again on its port."""

import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import pytest
from patience import PATIENCE_S, until
from ports import free_port


class RealRedis:
    """redis-server on a free port of the loopback interface, without files."""

    def __init__(self, folder: Path, *options: str) -> None:
        server = shutil.which("redis-server")
        if server is None:
            if os.environ.get("CI") == "true":
                pytest.fail("redis-server is not on PATH; CI must install it")
            pytest.skip("redis-server is not on PATH; install it (apt install redis-server) to test the Redis store")
        self.port = free_port()
        self._command = [server, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder), *options]
        self.start()

    @property
    def url(self) -> str:
        """What settings want."""
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, empty, and wait until it answers."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        until(self._answers, lambda: f"redis-server did not start; its exit status: {self._process.poll()}")

    def _answers(self) -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self.port)) == 0

    def hang(self) -> None:
        """It holds its connections and answers nothing."""
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """End of `hang`."""
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """It is gone, with all it held."""
        self._process.kill()
        self._process.wait(PATIENCE_S)
