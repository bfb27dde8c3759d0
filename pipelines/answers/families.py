"""Model families beside each other over five seeds of the world: quality, p99 latency, size, training cost.

Each seed is a market of its own with its own users, ads and luck, made in a temporary folder from raw events on.  What one
seed shows can be luck; what all of them show is less likely to be.  Takes minutes a seed.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from infra.home import Home
from infra.settings import Settings
from models.artefact import Artefact
from models.contract import Dataset
from models.train import FAMILIES
from pipelines.answers.material import F64, difference, metrics_of, size_of
from pipelines.answers.worlds import temporary_world
from pipelines.console import minutes, say
from pipelines.markdown import interval, table
from pipelines.sources.contract import SourceSpec
from pipelines.sources.registry import source_of
from pipelines.training import assemble, fit, probability
from pipelines.truth import true_probability

QUESTION = "Logistic regression, XGBoost or DCNv2? Quality x p99 x size x training cost, over seeds."
NUMBER = 5
SEEDS = 5
CANDIDATES = 100  # ads scored at once
REPEATS = 1500
MODELS = ("base_rate", *FAMILIES)
LEAST_CLICKS = 10_000
CALIBRATED = (0.97, 1.03)


def run(chosen: Settings) -> dict[str, Any]:
    """All families on the seed asked about and on those that follow it."""
    seeds = {}
    for seed in range(chosen.seed, chosen.seed + (2 if chosen.size == "tiny" else SEEDS)):
        started = time.perf_counter()
        if seed == chosen.seed and (chosen.base().features / "_manifest").exists():
            seeds[str(seed)] = _seed(chosen.base(), source_of(chosen).spec, chosen, seed)
        else:
            say(f"seed {seed}: making its world")
            with temporary_world(chosen, chosen.size, seed) as (home, spec):
                seeds[str(seed)] = _seed(home, spec, chosen, seed)
        say(f"seed {seed}: done in {minutes(time.perf_counter() - started)}")
    return {"size": chosen.size, "seeds": seeds, "summary": {family: _summary(family, seeds) for family in MODELS}}


def _seed(home: Home, spec: SourceSpec, chosen: Settings, seed: int) -> dict[str, Any]:
    parts = assemble(home, spec, chosen)
    test, truth = parts.test, true_probability(home, parts.test.row_id, parts.test.time_us)
    trained: dict[str, Artefact] = {}
    found: dict[str, Any] = {}
    for family in ("logistic", "base_rate", "xgboost", "dcnv2"):  # the first teaches encoder and b(slot), which all share
        like = trained.get("logistic")
        if like is None:
            like = fit("base_rate", parts, spec, seed).artefact
        wall, processor = time.perf_counter(), time.process_time()
        trained[family] = fit(family, parts, spec, seed, like).artefact
        cost = {"fit_s": time.perf_counter() - wall, "fit_cpu_s": time.process_time() - processor}
        say(f"seed {seed}: {family} trained in {minutes(cost['fit_s'])}")
        found[family] = {**cost, "bytes": _bytes(trained[family]), **_latency(trained[family], test)}
    p = {family: probability(artefact, test) for family, artefact in trained.items()}
    for family in MODELS:
        found[family] |= metrics_of(p[family], test, truth)
        found[family]["against_logistic"] = difference(p[family], p["logistic"], test)
        found[family]["against_base_rate"] = difference(p[family], p["base_rate"], test)
    return {**size_of(test), "families": {family: found[family] for family in MODELS}, "claims": _claims(found, test)}


def _claims(found: dict[str, Any], test: Dataset) -> dict[str, bool]:
    """What the project claims of each seed, true or false."""
    low, high = CALIBRATED
    claims = {"enough_clicks": int(test.label.sum()) >= LEAST_CLICKS}
    for family in ("xgboost", "dcnv2"):
        claims[f"{family} beats the base rate"] = _below_zero(found[family]["against_base_rate"])
        claims[f"{family} has a lower NE than logistic"] = found[family]["against_logistic"]["value"] < 0
        claims[f"{family} beats logistic, interval below 0"] = _below_zero(found[family]["against_logistic"])
    for family in FAMILIES:
        ratio = found[family]["calibration"]
        overlaps = ratio["low"] is not None and ratio["low"] <= high and ratio["high"] >= low
        claims[f"{family}'s calibration interval overlaps {low} to {high}"] = bool(overlaps)
    return claims


def _below_zero(found: dict[str, float | None]) -> bool:
    return found["high"] is not None and found["high"] < 0


def _bytes(artefact: Artefact) -> int:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        artefact.save(root)
        return sum(file.stat().st_size for file in root.rglob("*") if file.is_file())


def _latency(artefact: Artefact, test: Dataset) -> dict[str, float]:
    """Processor milliseconds to encode and score CANDIDATES rows in this process, one thread: p50 and p99.

    Processor time, so that what else runs on the machine while five markets are made and learned isn't in it."""
    artefact.model.use_threads(1)
    random = np.random.default_rng(0)
    batches = [test.take(random.integers(0, len(test), CANDIDATES)) for _ in range(50)]
    spent = []
    for repeat in range(REPEATS + 50):
        batch = batches[repeat % len(batches)]
        started = time.process_time()
        artefact.probability(artefact.score(batch.columns), batch.slot)
        spent.append(time.process_time() - started)
    p50, p99 = np.quantile(np.array(spent[50:]) * 1e3, [0.5, 0.99])  # the first ones warm up
    return {"p50_ms": float(p50), "p99_ms": float(p99)}


