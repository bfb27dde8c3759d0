"""The generated parts of the docs, by name: each a function without arguments that gives Markdown."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from features import catalogue
from infra.settings import Settings
from monitoring.runbooks import markdown as runbooks
from pipelines.answers import ANSWERS, answer
from pipelines.bug_pages import bug_catalogue
from pipelines.faults_page import BLOCKS as FAULTS
from pipelines.figures import load
from pipelines.gauntlet.pages import gauntlet_clean, gauntlet_peers, gauntlet_scores
from pipelines.markdown import interval, table
from pipelines.serving_page import BLOCKS as SERVING
from pipelines.watching_page import BLOCKS as WATCHING


def settings_table() -> str:
    """Every setting: variable, default, meaning."""
    rows = [
        (
            f"`CLICKPROOF_{name.upper()}`",
            f"`{field.default}`" if str(field.default) not in ("", "None") else "",
            field.description,
        )
        for name, field in Settings.model_fields.items()
    ]
    return table(["variable", "default", "meaning"], rows)


def features_table() -> str:
    """Every feature a model may use, with the view that holds it."""
    rows: list[tuple[str, str, str, str]] = []
    for view in catalogue.VIEWS:
        rows += [(f"`{f.name}`", view.name, f.use, f.help) for f in view.features if f.use != "stored"]
    rows += [(f"`{f.name}`", "computed at the request", f.use, f.help) for f in catalogue.DERIVED]
    rows += [(f"`{f.name}`", "part of the request", f.use, f.help) for f in catalogue.CONTEXT]
    return table(["feature", "where", "use", "meaning"], rows)


def train_families() -> str:
    """Each family's figures on the test days of the default size."""
    figure = load("train-world-small-1")
    result = figure.result
    head = ["model", "NE", "clicks / sum of p", "AUC", "AUC per user", "signal captured"]
    rows = [
        [f"**{family}**" if family == result["champion"] else family]
        + [interval(report["ne"], 4)]
        + [interval(report[name]) for name in ("calibration", "auc", "user_auc", "signal_captured")]
        for family, report in [("base rate", result["base"]), *sorted(result["families"].items(), key=_ne)]
    ]
    base = result["base"]
    tail = (
        f"Champion in bold. {base['n']:,} test impressions, {base['clicks']:,} clicks, {base['days']} days; `{figure.command}`."
    )
    return table(head, rows) + "\n\n" + tail


def _ne(family: tuple[str, Any]) -> float:
    return float(family[1]["ne"]["value"])


def train_steps() -> str:
    """Minutes of each step of the main job."""
    result = load("train-world-small-1").result
    rows: list[Sequence[object]] = [(name, f"{seconds:.0f} s") for name, seconds in result["steps"].items() if seconds >= 0.5]
    return table(["step", "time"], [*rows, ("**all**", f"**{result['seconds'] / 60:.1f} min**")])


def open_bandit() -> str:
    """What the main job found in the real click log, and what so many clicks could have shown."""
    figure = load("train-open-bandit")
    result, found = figure.result, figure.result["evidence"]
    counts = [[name, f"{result['rows'][name]:,}", f"{found['clicks'][name]:,}"] for name in result["rows"]]
    families = [
        [
            family, interval(report["ne"]), interval(report["calibration"], 2), interval(report["auc"], 2),
            *_power(found["against_base"].get(family)), _decision(result["decisions"].get(family)),
        ]
        for family, report in [("base rate", result["base"]), *result["families"].items()]
    ]  # fmt: skip
    orders = found["orders"]
    sides = [
        [name, f"{orders['n'][name]:,}", f"{orders['clicks'][name]:,}", f"{orders['rate'][name]:.2%}"]
        for name in ("random", "ranked")
    ]
    head = ["model", "NE", "clicks / promised", "AUC", "NE against the base rate", "smallest difference to be seen", "gates"]
    events = ", ".join(f"{count:,} {stream}" for stream, count in result["rows_in"].items())
    return "\n\n".join(
        [
            f"`{figure.command}`: {events}; {result['seconds']:.0f} s.",
            table(["part", "impressions", "clicks"], counts),
            table(head, families),
            f"Views left out because the log has no such entity: {', '.join(f'`{name}`' for name in result['skipped_views'])}. "
            f"Champion: {result['champion'] or 'none, no model passed the gates'}.",
            table(["shown in order", "impressions", "clicks", "click rate"], sides),
            f"Ranked over random: {interval(_percent(orders['lift']), 0, sign=True)} percent; the smallest lift that would be "
            f"seen 4 times in 5 with so many clicks is {orders['smallest']:.0%}.",
        ]
    )


