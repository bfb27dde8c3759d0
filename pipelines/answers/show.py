"""How the answers' pictures look: transparent, in colours that read on light and dark pages."""

from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from models.plots import BLUE, INK, ORANGE

GREEN, VIOLET = "#2a9d62", "#a371c9"
COLOURS = (BLUE, ORANGE, GREEN, VIOLET, INK)


def panels(*titles: str, x: str, y: str, height: float = 3.4) -> tuple[Figure, list[Any]]:
    """A figure with one transparent plot a title, side by side, and its axes."""
    figure = Figure(figsize=(4.6 * len(titles) + 0.4, height), dpi=160)
    FigureCanvasAgg(figure)
    figure.patch.set_alpha(0.0)
    found = list(figure.subplots(1, len(titles), squeeze=False)[0])
    for axes, title in zip(found, titles, strict=True):
        axes.patch.set_alpha(0.0)
        axes.set_title(title, color=INK, fontsize=10)
        axes.set_xlabel(x, color=INK, fontsize=9)
        axes.set_ylabel(y, color=INK, fontsize=9)
        axes.tick_params(colors=INK, which="both", labelsize=8)
        axes.grid(visible=True, color=INK, alpha=0.25, linewidth=0.5)
        for name, spine in axes.spines.items():
            spine.set_visible(name in ("left", "bottom"))
            spine.set_color(INK)
    return figure, found


def save(figure: Figure, path: Path) -> Path:
    """Write the figure, with a legend in each plot that has labelled lines."""
    for axes in figure.axes:
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, labelcolor=INK, fontsize=8)
    figure.tight_layout()
    figure.savefig(path)
    return path
