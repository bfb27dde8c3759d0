"""Processes of a benchmark: timed with all their children, and gone afterwards."""

import subprocess
import sys
from pathlib import Path

import pytest

from infra.errors import ExplainedError
from pipelines.bench.processes import cpu_seconds, server, tree

BURN = "import time\nwhile time.process_time() < {s}: pass\n"
FAMILY = f"""
import subprocess, sys
burn = {BURN!r}.format(s=0.3)
ended = subprocess.run([sys.executable, "-c", burn])
alive = subprocess.Popen([sys.executable, "-c", burn + "print('burnt', flush=True)\\ninput()"], stdin=subprocess.PIPE)
print(alive.pid, flush=True)
input()
alive.communicate(b"\\n")
"""
SLOW_TO_GO = """
import http.server, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *_): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[2])), Ready).serve_forever()
"""


def test_processor_time_is_that_of_the_whole_family_also_of_those_who_ended() -> None:
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", FAMILY], stdin=pipe, stdout=pipe, text=True)
    try:
        assert process.stdout is not None
        said = {process.stdout.readline().strip(), process.stdout.readline().strip()}
        assert "burnt" in said  # both children have used their 0.3 s: one has ended, one lives
        child = int((said - {"burnt"}).pop())
        assert tree(process.pid) == [process.pid, child]
        assert cpu_seconds(process.pid) >= 0.58  # ticks are 10 ms
        assert 0.28 <= cpu_seconds(child) < 0.58
    finally:
        process.communicate("\n")


def test_a_server_ends_with_everything_that_it_started(tmp_path: Path) -> None:
    with server(SLOW_TO_GO, tmp_path) as running:
        family = tree(running.pid)
        assert len(family) == 2
    assert not [pid for pid in family if Path(f"/proc/{pid}").exists()]


def test_a_server_that_cannot_start_is_an_error_with_its_words(tmp_path: Path) -> None:
    with pytest.raises(ExplainedError, match="no such model"), server("raise SystemExit('no such model')", tmp_path):
        pass