def _power(found: Mapping[str, float | None] | None) -> list[str]:
    if found is None or found["smallest"] is None:
        return ["", ""]
    return [interval(found, 4, sign=True), f"{found['smallest']:.4f}"]


def _decision(found: Mapping[str, Any] | None) -> str:
    return "" if found is None else "passes" if found["passed"] else "refused"


def _percent(found: Mapping[str, float | None]) -> dict[str, float | None]:
    return {name: None if value is None else 100 * value for name, value in found.items()}


def recorded_answer(name: str) -> str:
    """An answer's command and what it gave when it was last recorded."""
    try:
        figure = load(f"answer-{name}")
    except FileNotFoundError:
        return f"*Not recorded yet: `clickproof answer {name} --record`.*"
    on = figure.result["on"]
    where = on if " " in on else f"`{on}`"  # words, or a home's name
    return f"`{figure.command}` on {where}\n\n{answer(name).markdown(figure.result)}"


def recorded_batching() -> str:
    """What rows cost by batch size, from the run that timed the engines."""
    try:
        figure = load("answer-engines")
    except FileNotFoundError:
        return "*Not recorded yet: `clickproof answer engines --record`.*"
    from pipelines.answers.engines import batching

    return f"`{figure.command}` on `{figure.result['on']}`\n\n{batching(figure.result)}"


def benchmarks() -> str:
    """The four benchmarks' figures beside their goals."""
    world, join, score, serve = (load(f"bench-{name}").result for name in ("world", "join", "score", "serve"))
    per_s = f"{world['impressions_per_cpu_second']:,} impressions a CPU second"
    memory = f"{world['peak_mb_2_days']:.0f} MB"
    rows: list[Sequence[object]] = [
        ("world", "speed", per_s, f"{world['speed_over_goal']} times the goal of 100,000"),
        ("world", "memory of 6 days over 2", f"{world['peak_6_over_2_days']} ({memory})", "flat: 1"),
        ("join", "ours over Polars' join_asof, CPU", join["ours_over_polars"], "at most 2"),
        ("join", "Feast's DuckDB retrieval over ours, CPU", join["feast_over_ours"], "at least 10"),
        ("score", f"{score['family']}, rows a CPU second", f"{score['rows_per_cpu_second']:,}", "at least 100,000"),
        ("score", "CPU over the raw model", score["cpu_over_raw_inference"], ""),
        ("score", "share of the join in a batch job", f"{score['join_share']:.0%}", ""),
    ]
    for n, by_connections in serve["rank"].items():
        for connections, cell in by_connections.items():
            what = f"{n} candidates, {connections} connection{'s' if connections != '1' else ''}"
            speed = f"{cell['rps']:,.0f} requests/s, p50 {cell['p50_ms']:.1f} ms, p99 {cell['p99_ms']:.1f} ms"
            rows.append(("serve", what, speed, f"{cell['cpu_us']:,.0f} us CPU"))
    return table(["bench", "what", "measured", "against"], rows)


BLOCKS: dict[str, Callable[[], str]] = {
    "settings": settings_table,
    "runbooks": runbooks,
    "bug-catalogue": bug_catalogue,
    "features": features_table,
    **{f"answer-{name}": partial(recorded_answer, name) for name in ANSWERS},
    "batching": recorded_batching,
    "open-bandit": open_bandit,
    "benchmarks": benchmarks,
    "train-families": train_families,
    "train-steps": train_steps,
    **SERVING,
    **WATCHING,
    **FAULTS,
    "gauntlet": gauntlet_scores,
    "gauntlet-clean": gauntlet_clean,
    "gauntlet-peers": gauntlet_peers,
}
