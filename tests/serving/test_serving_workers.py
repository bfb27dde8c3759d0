"""Several workers: one port, a dead one is started again, one stop for all, and counters that add up."""

import multiprocessing as mp
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import c_byte
from pathlib import Path

import httpx
from patience import PATIENCE_S, until
from ports import free_port

from infra.home import Home
from serving.counts import Counts
from serving.metrics_share import SharedMetrics, forget
from serving.workers import DOWN, READY, Place

PROGRAM = """
import os, signal, sys, time
from functools import partial
from pathlib import Path
from http.server import BaseHTTPRequestHandler, HTTPServer
from serving.workers import listening, supervise

class Who(BaseHTTPRequestHandler):
    def do_GET(self):
        body = str(os.getpid()).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass

def work(folder, port, place):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    server = HTTPServer(("127.0.0.1", port), Who, bind_and_activate=False)
    server.socket = listening("127.0.0.1", port)
    server.server_activate()
    try:
        server.serve_forever()
    finally:
        (Path(folder) / f"stopped-{os.getpid()}").touch()

if __name__ == "__main__":
    supervise(2, partial(work, sys.argv[1], int(sys.argv[2])))
"""


def who_answers(port: int, of: int) -> set[int]:
    """Pids that answered, once `of` different ones did."""
    found: set[int] = set()
    for _ in range(2000):
        try:
            found.add(int(httpx.get(f"http://127.0.0.1:{port}/", timeout=PATIENCE_S).text))
        except httpx.TransportError:
            time.sleep(0.02)  # not up yet, or it died with the request
        if len(found) >= of:
            return found
    raise AssertionError(f"only {found} answered")


@contextmanager
def supervised(folder: Path, port: int) -> "Iterator[subprocess.Popen[bytes]]":
    """Two workers and their parent; whatever is left of them is ended afterwards."""
    script = folder / "supervised.py"
    script.write_text(PROGRAM)
    paths = os.pathsep.join([os.getcwd(), *sys.path])
    command = [sys.executable, str(script), str(folder), str(port)]
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": paths}, stderr=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)


def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    port = free_port()
    with supervised(tmp_path, port) as process:
        workers = who_answers(port, 2)
        process.kill()
        process.wait()
        wanted = {f"stopped-{pid}" for pid in workers}
        until(lambda: {path.name for path in tmp_path.glob("stopped-*")} == wanted)
    until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in workers))


def test_a_worker_that_dies_is_started_again_and_all_stop_together(tmp_path: Path) -> None:
    port = free_port()
    with supervised(tmp_path, port) as process:
        first = who_answers(port, 2)
        victim = min(first)
        os.kill(victim, signal.SIGKILL)
        while victim in (now := who_answers(port, 2)) or now == first:
            time.sleep(0.05)
        assert len(now & first) == 1
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=PATIENCE_S)[1].decode()
    assert process.returncode == 0, said
    assert {path.name for path in tmp_path.glob("stopped-*")} == {f"stopped-{pid}" for pid in now}


def test_only_the_first_worker_is_heard_while_it_loads_and_the_others_when_all_that_listen_can_answer() -> None:
    states = mp.get_context("spawn").RawArray(c_byte, 2)
    first, second = Place(0, states), Place(1, states)
    assert second.held(ready=False)
    assert not first.held(ready=False)
    assert second.held(ready=True), "the first one listens and can't answer yet"
    first.ready()
    assert not second.held(ready=True)
    states[0] = DOWN
    assert first.held(ready=False), "started again, it would tell those to wait whom the second could serve"
    assert not first.held(ready=True)


def test_where_no_worker_can_answer_any_more_the_first_one_says_why() -> None:
    states = mp.get_context("spawn").RawArray(c_byte, 2)
    first, second = Place(0, states), Place(1, states)
    states[:] = [DOWN, READY]
    assert first.held(ready=False)
    states[1] = DOWN  # it died, and the model is gone
    assert not first.held(ready=False)
    assert second.held(ready=False)


def test_workers_counts_add_up_and_survive_a_restart(tmp_path: Path) -> None:
    home = Home(tmp_path)
    one, two = (SharedMetrics(home, number, 2) for number in range(2))
    for shared, times in ((one, 3), (two, 5)):
        for _ in range(times):
            shared.metrics.ended("rank", 200)
        shared.metrics.counts.rank.add(1_500_000)
    two.close()
    wanted = 'clickproof_requests_total{route="rank",status="200"} 8.0'
    assert wanted in one.metrics.text().decode().splitlines()
    again = SharedMetrics(home, 1, 2)
    one.close()
    again.metrics.ended("rank", 503)
    lines = again.metrics.text().decode().splitlines()
    assert wanted in lines
    assert 'clickproof_requests_total{route="rank",status="503"} 1.0' in lines
    assert "clickproof_rank_seconds_count 2.0" in lines
    assert "clickproof_rank_seconds_sum 0.003" in lines
    again.close()
    forget(home)
    fresh = SharedMetrics(home, 0, 2)
    assert fresh.metrics.counts == Counts()
    fresh.close()
