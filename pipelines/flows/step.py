"""A step of a flow: a Prefect task that also prints its minutes.  Used by every flow."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from prefect import State, Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import TaskRun

from infra.errors import ExplainedError
from pipelines.console import Steps

P = ParamSpec("P")
R = TypeVar("R")

STEPS = Steps()  # of this process, for the table at the end of a command


def _may_pass_later(_: Task[..., Any], __: TaskRun, state: State[Any]) -> bool:
    """What is explained to the user will not mend itself in two seconds."""
    return not isinstance(state.result(raise_on_failure=False), ExplainedError)


def step(name: str, retries: int = 0) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A task of that name, run `retries` more times when it fails, two seconds apart.

    Results are not cached: every step is itself idempotent, and hashing large tables to find that out would cost more."""

    def make(work: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(work)
        def timed(*args: P.args, **kwargs: P.kwargs) -> R:
            with STEPS.step(name):
                return work(*args, **kwargs)

        again = task(
            name=name, retries=retries, retry_delay_seconds=2, retry_condition_fn=_may_pass_later, cache_policy=NO_CACHE
        )
        return again(timed)

    return make
