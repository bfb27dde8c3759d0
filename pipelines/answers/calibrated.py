"""Is the champion calibrated, overall and in every slice?  And how many slices would look wrong if it were perfectly so?"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from infra.settings import Settings
from models import metrics
from models.contract import Array, Dataset
from models.evaluate import slices_of
from models.plots import BLUE, INK, ORANGE, save
from pipelines.answers.material import F64, material, metrics_of, ratio
from pipelines.answers.show import panels
from pipelines.markdown import interval, table

QUESTION = "Is it calibrated, in every slice?"
NUMBER = 2
LEAST_CLICKS = 100  # an advertiser with fewer clicks in the test days is pooled with the others like it
REDRAWS = 40
WORST = 8  # slices shown on the page


def run(chosen: Settings) -> dict[str, Any]:
    """Clicks over promised clicks and ECE by slice; the same counts with labels redrawn from p itself, many times."""
    found = material(chosen)
    p, test = found.p(), found.test
    slices = [("all", "all", np.arange(len(test))), *_slices(test)]
    rows = [_measure(dimension, value, p[at], test.take(at)) for dimension, value, at in slices]
    random = np.random.default_rng(chosen.seed)
    by_luck, ece_by_luck = [], []
    for _ in range(REDRAWS):
        clicked = (random.random(len(p)) < p).astype(np.uint8)
        ece_by_luck.append(metrics.ece(p, clicked))
        redrawn = _relabelled(test, clicked)
        by_luck.append(sum(_excludes(ratio(redrawn.label[at], p[at], redrawn.take(at)), 1.0) for _, _, at in slices[1:]))
    dimensions = list(dict.fromkeys(row["dimension"] for row in rows[1:]))
    return {
        **found.size(),
        "slices": rows,
        "dimensions": {
            d: {
                "slices": sum(row["dimension"] == d for row in rows),
                "exclude_1": sum(row["dimension"] == d and _excludes(row["calibration"], 1.0) for row in rows),
            }
            for d in dimensions
        },
        "exclude_1": sum(_excludes(row["calibration"], 1.0) for row in rows[1:]),
        "of": len(rows) - 1,
        "exclude_1_by_luck": {"mean": float(np.mean(by_luck)), "largest": int(max(by_luck)), "redraws": REDRAWS},
        "ece_by_luck": {"mean": float(np.mean(ece_by_luck)), "high": float(np.quantile(ece_by_luck, 0.975))},
    }


def _slices(test: Dataset) -> Iterator[tuple[str, str, Array]]:
    """(dimension, value, row numbers) of every slice with a click."""
    dimensions = slices_of(test)
    if "advertiser_id" in test.columns:
        advertiser = test.columns["advertiser_id"]
        clicks = np.bincount(np.maximum(advertiser, 0), test.label)[np.maximum(advertiser, 0)]
        dimensions["advertiser"] = np.where(clicks >= LEAST_CLICKS, advertiser.astype(np.str_), "small ones")
    for dimension, values in dimensions.items():
        for value in np.unique(values):
            at = np.flatnonzero(values == value)
            if test.label[at].any():
                yield dimension, str(value), at


def _measure(dimension: str, value: str, p: F64, data: Dataset) -> dict[str, Any]:
    found = metrics_of(p, data)
    return {
        "dimension": dimension,
        "value": value,
        "n": len(data),
        "clicks": int(data.label.sum()),
        "calibration": found["calibration"],
        "ece": found["ece"],
    }


def _relabelled(data: Dataset, label: Array) -> Dataset:
    """Only what a ratio needs: no feature columns, so that taking rows is cheap."""
    return Dataset({}, label, data.slot, data.time_us, data.group, data.row_id, data.randomised)


def _excludes(found: dict[str, float | None], value: float) -> bool:
    low, high = found["low"], found["high"]
    return low is not None and high is not None and not low <= value <= high


def markdown(result: dict[str, Any]) -> str:
    """Overall, the count of slices that exclude 1, and the slices furthest from 1."""
    whole, luck = result["slices"][0], result["exclude_1_by_luck"]
    lines = [
        f"{result['n']:,} test impressions, {result['clicks']:,} clicks, {result['days']} days; 95% intervals.",
        "",
        table(
            ["dimension", "slices", "whose interval excludes 1"],
            [[d, found["slices"], found["exclude_1"]] for d, found in result["dimensions"].items()]
            + [["**all**", f"**{result['of']}**", f"**{result['exclude_1']}**"]],
        ),
        "",
        f"With labels redrawn from p itself {luck['redraws']} times, so that nothing is wrong, {luck['mean']:.1f} slices of "
        f"{result['of']} exclude 1 on average (at most {luck['largest']}), and ECE is {result['ece_by_luck']['mean']:.5f} "
        f"(97.5% of the time below {result['ece_by_luck']['high']:.5f}).",
        "",
    ]
    furthest = sorted(result["slices"][1:], key=lambda row: -_distance(row))[:WORST]
    rows = [
        [row["dimension"], row["value"], f"{row['clicks']:,}", interval(row["calibration"]), interval(row["ece"], 4)]
        for row in [whole, *furthest]
    ]
    head = ["slice", "", "clicks", "clicks / promised", "ECE"]
    return "\n".join([*lines, table(head, rows), "", "![calibration by slice](figures/calibrated.png)"])


def _distance(row: dict[str, Any]) -> float:
    """Distance from 1 in units of the interval's half width."""
    value, low, high = (row["calibration"][k] for k in ("value", "low", "high"))
    return abs(value - 1) / max((high - low) / 2, 1e-9) if low is not None else 0.0


def draw(result: dict[str, Any], folder: Path) -> Path:
    """Every slice's ratio with its interval, from the lowest to the highest."""
    rows = sorted((r for r in result["slices"] if r["calibration"]["low"] is not None), key=lambda r: r["calibration"]["value"])
    figure, (axes,) = panels("Clicks over promised clicks in every slice", x="slices in order", y="ratio")
    figure.set_size_inches(7.2, 3.4)
    for number, row in enumerate(rows):
        found = row["calibration"]
        whole = row["dimension"] == "all"
        colour = INK if whole else ORANGE if _excludes(found, 1.0) else BLUE
        axes.plot([number] * 2, [found["low"], found["high"]], color=colour, linewidth=2.5 if whole else 1.2)
        axes.plot(number, found["value"], "s" if whole else "o", color=colour, markersize=6 if whole else 3)
    axes.axhline(1.0, color=INK, linewidth=1, linestyle="--")
    for colour, name in ((BLUE, "interval holds 1"), (ORANGE, "interval excludes 1"), (INK, "all rows (square)")):
        axes.plot([], [], "o-", color=colour, label=name)
    axes.set_xticks([])
    return save(figure, folder / "calibrated.png")
