"""`clickproof ui`: the tools' own pages (MLflow, Prefect, Evidently) on one home's data, on loopback only."""

import os
import sys

from infra.errors import ExplainedError
from infra.settings import Settings
from pipelines.environment import show_mlflow

PORTS = {"mlflow": 5000, "prefect": 4200, "evidently": 8001}


def arguments(chosen: Settings, what: str, port: int | None = None) -> list[str]:
    """What to give to Python to serve a tool's page; ExplainedError names the pages there are, or what to run first."""
    if what not in PORTS:
        raise ExplainedError(f"no page {what!r}; there are {', '.join(PORTS)}")
    home, at = chosen.base(), ["--host", "127.0.0.1", "--port", str(port or PORTS[what])]
    if what == "prefect":
        return ["-m", "prefect", "server", "start", *at]
    if what == "mlflow":
        database = home.mlflow / "mlflow.db"
        if not chosen.mlflow_url and not database.exists():
            raise ExplainedError(f"{database} is not there yet; `clickproof train` records its runs in it")
        return ["-m", "mlflow", "ui", "--workers", "1", *at]
    workspace = home.reports / "evidently"
    if not workspace.exists():
        raise ExplainedError(f"{workspace} is not there yet; `clickproof report` adds the first report to it")
    return ["-m", "evidently.cli", "ui", *at, "--workspace", str(workspace)]


def ui_command(chosen: Settings, what: str, port: int | None) -> None:
    """Become the server of one of the pages; ends with Ctrl-C."""
    command = [sys.executable, *arguments(chosen, what, port)]
    show_mlflow(chosen)
    os.execv(sys.executable, command)
