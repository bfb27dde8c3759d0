"""Fixtures of the pipelines room."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
from as_a_user import MainJob

from pipelines.answers import ask


@pytest.fixture(scope="session")
def asked(main_job: MainJob) -> Callable[[str], dict[str, Any]]:
    """The result of an answer on the tiny home, measured once a session."""
    return functools.cache(lambda name: ask(name, main_job.settings))
