"""What `clickproof gauntlet` does: run, print, record."""

from pathlib import Path
from typing import Any

from infra.settings import Settings
from pipelines import figures
from pipelines.console import finish, say
from pipelines.gauntlet.pages import gauntlet_page, quiet_page


def gauntlet_command(
    chosen: Settings, quick: bool, bugs: Path | None, clean: int, repeat: int | None, as_json: bool, record: bool
) -> None:
    """The scoreboard, or with `clean` the pages and notices of so many clean days in a row."""
    if clean:
        from pipelines.gauntlet.quiet import watch

        result = watch(chosen, clean, repeat)
        _keep("gauntlet-clean", f"clickproof gauntlet --clean {clean}", result, record)
        finish(result, as_json, quiet_page(result))
        return
    from pipelines.gauntlet.run import run

    result = run(chosen, quick, bugs, repeat)
    _keep("gauntlet", "clickproof gauntlet", {k: v for k, v in result.items() if k != "outcomes"}, record)
    finish(result, as_json, gauntlet_page(result))


def _keep(name: str, command: str, result: dict[str, Any], record: bool) -> None:
    if record:
        say(f"kept {figures.record(name, command, figures.ROOMS, result).name}")
