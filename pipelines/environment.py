"""Settings for other people's software, made once before it is imported: no telemetry, no writes outside our home.

Called by the command line at start and by whoever starts a process; the only place that reads or writes the environment
by itself.
"""

import logging
import os
from pathlib import Path

from infra.errors import ExplainedError
from infra.settings import Settings


def prepare(chosen: Settings) -> None:
    """Set the environment variables that Prefect, MLflow, Feast and others read; a user's own choice stands."""
    state: Path = chosen.home.resolve()
    try:
        (state / "prefect").mkdir(parents=True, exist_ok=True)  # Prefect's database cannot make its own parent folders
    except OSError as error:
        raise ExplainedError(f"{state} can't hold our state: {error}; name another folder with --home") from error
    defaults = {
        "DO_NOT_TRACK": "1",
        "PREFECT_HOME": str(state / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_LOGGING_LEVEL": "CRITICAL",  # what fails is raised here too; Prefect would print it a second time
        # The ephemeral server migrates its database the first time: about 20 s on an idle machine, more on a busy one.
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
        "PREFECT_CLI_PROMPT": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_LOGGING_LEVEL": "WARNING",
        "FEAST_USAGE": "False",
        "GRPC_VERBOSITY": "NONE",  # its core writes a line for every bad call: callers could fill our log
        "MPLBACKEND": "Agg",
    }
    if chosen.prefect_url:
        defaults["PREFECT_API_URL"] = chosen.prefect_url.get_secret_value()
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    for noisy in ("alembic", "httpx", "feast"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def show_mlflow(chosen: Settings) -> None:
    """Tell `mlflow ui`, run from this process, what to show: in its environment, since every user can read its arguments."""
    database = f"sqlite:///{chosen.base().mlflow / 'mlflow.db'}"
    os.environ["MLFLOW_BACKEND_STORE_URI"] = chosen.mlflow_url.get_secret_value() or database


def bare() -> dict[str, str]:
    """What a process needs that must know nothing of ours: where programs are, and the language."""
    return {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL") if name in os.environ}
