"""Fixtures of the pipelines room."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from as_a_user import MainJob

from pipelines.answers import ask


@pytest.fixture(scope="session")
def asked(main_job: MainJob) -> Iterator[Callable[[str], dict[str, Any]]]:
    """The result of an answer on the tiny home, measured once a session."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipelines.answers.families.REPEATS", 100)  # timings, whose p99 is only to be there
        yield functools.cache(lambda name: ask(name, main_job.settings))
