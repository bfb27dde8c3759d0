"""Fixtures of the pipelines room."""

import functools
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from as_a_user import MainJob
from once import once

from pipelines.answers import ask


@pytest.fixture(scope="session")
def asked(main_job: MainJob, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], dict[str, Any]]]:
    """The result of an answer on the tiny home, measured once a session."""

    def measured(name: str) -> dict[str, Any]:
        def keep(folder: Path) -> None:
            (folder / "result").write_bytes(pickle.dumps(ask(name, main_job.settings)))

        return pickle.loads((once(tmp_path_factory, f"answer-{name}", keep) / "result").read_bytes())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipelines.answers.families.REPEATS", 100)  # timings, whose p99 is only to be there
        yield functools.cache(measured)
