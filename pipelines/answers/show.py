"""How the answers' pictures are laid out; their look is that of `models.plots`."""

from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from models.plots import dress


def panels(*titles: str, x: str, y: str, height: float = 3.4) -> tuple[Figure, list[Any]]:
    """A figure with one transparent plot a title, side by side, and its axes."""
    figure = Figure(figsize=(4.6 * len(titles) + 0.4, height), dpi=160)
    FigureCanvasAgg(figure)
    figure.patch.set_alpha(0.0)
    found = list(figure.subplots(1, len(titles), squeeze=False)[0])
    for axes, title in zip(found, titles, strict=True):
        dress(axes, title, x, y, 10)
    return figure, found
