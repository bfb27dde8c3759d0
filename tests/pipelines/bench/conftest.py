"""Fixtures of the benchmarks' tests."""

from collections.abc import Iterator

import pytest
from as_a_user import MainJob

from infra import branch
from infra.home import Home
from pipelines.bench import fixed_model
from pipelines.sources.registry import source_of


@pytest.fixture(scope="module")
def work(main_job: MainJob, request: pytest.FixtureRequest) -> Iterator[Home]:
    """A branch of the module's own, whose champion is the fixed model."""
    name = request.module.__name__.rpartition(".")[2].removeprefix("test_").replace("_", "-")
    made = branch.create(Home(main_job.home.root, writable=False), f"bench-{name}")
    fixed_model.promote(made, source_of(main_job.settings).spec, main_job.settings)
    yield made
    branch.drop(made)
