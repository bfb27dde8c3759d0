"""New ad, new user: how good predictions are by what was known the midnight before, and what a prior alone would give."""

from typing import Any

import numpy as np
import numpy.typing as npt

from features.requests import from_impressions
from infra.clock import DAY_US
from infra.lake import Lake
from infra.settings import Settings
from models.calibrate import fit_calibrator
from models.contract import Array, Dataset
from models.newton import sigmoid
from pipelines.answers.material import F64, Material, difference, expected_ne, material, metrics_of, ratio, size_of
from pipelines.markdown import interval, table
from pipelines.training import fit, probability
from pipelines.training_set import split_windows

QUESTION = "New ad, new user: NE by number of exposures, and the fallback."
NUMBER = 20
BUCKETS = {"0": (0, 1), "1 to 10": (1, 11), "11 to 100": (11, 101), "over 100": (101, 1 << 60)}
I64 = npt.NDArray[np.int64]


def run(chosen: Settings) -> dict[str, Any]:
    """The champion beside two priors, in buckets of exposures of the ad and of the user."""
    found = material(chosen)
    test, truth = found.test, found.p_true()
    base = fit("base_rate", found.parts, found.spec, chosen.seed, found.champion).artefact
    predictions = {"champion": found.p(), "popularity": _popularity(found), "base rate": probability(base, test)}
    last_us = split_windows(found.spec)["test"].last_us
    names = ["impression_id", "event_timestamp", "user_id", "ad_id"]
    shown = from_impressions(Lake.of(found.home).read("impressions", names), ())
    history = shown.time_us < last_us
    result: dict[str, Any] = {**found.size()}
    for entity, mine, theirs in (("ad", test.columns["ad_id"], shown.ad_id), ("user", test.group, shown.user_id)):
        seen = exposures(mine, test.time_us // DAY_US, theirs[history], shown.time_us[history] // DAY_US)
        result[entity] = {}
        for bucket, (low, high) in BUCKETS.items():
            at = np.flatnonzero((seen >= low) & (seen < high))
            if len(at) and test.label[at].any():
                result[entity][bucket] = _bucket({n: p[at] for n, p in predictions.items()}, truth[at], test.take(at))
    return result


def exposures(key: Array, day: I64, shown_key: Array, shown_day: I64) -> I64:
    """How often each row's entity had been shown on days before the row's day, int64 [n]."""
    keys, index = np.unique(np.concatenate([key, shown_key]), return_inverse=True)
    first, days = int(shown_day.min()), int(max(shown_day.max(), day.max())) - int(shown_day.min()) + 1
    cells = np.bincount(index[len(key) :] * days + shown_day - first, minlength=len(keys) * days).reshape(len(keys), days)
    before = np.cumsum(cells, axis=1) - cells
    return np.asarray(before[index[: len(key)], day - first])


def _popularity(found: Material) -> F64:
    """A prior that knows only the ad's smoothed click rate (its category's for an ad never shown) and the slot."""
    calibrate, test = found.parts.calibrate, found.test
    by_category = _category_logits(found.parts.train)
    position = found.champion.position
    score = {name: _ad_logit(part, by_category) for name, part in (("calibrate", calibrate), ("test", test))}
    calibrator = fit_calibrator(score["calibrate"], calibrate.label, position.offset(calibrate.slot))
    return sigmoid(calibrator.apply(score["test"]).astype(np.float64) + position.offset(test.slot))


def _category_logits(train: Dataset) -> F64:
    """Logit of each category's click rate, shrunk by a hundred impressions towards the overall rate; the last is for none."""
    category = np.maximum(train.columns["ad_category"], -1)
    rate = float(train.label.mean())
    size = int(category.max()) + 2
    clicks, shown = np.bincount(category + 1, train.label, size), np.bincount(category + 1, minlength=size)
    p = (clicks + 100 * rate) / (shown + 100)
    return np.asarray(np.log(p) - np.log1p(-p))


def _ad_logit(data: Dataset, by_category: F64) -> F64:
    ctr = data.columns["ad_ctr"].astype(np.float64)
    known = np.isfinite(ctr) & (ctr > 0) & (ctr < 1)
    safe = np.where(known, ctr, 0.5)
    category = np.clip(data.columns["ad_category"] + 1, 0, len(by_category) - 1)
    return np.where(known, np.log(safe) - np.log1p(-safe), by_category[category])


def _bucket(p: dict[str, F64], truth: F64, data: Dataset) -> dict[str, Any]:
    champion = metrics_of(p["champion"], data, truth)
    return {
        **size_of(data),
        "ne": champion["ne"],
        "calibration": champion["calibration"],
        "promised": ratio(p["champion"], truth, data),
        "signal_captured": champion["signal_captured"],
        "expected_ne": {name: expected_ne(q, truth, data) for name, q in p.items()},
        "against_popularity": difference(p["champion"], p["popularity"], data),
    }


def markdown(result: dict[str, Any]) -> str:
    """A table for ads, one for users."""
    head = [
        "times shown before today", "impressions", "clicks", "NE", "clicks / promised", "promised / true", "expected NE",
        "of popularity alone", "of the base rate",
    ]  # fmt: skip
    parts = [f"{result['n']:,} test impressions, {result['clicks']:,} clicks, {result['days']} days; 95% intervals.", ""]
    for entity in ("ad", "user"):
        rows = [
            [
                bucket,
                f"{found['n']:,}",
                f"{found['clicks']:,}",
                *(interval(found[name]) for name in ("ne", "calibration", "promised")),
                *(f"{found['expected_ne'][name]['value']:.3f}" for name in ("champion", "popularity", "base rate")),
            ]
            for bucket, found in result[entity].items()
        ]
        parts += [table([f"{entity}: {head[0]}", *head[1:]], rows), ""]
    return "\n".join(parts).strip()
