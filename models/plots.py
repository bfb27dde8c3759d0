"""Pictures of an evaluation as PNG files: reliability, NE by day, importance.

Called by the training flow; the files go to MLflow and to the reports folder.  Backgrounds are transparent and every colour
has a contrast of at least 3 to 1 to white and to near-black, so that they read in light and dark pages alike.
"""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from infra.clock import day_name
from models.contract import Array, Dataset
from models.evaluate import day_groups, rate_interval, user_groups
from models.metrics import entropy, log_losses

INK, BLUE, ORANGE, GREEN, VIOLET = "#7a828c", "#2f81d7", "#cc6a1c", "#2a9d62", "#a371c9"
COLOURS = (BLUE, ORANGE, GREEN, VIOLET, INK)


def reliability(path: Path, p: Array, data: Dataset, *, bins: int = 12, title: str = "Reliability") -> Path:
    """Click rate against mean p in `bins` groups of equally many rows, with 95% intervals that include day-to-day variance."""
    figure, axes = _axes(title, "predicted click probability", "click rate")
    days, users = day_groups(data.time_us), user_groups(data)
    label, p = data.label.astype(np.float64), np.asarray(p, np.float64)
    rank = np.empty(len(p), np.int64)
    rank[np.argsort(p, kind="stable")] = np.arange(len(p))
    group = rank * bins // max(len(p), 1)
    for number in np.unique(group):
        inside = group == number
        rate = rate_interval(label[inside], days[inside], users[inside])
        x, y = float(p[inside].mean()), float(label[inside].mean())
        if rate["low"] is not None and rate["high"] is not None:
            axes.plot([x, x], [max(rate["low"], 1e-5), rate["high"]], color=BLUE, linewidth=1.5, alpha=0.7)
        axes.plot(x, y, "o", color=BLUE, markersize=5)
    low, high = max(float(p.min()), 1e-4), float(p.max())
    axes.plot([low, high], [low, high], "--", color=INK, linewidth=1, label="perfectly calibrated")
    axes.set_xscale("log")
    axes.set_yscale("log")
    return save(figure, path)


def ne_by_day(path: Path, series: Mapping[str, Array], data: Dataset) -> Path:
    """Normalised entropy a day, one line for each named array of probabilities [n]."""
    figure, axes = _axes("Normalised entropy by day (lower is better)", "", "NE")
    days = day_groups(data.time_us)
    names = [day_name(int(data.time_us[days == day][0])) for day in np.unique(days)]
    for (name, p), colour in zip(series.items(), cycle(COLOURS), strict=False):
        losses = log_losses(p, data.label)
        values = [losses[days == day].mean() / entropy(float(data.label[days == day].mean())) for day in np.unique(days)]
        axes.plot(names, values, "o-", color=colour, label=name, linewidth=1.5, markersize=4)
    axes.tick_params(axis="x", rotation=30)
    return save(figure, path)


def importance(path: Path, rows: Sequence[Mapping[str, Any]], *, top: int = 20) -> Path:
    """The `top` features of `models.importance.permutation_importance`, as bars."""
    shown = list(rows[:top])[::-1]
    figure, axes = _axes(
        "Permutation importance", "rise of NE when the feature is shuffled", "", height=1.2 + 0.24 * len(shown)
    )
    axes.barh([row["feature"] for row in shown], [row["ne_rise"] for row in shown], color=BLUE, height=0.7)
    axes.errorbar(
        [row["ne_rise"] for row in shown], range(len(shown)), xerr=[row["spread"] for row in shown], fmt="none", ecolor=ORANGE
    )
    return save(figure, path)


def _axes(title: str, x: str, y: str, *, height: float = 4.0) -> tuple[Figure, Any]:
    figure = Figure(figsize=(6.4, height), dpi=120)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    figure.patch.set_alpha(0.0)
    dress(axes, title, x, y, 11)
    return figure, axes


def dress(axes: Any, title: str, x: str, y: str, size: int) -> None:
    """Give a plot the look of all our pictures; `size` is the title's in points, the axes' names are one smaller."""
    axes.patch.set_alpha(0.0)
    axes.set_title(title, color=INK, fontsize=size)
    axes.set_xlabel(x, color=INK, fontsize=size - 1)
    axes.set_ylabel(y, color=INK, fontsize=size - 1)
    axes.tick_params(colors=INK, which="both", labelsize=8)
    axes.grid(visible=True, color=INK, alpha=0.25, linewidth=0.5)
    for name, spine in axes.spines.items():
        spine.set_visible(name in ("left", "bottom"))
        spine.set_color(INK)


def save(figure: Figure, path: Path) -> Path:
    """Write the figure, with a legend in each plot that has labelled lines."""
    for axes in figure.axes:
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, labelcolor=INK, fontsize=8)
    figure.tight_layout()
    figure.savefig(path)
    return path
