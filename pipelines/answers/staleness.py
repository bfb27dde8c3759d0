"""How stale may a feature be: the champion on features that come later than they should, and without them."""

from pathlib import Path
from typing import Any

import numpy as np

from features.batch import OK, STALE, FeatureBatch, RequestBatch
from features.catalogue import VIEWS
from features.snapshots import DAILY
from features.sources import AsOfSource
from infra.clock import DAY_US, HOUR_US
from infra.settings import Settings
from models.contract import Dataset
from models.plots import COLOURS, INK, save
from pipelines.answers.material import F64, Material, difference, material, metrics_of
from pipelines.answers.show import panels
from pipelines.answers.workplace import asked_for, later, some_users, with_columns
from pipelines.console import say
from pipelines.markdown import interval, table
from pipelines.training import SERVICE, probability

QUESTION = "How stale may a feature be?"
NUMBER = 10

ROWS = 120_000  # test rows, by user
PUSH = ("user_recent",)
GROUPS: dict[str, tuple[str, ...]] = {"daily views": DAILY, "recent activity (push)": PUSH, "both": (*DAILY, *PUSH)}
DELAYS_H = {"1 h": 1, "6 h": 6, "1 d": 24, "2 d": 48, "7 d": 168}
NEVER_US = 100_000 * DAY_US  # so late that nobody ever sees a row: the view is missing


def run(chosen: Settings) -> dict[str, Any]:
    """NE by group of views and delay, on top of the delay that the views have anyway; last, without the views at all."""
    found = material(chosen)
    test = some_users(found.test, ROWS)
    asked = asked_for(found.parts, test)
    fresh = probability(found.champion, test)
    rows = []
    for group, views in GROUPS.items():
        there = tuple(view for view in views if view in {v.name for v in VIEWS if v.entity in found.spec.entities})
        for name, delay_us in {**{name: h * HOUR_US for name, h in DELAYS_H.items()}, "missing": NEVER_US}.items():
            say(f"{group}, {name}")
            rows.append({"views": group, "delay": name, **_late(found, test, asked, there, delay_us, fresh)})
    return {
        "n": len(test),
        "clicks": int(test.label.sum()),
        "days": found.size()["days"],
        "family": found.champion.family,
        "fresh": metrics_of(fresh, test),
        "rows": rows,
        "limits_h": {view.name: view.max_age_s / 3600 for view in VIEWS if view.max_age_s is not None},
    }


def _late(
    found: Material, test: Dataset, asked: RequestBatch, views: tuple[str, ...], delay_us: int, fresh: F64
) -> dict[str, Any]:
    source = AsOfSource(found.home, found.spec.entities, found.spec.context, SERVICE, later(dict.fromkeys(views, delay_us)))
    batch = source.fetch(asked)
    p = probability(found.champion, with_columns(test, batch.columns))
    measured = metrics_of(p, test)
    return {
        "ne": measured["ne"],
        "calibration": measured["calibration"],
        "difference": difference(p, fresh, test),
        "changed": float(np.mean(np.abs(p - fresh) > 0.01 * fresh)),
        "marked": float(_marked(batch, views).mean()),
        "stale": float(np.logical_or.reduce([batch.views[view].status == STALE for view in views]).mean()),
    }


def _marked(batch: FeatureBatch, views: tuple[str, ...]) -> Any:
    """Rows for which some of the views is stale or missing: what the answer's marks, the fallback mask and the metrics say."""
    return np.logical_or.reduce([batch.views[view].status != OK for view in views])


def markdown(result: dict[str, Any]) -> str:
    """NE against the delay."""
    rows = [
        [
            row["views"], row["delay"], interval(row["ne"]), interval(row["difference"], 4, sign=True),
            interval(row["calibration"]), f"{row['changed']:.0%}", f"{row['stale']:.0%}", f"{row['marked']:.0%}",
        ]
        for row in result["rows"]
    ]  # fmt: skip
    fresh = result["fresh"]
    first = ["all as they come", "0", interval(fresh["ne"]), "", interval(fresh["calibration"]), "", "", ""]
    head = [
        "late views",
        "by",
        "NE",
        "NE difference",
        "clicks / promised",
        "p moved by over 1%",
        "marked stale",
        "stale or missing",
    ]
    limits = ", ".join(f"{name} {hours:g} h" for name, hours in result["limits_h"].items())
    return (
        f"{result['family']}, {result['n']:,} test impressions, {result['clicks']:,} clicks, {result['days']} days; 95% "
        "intervals. Delays come on top of the half hour (daily) and half minute (push) that rows take anyway. "
        f"Stale beyond: {limits}.\n\n"
        f"{table(head, [first, *rows])}\n\n![NE lost against staleness](figures/staleness.png)"
    )


def draw(result: dict[str, Any], folder: Path) -> Path:
    """NE lost by delay."""
    figure, (axes,) = panels("NE lost when features come late", x="later than usual by", y="NE minus NE of fresh features")
    axes.axhline(0, color=INK, linewidth=1)
    for group, colour in zip(GROUPS, COLOURS, strict=False):
        rows = [row for row in result["rows"] if row["views"] == group]
        known = [row for row in rows if row["delay"] in DELAYS_H]
        hours, values = [DELAYS_H[row["delay"]] for row in known], [row["difference"]["value"] for row in known]
        axes.plot(hours, values, "o-", color=colour, label=group, linewidth=1.5, markersize=4)
        for hour, row in zip(hours, known, strict=True):
            if row["difference"]["low"] is not None:
                axes.plot(
                    [hour, hour], [row["difference"]["low"], row["difference"]["high"]], color=colour, linewidth=1, alpha=0.6
                )
    axes.set_xscale("log")
    axes.set_xticks(list(DELAYS_H.values()), list(DELAYS_H))
    axes.minorticks_off()
    return save(figure, folder / "staleness.png")