def _summary(family: str, seeds: dict[str, Any]) -> dict[str, Any]:
    """Means over seeds; intervals are Student's over the seeds' values, so they hold the difference between markets."""
    each = [seed["families"][family] for seed in seeds.values()]
    out: dict[str, Any] = {
        name: _over_seeds(np.array([found[name]["value"] for found in each]))
        for name in ("ne", "auc", "calibration", "signal_captured", "against_logistic", "against_base_rate")
    }
    return out | {
        name: float(np.median([found[name] for found in each])) for name in ("p50_ms", "p99_ms", "bytes", "fit_s", "fit_cpu_s")
    }


def _over_seeds(values: F64) -> dict[str, float]:
    from scipy.stats import t as student

    half = float(student.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return {"value": float(values.mean()), "low": float(values.mean()) - half, "high": float(values.mean()) + half}


def markdown(result: dict[str, Any]) -> str:
    """Means over seeds, NE differences of each seed, and how often each claim held."""
    count = len(result["seeds"])
    head = ["model", "NE", "signal captured", "p50 / p99 of 100 ads", "artefact", "training"]
    rows = [
        [
            family.replace("_", " "),
            interval(found["ne"]),
            interval(found["signal_captured"]),
            f"{found['p50_ms']:.2f} / {found['p99_ms']:.2f} ms",
            f"{found['bytes'] / 1e6:.2f} MB",
            f"{found['fit_cpu_s']:.0f} s of processor",
        ]
        for family, found in result["summary"].items()
    ]
    by_seed = [
        [
            seed,
            f"{found['clicks']:,}",
            *(interval(found["families"][f]["against_logistic"], 4, sign=True) for f in ("xgboost", "dcnv2")),
            *(interval(found["families"][f]["calibration"], 2) for f in FAMILIES),
        ]
        for seed, found in result["seeds"].items()
    ]
    claims = {name: [found["claims"][name] for found in result["seeds"].values()] for name in _names(result)}
    held = [
        [name.replace("enough_clicks", f"at least {LEAST_CLICKS:,} test clicks"), f"{sum(c)} of {count}"]
        for name, c in claims.items()
    ]
    seed_head = ["seed", "test clicks", "NE, XGBoost minus logistic", "NE, DCNv2 minus logistic"]
    return "\n".join(
        [
            f"Means over {count} seeds of size {result['size']}; 95% intervals over seeds. Latency is processor "
            "time in process, one thread, features fetched already.",
            "",
            table(head, rows),
            "",
            "By seed, with 95% intervals (differences paired by row), and clicks over promised clicks:",
            "",
            table([*seed_head, *(f"calibration, {family}" for family in FAMILIES)], by_seed),
            "",
            table(["claim", "seeds on which it held"], held),
        ]
    )


def _names(result: dict[str, Any]) -> list[str]:
    return list(next(iter(result["seeds"].values()))["claims"])
