"""Fixtures of serving tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from small_world import NOW_US, DictSource, TinyArtefact

from infra.clock import FixedClock
from infra.home import Home
from serving.assignment import Assignment
from serving.policy import EpsilonPolicy
from serving.prediction_log import PredictionLog
from serving.scorer import Scorer


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


@pytest.fixture
def scorer(home: Home) -> Iterator[Scorer]:
    log = PredictionLog(home)
    arms = Assignment("salt", ("a", "b"), (1.0, 1.0))
    yield Scorer(DictSource(), TinyArtefact(), EpsilonPolicy(0.3), arms, log, FixedClock(NOW_US))
    log.close()
