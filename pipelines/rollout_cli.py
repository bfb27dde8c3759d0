"""The words of `clickproof rollout ...`; what they do is in `pipelines.rollout_command`."""

from typing import Annotated

import typer

from infra.settings import Settings
from pipelines.options import AsJson, with_settings

rollout_app = typer.Typer(
    help="Who answers requests: champion, shadows, canary, A/B test; changes go into an audit log.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Why = Annotated[str, typer.Option(help="The reason, for the audit log.")]
Who = Annotated[str | None, typer.Option(help="Who decides; the system's user by default.")]
Hash = Annotated[str, typer.Argument(help="The artefact's hash, or enough of its beginning.")]
MaybeHash = Annotated[str | None, typer.Argument(help="The artefact's hash, or enough of its beginning.")]
End = Annotated[bool, typer.Option("--end", help="End it.")]


@rollout_app.command()
@with_settings
def show(chosen: Settings, as_json: AsJson = False) -> int:
    """What there is; ends with status 1 where the registry's alias and the document name two champions."""
    from pipelines.rollout_command import show as run

    return run(chosen, as_json)


@rollout_app.command()
@with_settings
def history(chosen: Settings, as_json: AsJson = False) -> None:
    """Every change: who, when, from, to, why."""
    from pipelines.rollout_command import show_history

    show_history(chosen, as_json)


@rollout_app.command()
@with_settings
def shadow(chosen: Settings, artefact: Hash, why: Why, who: Who = None, as_json: AsJson = False) -> None:
    """Let a model score every request and answer none."""
    from pipelines.rollout_command import shadow as run

    run(chosen, artefact, who, why, as_json)


@rollout_app.command()
@with_settings
def unshadow(chosen: Settings, artefact: Hash, why: Why, who: Who = None, as_json: AsJson = False) -> None:
    """Stop scoring with a shadow."""
    from pipelines.rollout_command import unshadow as run

    run(chosen, artefact, who, why, as_json)


@rollout_app.command()
@with_settings
def compare(chosen: Settings, artefact: Hash, as_json: AsJson = False) -> None:
    """A shadow's scores beside those of whoever answered, from the lake."""
    from pipelines.rollout_command import compare as run

    run(chosen, artefact, as_json)


@rollout_app.command()
@with_settings
def canary(
    chosen: Settings,
    why: Why,
    artefact: MaybeHash = None,
    share: Annotated[float, typer.Option(help="Share of the users, 0.5 at most; raising it keeps those who are in.")] = 0.05,
    end: End = False,
    who: Who = None,
    as_json: AsJson = False,
) -> None:
    """Let a model answer a share of the users, guarded; or change the share; or end it."""
    from pipelines.rollout_command import canary as run

    run(chosen, artefact, share, end, who, why, as_json)


@rollout_app.command()
@with_settings
def experiment(
    chosen: Settings,
    why: Why,
    name: Annotated[str | None, typer.Argument(help="The experiment's name: a new one deals the users anew.")] = None,
    arm: Annotated[
        list[str] | None, typer.Option(help="NAME=WEIGHT for the champion or NAME=WEIGHT:HASH; give two or more.")
    ] = None,
    end: End = False,
    who: Who = None,
    as_json: AsJson = False,
) -> None:
    """Start an A/B test, or end it."""
    from pipelines.rollout_command import experiment as run

    run(chosen, name, arm or [], end, who, why, as_json)


@rollout_app.command()
@with_settings
def promote(chosen: Settings, why: Why, artefact: MaybeHash = None, who: Who = None, as_json: AsJson = False) -> None:
    """Make the canary champion, or the model named."""
    from pipelines.rollout_command import promote as run

    run(chosen, artefact, who, why, as_json)


@rollout_app.command()
@with_settings
def rollback(chosen: Settings, why: Why, who: Who = None, as_json: AsJson = False) -> None:
    """Back to the champion before, alone: canary and A/B test end too."""
    from pipelines.rollout_command import rollback as run

    run(chosen, who, why, as_json)


@rollout_app.command()
@with_settings
def realign(chosen: Settings, as_json: AsJson = False) -> None:
    """Let the registry's alias `champion` name the document's champion again."""
    from pipelines.rollout_command import realign as run

    run(chosen, as_json)
