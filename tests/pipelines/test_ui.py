"""The tools' own pages start as users start them, answer on loopback, and end with their process."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from patience import PATIENCE_S
from ports import free_port

from infra.errors import ExplainedError
from infra.settings import Settings
from pipelines.ui import arguments

Open = Callable[[str], str]  # (tool) -> URL of its page


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Open]:
    """Starts pages of the home in `tmp_path`, each in a process group of its own; ends them all."""
    started: list[subprocess.Popen[bytes]] = []

    def start(tool: str) -> str:
        port = free_port()
        command = [Path(sys.executable).with_name("clickproof"), "ui", tool, "--home", tmp_path, "--port", port]
        told = {**os.environ, "CLICKPROOF_MLFLOW_URL": f"sqlite:///{tmp_path}/mlflow.db"}
        with (tmp_path / f"{tool}.log").open("wb") as log:
            started.append(subprocess.Popen(list(map(str, command)), stdout=log, stderr=log, env=told, start_new_session=True))
        return f"http://127.0.0.1:{port}"

    yield start
    for process in started:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def get(url: str, log: Path) -> bytes:
    """The page once it is there; fails the test with the server's words where it never is."""
    end = time.monotonic() + PATIENCE_S  # Prefect and MLflow migrate a new database first
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                assert answer.status == 200
                return answer.read()
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.3)
    raise AssertionError(f"{url} did not answer in {PATIENCE_S:g} s:\n{log.read_text()[-3000:]}")


@pytest.mark.parametrize("tool", ["mlflow", "prefect"])
def test_the_page_of_a_tool_answers_on_loopback(serving: Open, tmp_path: Path, tool: str) -> None:
    assert b"<html" in get(serving(tool), tmp_path / f"{tool}.log").lower()


@pytest.mark.filterwarnings("ignore:numpy.core is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::litestar.exceptions.LitestarWarning")
@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning:litestar.*")
def test_the_evidently_page_shows_the_reports_of_the_home(serving: Open, tmp_path: Path) -> None:
    from evidently import Report
    from evidently.metrics import RowCount
    from pandas import DataFrame

    from monitoring.report import keep

    reports = Settings(home=tmp_path).base().reports
    for day in ("2026-01-05", "2026-01-06", "2026-01-06"):
        keep(Report([RowCount()]).run(DataFrame({"p": [0.1, 0.2]}), None, name=day), reports / "evidently", day)
    url, log = serving("evidently"), tmp_path / "evidently.log"
    assert b"<html" in get(url, log).lower()
    (project,) = json.loads(get(f"{url}/api/projects", log))
    assert project["name"] == "clickproof"
    kept = json.loads(get(f"{url}/api/projects/{project['id']}/reports", log))
    assert sorted(report["name"] for report in kept) == ["2026-01-05", "2026-01-06"]  # a day's report is replaced


def test_a_page_without_anything_to_show_says_what_to_run(tmp_path: Path) -> None:
    chosen = Settings(home=tmp_path)
    for tool, says in (("mlflow", "clickproof train"), ("evidently", "clickproof report"), ("grafana", "there are mlflow")):
        with pytest.raises(ExplainedError, match=says):
            arguments(chosen, tool)
