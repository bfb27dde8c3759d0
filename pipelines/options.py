"""The options that every command shares: which home, source and size, and whether the answer is JSON."""

import functools
import inspect
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from infra.errors import ExplainedError
from infra.redaction import STARS, guard, redacted
from infra.settings import Settings, secret_names, use
from pipelines.interrupt import end_at_once

_SHARED: dict[str, Any] = {
    "size": Annotated[str | None, typer.Option(help="Size of the simulated market: tiny, small or large.")],
    "seed": Annotated[int | None, typer.Option(help="Seed of the market and of training.")],
    "source": Annotated[str | None, typer.Option(help="Where events come from: world or open-bandit.")],
    "data": Annotated[Path | None, typer.Option(help="Folder with the source's files.")],
    "home": Annotated[Path | None, typer.Option(help="Folder that holds all state.")],
}


def with_settings(command: Callable[..., int | None], home: bool = True) -> Callable[..., None]:
    """A command whose first parameter `chosen` is the Settings, made of the environment and the shared options.

    An ExplainedError is printed without a traceback and ends the command with status 2; a number that the command returns
    is its exit status.  Without `home` nothing is written there: for commands that need no state.
    """

    @functools.wraps(command)
    def run(**arguments: Any) -> None:
        given = {name: arguments.pop(name) for name in _SHARED}
        end_at_once()
        guard()
        try:
            try:
                chosen = Settings(**{name: value for name, value in given.items() if value is not None})
            except ValidationError as error:
                raise ExplainedError(_wrong_settings(error)) from None
            from pipelines.environment import prepare

            use(chosen)
            if home:
                prepare(chosen)
            status = command(chosen, **arguments)
        except ExplainedError as error:
            print(f"clickproof: {redacted(str(error))}", file=sys.stderr)
            raise typer.Exit(2) from None
        raise typer.Exit(status or 0)

    own = [p for p in inspect.signature(command).parameters.values() if p.name != "chosen"]
    shared = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind) for name, kind in _SHARED.items()
    ]
    _takes(run, [*own, *shared])
    return run


def unless_subcommand(command: Callable[..., None]) -> Callable[..., None]:
    """A command that is a group too: it runs only where no command of the group was asked for."""

    @functools.wraps(command)
    def run(context: typer.Context, **arguments: Any) -> None:
        if context.invoked_subcommand is None:
            command(**arguments)

    first = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    _takes(run, [first, *inspect.signature(command).parameters.values()])
    return run


def _takes(run: Any, parameters: Sequence[inspect.Parameter]) -> None:
    """Show Typer these parameters in the place of those that `run` was written with."""
    run.__signature__ = inspect.Signature(parameters)
    run.__annotations__ = {p.name: p.annotation for p in parameters}


def _wrong_settings(error: ValidationError) -> str:
    """Which setting, what it is (stars for a secret), what it should be."""
    hidden = {(name,) for name in secret_names()}
    found = [
        f"{'.'.join(map(str, e['loc']))} is {STARS if e['loc'] in hidden else repr(e['input'])}: {e['msg']}"
        for e in error.errors()
    ]
    return f"wrong setting (an option, or CLICKPROOF_ in capitals as a variable): {'; '.join(found)}"


AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document as the last line.")]
