"""The picture of docs/serving.md: goodput and latency around the knee.  Drawn by `clickproof bench serve --record`."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

NAME = "serving-knee.svg"
WIDTH, HEIGHT, LEFT, TOP, PANEL_W, PANEL_H, GAP = 760, 330, 56, 44, 290, 220, 90
_STYLE = (
    ":root { color-scheme: light dark; --ink: #1f2328; --dim: #59636e; --line: #d1d9e0; --one: #0969da; --two: #bc4c00; }"
    "@media (prefers-color-scheme: dark) "
    "{ :root { --ink: #f0f6fc; --dim: #9198a1; --line: #3d444d; --one: #4493f8; --two: #f0883e; } }"
    "text { fill: var(--ink); font: 12px ui-sans-serif, system-ui, sans-serif } .dim { fill: var(--dim) }"
    ".axis { stroke: var(--line); fill: none } .ideal { stroke: var(--dim); stroke-dasharray: 4 4; fill: none }"
    ".c0 { stroke: var(--one); fill: none; stroke-width: 2 } .c1 { stroke: var(--two); fill: none; stroke-width: 2 }"
    ".d0 { fill: var(--one) } .d1 { fill: var(--two) } .p50 { stroke-dasharray: 2 3 }"
)


def knee_svg(knees: Mapping[str, Mapping[str, Any]]) -> str:
    """Goodput and latency over the offered rate, both in units of the knee, a colour for each number of candidates; readable on
    light and dark pages."""
    series = {n: _points(found) for n, found in knees.items()}
    slowest = max((p["p99_ms"] or 0.0) for points in series.values() for p in points)
    decades = max(1, math.ceil(math.log10(max(slowest, 1.0))))
    most = max(p["x"] for points in series.values() for p in points) * 1.05
    top = max(1.2, *(p["y"] * 1.05 for points in series.values() for p in points))
    left = _Panel(LEFT, most, top, "goodput / knee", [(0.0, "0"), (0.5, "0.5"), (1.0, "1")])
    right = _Panel(
        LEFT + PANEL_W + GAP,
        most,
        decades + 1.0,
        "latency, ms: p99, dotted p50",
        [(1.0 + i, f"{10**i:,}") for i in range(decades + 1)],
    )
    parts = [*left.frame(), *right.frame(), f'<path class="ideal" d="{left.path([(0.0, 0.0), (1.0, 1.0)])}"/>']
    for at, (n, points) in enumerate(series.items()):
        colour = at % 2
        curves = [(left, "", [(p["x"], p["y"]) for p in points])]
        for name in ("p99", "p50"):
            answered = [(p["x"], p[f"{name}_ms"]) for p in points if p[f"{name}_ms"]]
            curves += [(right, name, [(x, 1 + math.log10(max(ms, 0.1))) for x, ms in answered])]
        for panel, name, line in curves:
            parts.append(f'<path class="c{colour} {name}" d="{panel.path(line)}"/>')
            parts += [
                f'<circle class="d{colour}" cx="{x}" cy="{y}" r="2.6"/>' for x, y in map(panel.place, line) if name != "p50"
            ]
        parts.append(f'<circle class="d{colour}" cx="{LEFT + 8 + 130 * at}" cy="{TOP - 26}" r="4"/>')
        parts.append(f'<text x="{LEFT + 18 + 130 * at}" y="{TOP - 22}">{n} candidates</text>')
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
        ' role="img">\n'
        f"<title>Goodput and latency over the rate offered</title>\n<style>{_STYLE}</style>\n{body}\n</svg>\n"
    )


def _points(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One point a rate, in order; where a rate was tried twice, the better one, as the search takes it."""
    best: dict[float, Mapping[str, Any]] = {}
    for one in [*found["probes"], found["half"], found["knee"], found["triple"]]:
        if one["rate"] not in best or one["good_share"] > best[one["rate"]]["good_share"]:
            best[one["rate"]] = one
    return [{**best[rate], "x": rate / found["rate"], "y": best[rate]["goodput"] / found["rate"]} for rate in sorted(best)]


class _Panel:
    """One set of axes; x from 0 to `most_x`, y from 0 to `most_y`."""

    def __init__(self, left: int, most_x: float, most_y: float, title: str, ticks: Sequence[tuple[float, str]]) -> None:
        self.left, self.most_x, self.most_y, self.title, self.ticks = left, most_x, most_y, title, ticks

    def place(self, point: tuple[float, float]) -> tuple[float, float]:
        """Where a point lies in the picture."""
        x = self.left + PANEL_W * point[0] / self.most_x
        return round(x, 1), round(TOP + PANEL_H * (1 - min(point[1] / self.most_y, 1.0)), 1)

    def path(self, points: Sequence[tuple[float, float]]) -> str:
        """A polyline."""
        return " ".join(f"{'L' if i else 'M'}{x} {y}" for i, (x, y) in enumerate(map(self.place, points)))

    def frame(self) -> list[str]:
        """Axes, ticks, titles."""
        bottom, right = TOP + PANEL_H, self.left + PANEL_W
        parts = [f'<path class="axis" d="M{self.left} {TOP} V{bottom} H{right}"/>']
        parts.append(f'<text x="{self.left}" y="{TOP - 6}" class="dim">{self.title}</text>')
        for value, said in self.ticks:
            _, y = self.place((0.0, value))
            parts.append(f'<path class="axis" d="M{self.left} {y} H{right}"/>')
            parts.append(f'<text x="{self.left - 6}" y="{y + 4}" text-anchor="end" class="dim">{said}</text>')
        for knees in range(math.floor(self.most_x) + 1):
            x, _ = self.place((float(knees), 0.0))
            parts.append(f'<text x="{x}" y="{bottom + 18}" text-anchor="middle" class="dim">{knees}</text>')
        parts.append(f'<text x="{(self.left + right) / 2}" y="{bottom + 38}" text-anchor="middle">offered rate / knee</text>')
        return parts


def draw(result: Mapping[str, Any], folder: Path) -> Path:
    """The picture, written."""
    path = folder / NAME
    path.write_text(knee_svg(result["knee"]))
    return path
