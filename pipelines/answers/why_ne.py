"""Why normalised entropy and not AUC: predictions spoiled in ways that keep their order."""

from pathlib import Path
from typing import Any

import numpy as np

from infra.clock import day_name
from infra.settings import Settings
from models import metrics
from models.contract import Dataset
from models.evaluate import day_groups
from models.newton import sigmoid
from models.plots import COLOURS, save
from pipelines.answers.material import F64, difference, material, metrics_of
from pipelines.answers.show import panels
from pipelines.markdown import interval, table

QUESTION = "Why normalised entropy rather than AUC?"
NUMBER = 1
OFF_THE_CHART = 1.2  # worse than knowing nothing by a fifth
SHOWN = ("ne", "calibration", "ece", "auc")


def run(chosen: Settings) -> dict[str, Any]:
    """The champion's test predictions as they are and distorted, every distortion increasing in p."""
    found = material(chosen)
    p, test = found.p(), found.test
    versions = distorted(p)
    return {
        **found.size(),
        "versions": {name: metrics_of(q, test) | {"ne_difference": difference(q, p, test)} for name, q in versions.items()},
        "by_day": _by_day(versions, test),
    }


def distorted(p: F64) -> dict[str, F64]:
    """Probabilities that rank the same rows the same way: a too sharp slope, a factor, and negatives kept but one in ten."""
    logit = np.log(p) - np.log1p(-p)
    centre = float(np.log(p.mean()) - np.log1p(-p.mean()))
    return {
        "as trained": p,
        "50% too high": np.minimum(1.5 * p, 1 - 1e-6),
        "too sure (logits x 1.6)": sigmoid(centre + 1.6 * (logit - centre)),
        "too timid (logits x 0.5)": sigmoid(centre + 0.5 * (logit - centre)),
        "negatives sampled 1 in 10, not corrected": p / (p + (1 - p) / 10),
    }


def _by_day(versions: dict[str, F64], test: Dataset) -> dict[str, Any]:
    days = day_groups(test.time_us)
    each = [days == day for day in np.unique(days)]

    def lines(metric: Any) -> dict[str, list[float]]:
        return {name: [metric(p[rows], test.label[rows]) for rows in each] for name, p in versions.items()}

    return {
        "days": [day_name(int(test.time_us[rows][0])) for rows in each],
        "auc": lines(metrics.auc),
        "ne": lines(metrics.normalised_entropy),
        "calibration": lines(metrics.calibration),
    }


def markdown(result: dict[str, Any]) -> str:
    """The versions side by side."""
    rows = [[name, *(interval(found[m]) for m in SHOWN)] for name, found in result["versions"].items()]
    head = ["predictions", "NE", "clicks / promised", "ECE", "AUC"]
    return (
        f"{result['n']:,} test impressions, {result['clicks']:,} clicks, {result['days']} days; 95% intervals.\n\n"
        f"{table(head, rows)}\n\n![NE and AUC by day](figures/why-ne.png)"
    )


def draw(result: dict[str, Any], folder: Path) -> Path:
    """AUC and NE by day; NE far above the others would flatten them and stands in the title."""
    by_day = result["by_day"]
    off = [name for name, found in result["versions"].items() if found["ne"]["value"] > OFF_THE_CHART]
    title = "NE by day" + "".join(f"\n({name}: {result['versions'][name]['ne']['value']:.1f}, off the chart)" for name in off)
    figure, (left, right) = panels("AUC by day: all the lines are one line", title, x="", y="", height=3.6)
    days = [day[5:] for day in by_day["days"]]
    for axes, metric in ((left, "auc"), (right, "ne")):
        for (name, values), colour in zip(by_day[metric].items(), COLOURS, strict=True):
            if axes is left or name not in off:
                label = name if axes is right else None
                axes.plot(days, values, "o-", color=colour, label=label, linewidth=1.5, markersize=4)
    low, high = right.get_ylim()
    right.set_ylim(low, high + 0.5 * (high - low))  # room for the legend
    return save(figure, folder / "why-ne.png")
