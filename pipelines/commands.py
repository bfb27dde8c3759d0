"""What the smaller commands do: call one flow or function, print its answer.  Imported when one of them runs."""

from dataclasses import asdict
from typing import Any

from infra.errors import ExplainedError
from infra.settings import Settings
from pipelines import figures
from pipelines.console import finish, minutes, say


def ingest_command(chosen: Settings, as_json: bool) -> None:
    """Bring landed events and logged predictions into the lake."""
    from pipelines.flows.ingest import ingest
    from pipelines.reconciliation import as_text

    counts = ingest(chosen)
    finish({stream: asdict(found) for stream, found in counts.items()}, as_json, as_text(counts))


def materialize_command(chosen: Settings, as_json: bool) -> None:
    """Compute features of new days and feed the online store."""
    from pipelines.flows.materialize import materialize

    written = materialize(chosen)
    finish(dict(written), as_json, "\n".join(f"{view:<20}{rows:>10,} entities online" for view, rows in written.items()))


def score_command(chosen: Settings, day: str | None, as_json: bool) -> None:
    """Score a day in batch."""
    from pipelines.flows.score import score

    counts = score(chosen, day)
    result = {**asdict(counts), "rows_per_s": round(counts.rows_per_s)}
    text = (
        f"{counts.day}: {counts.rows:,} impressions scored into the lake's table batch_scores "
        f"({counts.rows_per_s:,.0f} rows a second once features are joined; the join took {minutes(counts.join_s)})"
    )
    finish(result, as_json, text)


def report_command(chosen: Settings, as_json: bool) -> None:
    """Draw the Evidently report."""
    from monitoring.report import write_report
    from pipelines.promotion import champion_of
    from pipelines.sources.registry import source_of
    from pipelines.training import SERVICE

    spec, home = source_of(chosen).spec, chosen.base()
    model = champion_of(home)
    path = write_report(home, spec.entities, spec.context, SERVICE, model)
    finish({"report": str(path)}, as_json, f"open {path}" + ("" if model else " (without predictions: no champion yet)"))


def monitor_command(chosen: Settings, as_json: bool) -> None:
    """Every check on the latest day."""
    from pipelines.flows.monitor import monitor

    result = monitor(chosen)
    said = [f"[{f['severity']}] {f['bug_class']}: {f['subject']} ({f['check']})" for f in result["findings"]]
    found = [f"{line}, {said.count(line)} times" if said.count(line) > 1 else line for line in dict.fromkeys(said)]
    skipped = [f"skipped {check}: {why}" for check, why in result["skipped"].items()]
    ran = f"{result['day']} after {result['learnt_days']} days: {len(result['checks_run'])} checks ran"
    incidents = [f"INCIDENT {i['number']}: {i['class']} in {i['subject']}" for i in result["incidents"]]
    lines = [ran, *skipped, *(found or ["nothing found"]), *(incidents or ["no incident"]), f"report: {result['report']}"]
    finish(result, as_json, "\n".join(lines))


def inject_command(chosen: Settings, bug: str, intensity: str, clean: bool, as_json: bool) -> int:
    """One drill; 0 when it was caught as expected, or silent where nothing was injected."""
    from pipelines.drill import run

    if not chosen.base().lake.exists():
        raise ExplainedError(
            f"{chosen.base().root} holds nothing to break yet: make train; or name the size that you trained: --size tiny"
        )
    drill = run(chosen.base(), bug, chosen, intensity, clean)
    result = {**drill.as_json(), "class": drill.bug_class}
    did = f"{drill.code} {drill.name}: " + ("the same checks without the bug" if clean else f"injected, {intensity}")
    if clean:
        outcome = "silent, as it should be" if drill.as_expected else f"FALSE ALARM: {drill.bug_class} in {drill.subject}"
    elif drill.as_expected:
        outcome = f"CAUGHT by {', '.join(drill.caught_by)}: {drill.bug_class} in {drill.subject}"
    else:
        outcome = f"MISSED: expected {drill.expected}, found {drill.bug_class} in {drill.subject}"
    lines = [
        did,
        outcome,
        f"checks run: {', '.join(drill.checks_run)}",
        f"base untouched: {'yes' if drill.base_untouched else 'NO'} ({minutes(drill.seconds)})",
    ]
    if drill.found:
        lines += ["what to do:", *(f"  - {hint}" for hint in drill.runbook)]
    finish(result, as_json, "\n".join(lines))
    return 0 if drill.as_expected and drill.base_untouched else 1


def live_command(chosen: Settings, port: int | None, speed: float | None) -> None:
    """The control room, until Ctrl-C."""
    from pipelines.live.run import live

    given = {name: value for name, value in (("live_port", port), ("live_speed", speed)) if value is not None}
    live(Settings(**{**chosen.model_dump(), **given}))


def answer_command(chosen: Settings, name: str, as_json: bool, record: bool) -> None:
    """One question answered, or the list of all."""
    from pipelines.answers import ANSWERS, Drawn, answer, ask

    if name == "all":
        listed = sorted((answer(each).NUMBER, each, answer(each).QUESTION) for each in ANSWERS)
        text = "\n".join(f"{number:>3}  {each:<20}{question}" for number, each, question in listed)
        finish({each: question for _, each, question in listed}, as_json, text)
        return
    asked = answer(name)
    say(f"{asked.NUMBER}. {asked.QUESTION}")
    result = ask(name, chosen)
    if record:
        say(f"kept {figures.record(f'answer-{name}', f'clickproof answer {name}', figures.ROOMS, result).name}")
        if isinstance(asked, Drawn):
            say(f"drew {asked.draw(result, figures.FOLDER).name}")
    finish(result, as_json, asked.markdown(result))


def bench_command(chosen: Settings, what: str, as_json: bool, record: bool) -> None:
    """One benchmark; ratios in one run."""
    if what not in _BENCHES:
        raise ExplainedError(f"no benchmark {what!r}; there are {', '.join(_BENCHES)}")
    say(f"measuring {what}; other work on this machine blurs the figures")
    result = _BENCHES[what](chosen)
    if record:
        say(f"kept {figures.record(f'bench-{what}', f'clickproof bench {what}', figures.ROOMS, result).name}")
        if what == "serve":
            from pipelines.knee_picture import draw

            say(f"drew {draw(result, figures.FOLDER).name}")
    finish(result, as_json, _lines(result))


def _bench_world(chosen: Settings) -> dict[str, Any]:
    from pipelines.bench.world import run

    return run(size=chosen.size, seed=chosen.seed)


def _bench_join(chosen: Settings) -> dict[str, Any]:
    from pipelines.bench.join import run

    return run()


def _bench_score(chosen: Settings) -> dict[str, Any]:
    from pipelines.bench.score import run

    return run(chosen.base())


def _bench_serve(chosen: Settings) -> dict[str, Any]:
    from pipelines.bench.serve import run
    from pipelines.sources.registry import source_of

    return run(chosen.base(), source_of(chosen).spec, chosen)


_BENCHES = {"world": _bench_world, "join": _bench_join, "score": _bench_score, "serve": _bench_serve}


def _lines(result: dict[str, Any], indent: str = "") -> str:
    """Nested figures as indented lines."""
    out = []
    for name, value in result.items():
        if isinstance(value, dict):
            out += [f"{indent}{name}", _lines(value, indent + "  ")]
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            out += [f"{indent}{name}", *(_lines(part, indent + "  ") + "\n" for part in value)]
        else:
            out.append(f"{indent}{name:<36}{value}")
    return "\n".join(out)
