"""Labels arrive late: what a model learns that closes each impression's label after a waiting window, and how to put it right.

At the morning of the first test day, T, a learner that waits w may use impressions up to T - w and calls those without a
click within w not clicked.  A short wait uses fresher rows and counts fewer clicks.  The click-delay curve F(w), measured on
impressions old enough to be settled, turns the probability of a click within w into that of a click at all.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from infra.clock import DAY_US, HOUR_US
from infra.home import Home
from infra.lake import Lake, watermark_us
from infra.settings import Settings
from models.contract import Dataset
from models.plots import BLUE, INK, ORANGE, save
from models.train import train_family
from pipelines.answers.material import F64, Material, expected_difference, expected_ne, material, ratio
from pipelines.answers.show import panels
from pipelines.console import say
from pipelines.markdown import interval, table
from pipelines.training import SERVICE, probability
from pipelines.training_set import Window, build, select, split_windows

QUESTION = "Labels arrive late: NE and bias against the waiting window, with and without correction."
NUMBER = 18
WAITS_H = (1, 3, 6, 12, 24, 48)
SETTLED_DAYS = 7  # nothing is clicked later
FAMILY = "xgboost"
I64 = npt.NDArray[np.int64]


def run(chosen: Settings) -> dict[str, Any]:
    """XGBoost once for each waiting window; everything is compared with the true probabilities of the test days."""
    found = material(chosen)
    windows = split_windows(found.spec)
    begin_us = windows["test"].first_us
    longest = -(-max(WAITS_H) // 24) * DAY_US
    say("assembling the days before the test days")
    before = Window(windows["train"].first_us - longest, begin_us)
    data = build(found.home, found.spec, before, watermark_us(found.home), chosen.attribution_hours, SERVICE).data
    delay = click_delay(found.home, data, before)
    settled = _settled_delays(found.home, found.spec.first_day_us, begin_us)
    truth = found.p_true()
    waits: dict[str, Any] = {}
    predictions: dict[int, F64] = {}
    for hours in WAITS_H:
        say(f"training with labels closed after {hours} h")
        p = _predict(found, data, delay, hours * HOUR_US, begin_us, chosen.seed)
        share = float((settled <= hours * HOUR_US).mean())
        predictions[hours] = corrected = np.minimum(p / share, 1 - 1e-9)
        waits[str(hours)] = {
            "share_arrived": share,
            "plain": _row(p, truth, found.test),
            "corrected": _row(corrected, truth, found.test),
        }
    for hours in WAITS_H:
        difference = expected_difference(predictions[hours], predictions[24], truth, found.test)
        waits[str(hours)]["corrected"]["ne_against_24h"] = difference
    curve = [1 / 60, 0.25, 0.5, 1, 2, 3, 6, 12, 18, 24, 36, 48, 72, 120, 168]
    return {
        **found.size(),
        "settled_clicks": len(settled),
        "waits": waits,
        "curve": {"hours": curve, "share": [float((settled <= h * HOUR_US).mean()) for h in curve]},
    }


def click_delay(home: Home, data: Dataset, window: Window) -> I64:
    """Microseconds from each row's impression to the arrival of its first click; a century where none ever came."""
    days = [day for day in Lake.of(home).days("clicks") if day >= window.days()[0]]
    clicks = Lake.of(home).read("clicks", ["impression_id", "arrived_at"], days)
    ids, arrived = clicks["impression_id"].to_numpy(), clicks["arrived_at"].cast("int64").to_numpy()
    first = np.full(len(data), _NEVER)
    order = np.argsort(data.row_id)
    at = order[np.minimum(np.searchsorted(data.row_id, ids, sorter=order), len(order) - 1)]
    known = data.row_id[at] == ids
    np.minimum.at(first, at[known], arrived[known] - data.time_us[at[known]])
    return first


_NEVER = 100 * 365 * DAY_US


