"""Is the A/B test trustworthy: two tests in the market, the truth beside them, and how often such a test cries wolf.

The first is won by a mile (the ranker before any model against the champion), the second is what most tests are (the champion
against a cheaper family).
"""

from pathlib import Path
from typing import Any

import numpy as np

from infra.settings import Settings
from models.plots import BLUE, GREEN, INK, ORANGE, save
from pipelines.answers.show import panels
from pipelines.answers.workplace import times
from pipelines.console import say
from pipelines.experiment import pages
from pipelines.experiment.arms import LEGACY, challenger
from pipelines.experiment.market import Market
from pipelines.experiment.run import DAYS, simulated

QUESTION = "Is the A/B test trustworthy?"
NUMBER = 23

LABELS = ("95% to look at daily", "95% to look at once", "measured", "true")


def run(chosen: Settings) -> dict[str, Any]:
    """Both tests' read-outs."""
    home = chosen.base()
    market = Market(home, chosen, 1 + times(chosen, DAYS - 1))
    tests = []
    for names in ((LEGACY, "champion"), ("champion", challenger(home))):
        say(f"{names[0]} against {names[1]}")
        tests.append(simulated(home, chosen, market, names))
    return {"tests": tests}


def markdown(result: dict[str, Any]) -> str:
    """Both tests, the first of them day by day; then what holds for every test of these users."""
    parts = []
    for number, test in enumerate(result["tests"]):
        parts.append(f"**{_title(test)}.** {pages.what(test)} {pages.ratio(test)}")
        parts += [] if number else [pages.by_day(test)]
        parts.append(pages.verdicts(test))
    last = result["tests"][-1]
    return "\n\n".join([*parts, pages.false(last), pages.planning(last), "![lift by evening, and A/A](figures/ab-test.png)"])


def _title(test: dict[str, Any]) -> str:
    return f"{test['arms']['a']['name']} against {test['arms']['b']['name']}"


def draw(result: dict[str, Any], folder: Path) -> Path:
    """The lift in CTR by evening with both intervals and the truth, of both tests; winners called where there is none."""
    tests = result["tests"]
    titles = [f"{_title(test)}: lift in CTR, %" for test in tests]
    figure, (*lifts, calls) = panels(*titles, "A/A tests in which a winner was called, %", x="evening", y="")
    for axes, test in zip(lifts, tests, strict=True):
        found = test["metrics"]["ctr"]
        unread = [width is None for width in found["width"]]
        lines = {name: 100 * np.array(found[name], np.float64) for name in ("lift", "low", "high", "once_low", "once_high")}
        for line in lines.values():
            line[unread] = np.nan
        day = np.arange(1, len(unread) + 1)
        daily, once, measured, true = LABELS if test is tests[-1] else [None] * len(LABELS)  # one legend for both
        axes.axhline(0, color=INK, linewidth=1)
        axes.fill_between(day, lines["low"], lines["high"], color=BLUE, alpha=0.18, linewidth=0, label=daily)
        axes.plot(day, lines["once_low"], ":", color=BLUE, linewidth=1.2, label=once)
        axes.plot(day, lines["once_high"], ":", color=BLUE, linewidth=1.2)
        axes.plot(day, lines["lift"], "o-", color=BLUE, linewidth=1.5, markersize=4, label=measured)
        axes.plot(day, 100 * np.array(found["truth"]), "--", color=ORANGE, linewidth=1.8, label=true)
    found = tests[-1]["false"]["metrics"]["ctr"]
    day = np.arange(1, len(found["daily"]) + 1)
    calls.plot(
        day, 100 * np.array(found["daily"]), "o-", color=ORANGE, linewidth=1.5, markersize=4, label="p < 0.05, every day"
    )
    calls.plot(day, 100 * np.array(found["sequential"]), "o-", color=GREEN, linewidth=1.5, markersize=4, label="sequential")
    calls.axhline(5, color=INK, linewidth=1, linestyle="--", label="promised")
    calls.set_ylim(bottom=-0.5)
    return save(figure, folder / "ab-test.png")
