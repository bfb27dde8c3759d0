"""One small plant for all tests of this folder: a tiny world with two days of reference and four to break."""

import pytest

from infra.clock import DAY_US
from pipelines.plant.plant import Plant


@pytest.fixture(scope="session")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Plant:
    """A plant of size tiny.  Cells do not write to it; clean windows are kept in it."""
    made = Plant.make(tmp_path_factory.mktemp("plant"), "tiny", 5, 5)
    first_us = made.reference[0]
    return Plant(made.home, made.world, made.artefact, made.others, (first_us, first_us + 2 * DAY_US))