def _settled_delays(home: Home, first_us: int, now_us: int) -> I64:
    """Delays of the clicks on impressions that were at least a week old at `now_us`: what F is measured on."""
    lake = Lake.of(home)
    window = Window(first_us, now_us - SETTLED_DAYS * DAY_US)
    shown = lake.read("impressions", ["impression_id", "event_timestamp"], window.days())
    clicks = lake.read("clicks", ["impression_id", "arrived_at"])
    joined = clicks.join(shown, "impression_id", join_type="inner")
    shown_us, arrived_us = (joined[name].cast("int64").to_numpy() for name in ("event_timestamp", "arrived_at"))
    kept = (shown_us < window.last_us) & (arrived_us <= now_us)
    return np.asarray(arrived_us[kept] - shown_us[kept])


def _predict(found: Material, data: Dataset, delay: I64, wait_us: int, begin_us: int, seed: int) -> F64:
    """Train, valid and calibrate parts as long as the split's, ending at begin - wait; labels closed after the wait."""
    label = (delay <= wait_us).astype(np.uint8)
    closed = Dataset(data.columns, label, data.slot, data.time_us, data.group, data.row_id, data.randomised)
    end, parts = begin_us - wait_us, []
    for name in ("calibrate", "valid", "train"):
        start = end - getattr(found.spec.split, name) * DAY_US
        parts.append(select(closed, Window(start, end)))
        end = start
    calibrate, valid, train = parts
    trained = train_family(
        FAMILY,
        train,
        valid,
        calibrate,
        found.parts.spec,
        seed,
        found.champion.position,
        service=SERVICE,
        entities=found.spec.entities,
    )
    return probability(trained.artefact, found.test)


def _row(p: F64, truth: F64, test: Dataset) -> dict[str, Any]:
    return {"ne": expected_ne(p, truth, test), "promised": ratio(p, truth, test)}


def markdown(result: dict[str, Any]) -> str:
    """A row a waiting window."""
    rows = [
        [
            f"{hours} h",
            f"{found['share_arrived']:.1%}",
            interval(found["plain"]["promised"]),
            interval(found["plain"]["ne"], 4),
            interval(found["corrected"]["promised"]),
            interval(found["corrected"]["ne"], 4),
            interval(found["corrected"]["ne_against_24h"], 4, sign=True) if hours != "24" else "",
        ]
        for hours, found in result["waits"].items()
    ]
    head = ["wait", "F(wait)", "promised / true", "NE", "corrected: promised / true", "corrected: NE", "minus 24 h's, paired"]
    return (
        f"{result['n']:,} test impressions over {result['days']} days, compared with their true probabilities (a click at any "
        f"time); F from {result['settled_clicks']:,} settled clicks; 95% intervals.\n\n{table(head, rows)}\n\n"
        "![Bias against the waiting window](figures/late-labels.png)"
    )


def draw(result: dict[str, Any], folder: Path) -> Path:
    """The delay curve, and bias by waiting window with and without correction."""
    figure, (left, right) = panels("Share of clicks that have arrived", "Promised over true clicks", x="hours", y="")
    left.plot(result["curve"]["hours"], result["curve"]["share"], "o-", color=BLUE, markersize=4)
    hours = [float(h) for h in result["waits"]]
    for name, label, colour in (("plain", "as learned", ORANGE), ("corrected", "divided by F(wait)", BLUE)):
        found = [wait[name]["promised"] for wait in result["waits"].values()]
        right.plot(hours, [f["value"] for f in found], "o-", color=colour, label=label, markersize=4)
        right.fill_between(hours, [f["low"] for f in found], [f["high"] for f in found], color=colour, alpha=0.2)
    right.axhline(1.0, color=INK, linestyle="--", linewidth=1)
    for axes, ticks in ((left, (1 / 60, 1, 6, 24, 168)), (right, hours)):
        axes.set_xscale("log")
        axes.set_xticks(ticks, [f"{t:g}" if t >= 1 else "1 min" for t in ticks])
        axes.minorticks_off()
    return save(figure, folder / "late-labels.png")
