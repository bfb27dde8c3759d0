"""The `clickproof` command: parse, call, print.  Everything heavy is imported inside the command that needs it."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from infra.settings import Settings
from pipelines.options import AsJson, unless_subcommand, with_settings
from pipelines.rollout_cli import rollout_app

app = typer.Typer(
    help="A click-prediction system to run, break and trust.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.command()
@with_settings
def train(
    chosen: Settings,
    as_json: AsJson = False,
    record: Annotated[bool, typer.Option(help="Keep the figures for the docs.")] = False,
) -> None:
    """The main job: events, lake, features, three model families, gates, champion."""
    from pipelines.main_job import run

    run(chosen, as_json=as_json, record=record)


@app.command()
@with_settings
def ingest(chosen: Settings, as_json: AsJson = False) -> None:
    """Bring landed events into the lake: contract, quarantine, exactly once."""
    from pipelines.commands import ingest_command

    ingest_command(chosen, as_json)


@app.command()
@with_settings
def materialize(chosen: Settings, as_json: AsJson = False) -> None:
    """Compute feature snapshots for every ingested day and feed the online store."""
    from pipelines.commands import materialize_command

    materialize_command(chosen, as_json)


@app.command()
@with_settings
def serve(chosen: Settings) -> None:
    """Answer POST /v1/rank as the rollout says: champion, canary, arms of a test."""
    from pipelines.guarded import serve as run

    run(chosen)


app.add_typer(rollout_app, name="rollout")


@app.command()
@with_settings
def score(
    chosen: Settings,
    day: Annotated[str | None, typer.Option(help="Day of arrival, YYYY-MM-DD; the latest by default.")] = None,
    as_json: AsJson = False,
) -> None:
    """Score a day of impressions in batch, through the same scorer as serving."""
    from pipelines.commands import score_command

    score_command(chosen, day, as_json)


@app.command()
@with_settings
def report(chosen: Settings, as_json: AsJson = False) -> None:
    """Write the Evidently report: the reference week against the latest day."""
    from pipelines.commands import report_command

    report_command(chosen, as_json)


monitor_app = typer.Typer(rich_markup_mode=None)
app.add_typer(monitor_app, name="monitor")


@monitor_app.callback(invoke_without_command=True)
@unless_subcommand
@with_settings
def monitor(chosen: Settings, as_json: AsJson = False) -> None:
    """Bring the prediction log into the lake, then run every check on the latest day; or monitor a log from outside."""
    from pipelines.commands import monitor_command

    monitor_command(chosen, as_json)


@monitor_app.command("log")
@partial(with_settings, home=False)
def monitor_log(
    chosen: Settings,
    reference: Annotated[
        list[str], typer.Option(help="Some normal days: a file, a folder, or several (repeat, or use commas).")
    ],
    window: Annotated[list[str], typer.Option(help="The log to judge, a day mostly: a file, a folder, or several.")],
    mapping: Annotated[Path, typer.Option(help="YAML file that says which column is what.")],
    offline: Annotated[list[str] | None, typer.Option(help="The same rows' features, recomputed.")] = None,
    fail_on_incident: Annotated[bool, typer.Option("--fail-on-incident", help="End with status 1 on an incident.")] = False,
    as_json: AsJson = False,
) -> int:
    """Run the detectors on a prediction log that this system did not write (parquet or CSV)."""
    from pipelines.monitor_log import monitor_log_command

    return monitor_log_command(reference, window, offline or [], mapping, as_json, fail_on_incident)


@app.command()
@with_settings
def incidents(
    chosen: Settings,
    what: Annotated[
        str, typer.Argument(help="list, show N, ack N, normal N (learn it from now on) or false-alarm N.")
    ] = "list",
    number: Annotated[int | None, typer.Argument(help="Which incident.")] = None,
    as_json: AsJson = False,
) -> None:
    """What the monitors found in this home, and what people said about it."""
    from pipelines.incidents_command import incidents_command

    incidents_command(chosen, what, number, as_json)


@app.command()
@with_settings
def retrain(
    chosen: Settings, as_json: AsJson = False, force: Annotated[bool, typer.Option(help="Train even without a reason.")] = False
) -> None:
    """Decide whether to retrain (by time, performance, drift), train, gate, promote."""
    from pipelines.retraining import run

    run(chosen, as_json=as_json, force=force)


@app.command()
@with_settings
def inject(
    chosen: Settings,
    bug: Annotated[str, typer.Argument(help="LEAK01 (label-leakage) or DRIFT01 (feature-drift).")],
    intensity: Annotated[str, typer.Option(help="strong, mild or trace.")] = "strong",
    clean: Annotated[bool, typer.Option(help="Run the same checks without the bug.")] = False,
    as_json: AsJson = False,
) -> int:
    """Break it on purpose on a branch, and see whether it is caught (status 0) or missed (status 1)."""
    from pipelines.commands import inject_command

    return inject_command(chosen, bug, intensity, clean, as_json)


@app.command()
@with_settings
def gauntlet(
    chosen: Settings,
    quick: Annotated[bool, typer.Option(help="Two small worlds and a part of the bugs, in 3 minutes.")] = False,
    bugs: Annotated[Path | None, typer.Option(help="Take the bugs from this folder (see docs/bugs.md).")] = None,
    clean: Annotated[int, typer.Option(help="Only watch so many clean days in a row, and count pages and notices.")] = 0,
    repeat: Annotated[int | None, typer.Option(help="Repeat the run of that seed; drawn at run time otherwise.")] = None,
    as_json: AsJson = False,
    record: Annotated[bool, typer.Option(help="Keep the figures for the docs.")] = False,
) -> None:
    """Every bug at every intensity in several worlds made from nothing: what is caught, when, and under which name."""
    from pipelines.gauntlet.command import gauntlet_command

    gauntlet_command(chosen, quick, bugs, clean, repeat, as_json, record)


@app.command()
@with_settings
def experiment(
    chosen: Settings,
    days: Annotated[int | None, typer.Option(help="Days that are read out; 14 by default.")] = None,
    arm_a: Annotated[
        str | None,
        typer.Option(help="What a serves: champion (default), a family, a hash, or legacy; with --log an arm's name."),
    ] = None,
    arm_b: Annotated[str | None, typer.Option(help="What b serves; a cheaper family by default.")] = None,
    log: Annotated[bool, typer.Option("--log", help="Read the lake's prediction log instead of simulating a test.")] = False,
    as_json: AsJson = False,
    record: Annotated[bool, typer.Option(help="Keep the figures for the docs.")] = False,
) -> None:
    """An A/B test: lift in CTR, engagement and return, intervals to look at daily, ratio, power, A/A rate, and the truth."""
    from pipelines.experiment.command import experiment_command

    experiment_command(chosen, days, arm_a, arm_b, log, as_json, record)


@app.command()
@with_settings
def live(
    chosen: Settings,
    port: Annotated[int | None, typer.Option(help="Port of the page; 8080 by default, 0 for a free one.")] = None,
    speed: Annotated[float | None, typer.Option(help="Simulated seconds in a second at the start.")] = None,
) -> None:
    """The control room: the running system on a branch, and a page on which to break it and watch it say what broke."""
    from pipelines.commands import live_command

    live_command(chosen, port, speed)


@app.command()
@with_settings
def bench(
    chosen: Settings,
    what: Annotated[str, typer.Argument(help="world, join, score or serve.")],
    as_json: AsJson = False,
    record: Annotated[bool, typer.Option(help="Keep the figures for the docs.")] = False,
) -> None:
    """Measure one part against a named peer or limit, as ratios in one run."""
    from pipelines.commands import bench_command

    bench_command(chosen, what, as_json, record)


@app.command()
@with_settings
def load(
    chosen: Settings,
    rate: Annotated[float, typer.Option(help="Requests a second, due at random moments.")] = 200.0,
    seconds: Annotated[float, typer.Option(help="How long, 600 at most.")] = 10.0,
    connections: Annotated[int, typer.Option(help="Most connections at a time.")] = 64,
    candidates: Annotated[int, typer.Option(help="Ads to rank in each request.")] = 20,
    url: Annotated[str | None, typer.Option(help="Endpoint on this machine; by default where `clickproof serve` is.")] = None,
    as_json: AsJson = False,
) -> None:
    """Load test of a running endpoint on this machine: a line a second, then what came of all requests."""
    from pipelines.load import load_command

    load_command(chosen, url, rate, seconds, connections, candidates, as_json)


@app.command()
@with_settings
def answer(
    chosen: Settings,
    name: Annotated[str, typer.Argument(help="Which question, for example why-ne, leak or families; `all` lists them.")],
    as_json: AsJson = False,
    record: Annotated[bool, typer.Option(help="Keep the figures, and the picture, for the docs.")] = False,
) -> None:
    """Answer one question of docs/walkthrough.md by measuring it on what `train` left."""
    from pipelines.commands import answer_command

    answer_command(chosen, name, as_json, record)


@app.command()
@with_settings
def docs(
    chosen: Settings, check: Annotated[bool, typer.Option(help="Only say whether the pages are up to date.")] = False
) -> int:
    """Write the generated parts of README.md and docs/ again."""
    from pipelines.pages import render_all

    return render_all(check=check)


@app.command()
@with_settings
def ui(
    chosen: Settings,
    what: Annotated[str, typer.Argument(help="mlflow, prefect or evidently.")],
    port: Annotated[int | None, typer.Option(help="Port; the tool's usual one by default.")] = None,
) -> None:
    """Serve one of the tools' own pages on this home, on loopback."""
    from pipelines.ui import ui_command

    ui_command(chosen, what, port)
