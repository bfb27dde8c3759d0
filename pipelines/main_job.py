"""The main job, as `make train` runs it: ingest, materialize, train; prints minutes and figures."""

import time
from typing import Any

from infra.settings import Settings
from pipelines import figures
from pipelines.console import finish, minutes, say
from pipelines.evidence import as_lines
from pipelines.sources.registry import source_of

SHOWN = ("ne", "log_loss", "calibration", "ece", "auc", "user_auc", "signal_captured")


def run(chosen: Settings, *, as_json: bool, record: bool) -> dict[str, Any]:
    """Raw clicks to champion."""
    started = time.perf_counter()
    source_of(chosen)  # a wrong size or folder is said at once
    say("starting Prefect (its first start migrates its database: 10 to 20 seconds)")
    from pipelines.flows.ingest import ingest
    from pipelines.flows.materialize import materialize
    from pipelines.flows.step import STEPS
    from pipelines.flows.train import train

    counts = ingest(chosen)
    materialize(chosen)
    trained = train(chosen)
    spent = time.perf_counter() - started
    STEPS.seconds["imports and Prefect"] = spent - sum(STEPS.seconds.values())
    say(STEPS.summary())
    result: dict[str, Any] = {
        **trained,
        "seconds": round(spent, 1),
        "steps": {name: round(s, 1) for name, s in STEPS.seconds.items()},
        "rows_in": {stream: found.rows_in for stream, found in counts.items()},
    }
    if record:
        rooms = ("infra", "features", "models", "pipelines")
        asked = (
            "" if chosen.source == "world" else f" --source {chosen.source} --data {chosen.data.name if chosen.data else ''}"
        )
        say(f"kept {figures.record(f'train-{chosen.base().root.name}', f'clickproof train{asked}', rooms, result).name}")
    finish(result, as_json, as_text(result))
    return result


def as_text(result: dict[str, Any]) -> str:
    """Each family's figures with their intervals, and the champion."""
    lines = []
    for family, report in [(result["compared_with"], result["base"]), *result["families"].items()]:
        lines.append(f"{family}: {report['n']:,} test impressions, {report['clicks']:,} clicks, {report['days']} days")
        lines += [f"  {name:<16}{interval(report[name])}" for name in SHOWN if report[name]["value"] is not None]
    lines += as_lines(result["evidence"], result["compared_with"])
    if result["skipped_views"]:
        lines.append(f"left out, because this source has no such entity: {', '.join(result['skipped_views'])}")
    lines.append(f"champion: {result['champion'] or 'none; no candidate passed the gates'} ({minutes(result['seconds'])})")
    return "\n".join(lines)


def interval(found: dict[str, float | None]) -> str:
    """A value with its interval, for example 0.9280 [0.9234, 0.9326]."""
    if found["value"] is None:
        return "not known"
    bounds = "" if found["low"] is None else f" [{found['low']:.4f}, {found['high']:.4f}]"
    return f"{found['value']:.4f}{bounds}"
