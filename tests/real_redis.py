"""A real Redis server of a test's own, which can be stopped, killed and started again on its port."""

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest


class RealRedis:
    """redis-server on a free port of the loopback interface, without files."""

    def __init__(self, folder: Path, *options: str) -> None:
        server = shutil.which("redis-server")
        if server is None:
            if os.environ.get("CI") == "true":
                pytest.fail("redis-server is not on PATH; CI must install it")
            pytest.skip("redis-server is not on PATH; install it (apt install redis-server) to test the Redis store")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._command = [server, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder), *options]
        self.start()

    @property
    def url(self) -> str:
        """What settings want."""
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, empty, and wait until it answers."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        for _ in range(200):
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise AssertionError("redis-server did not start")

    def hang(self) -> None:
        """It holds its connections and answers nothing."""
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """End of `hang`."""
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """It is gone, with all it held."""
        self._process.kill()
        self._process.wait(10)
