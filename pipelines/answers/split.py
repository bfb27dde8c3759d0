"""How to split: the same rows cut by time and cut at random, the same model on both, and what the random cut hides."""

from typing import Any

import numpy as np

from infra.settings import Settings
from models.contract import Dataset
from models.train import train_family
from monitoring.gate.columns import concatenate
from pipelines.answers.material import F64, Material, material, metrics_of, size_of
from pipelines.console import say
from pipelines.markdown import interval, table
from pipelines.training import SERVICE, probability

QUESTION = "How do you split, and what does a random split hide?"
NUMBER = 6
FAMILIES = ("xgboost", "logistic")  # trees see no ids; logistic regression has a weight for every user and ad
METRICS = ("ne", "auc", "calibration", "signal_captured")


def run(chosen: Settings) -> dict[str, Any]:
    """NE and AUC with a temporal and a random split of the same rows into parts of the same sizes."""
    found = material(chosen)
    by_time = list(found.parts.by_name().values())
    truth = found.p_true()
    whole, sizes = concatenate(by_time), [len(part) for part in by_time]
    order = np.random.default_rng(chosen.seed).permutation(len(whole))
    at_random = [whole.take(rows) for rows in np.split(order, np.cumsum(sizes)[:-1])]
    from pipelines.truth import true_probability

    random_truth = true_probability(found.home, at_random[3].row_id, at_random[3].time_us)
    result: dict[str, Any] = {"rows": sizes, "families": {}}
    for name, parts, p_true in (("by time", by_time, truth), ("at random", at_random, random_truth)):
        result[name] = {**size_of(parts[3]), **_seen(parts)}
        for family in FAMILIES:
            say(f"training {family} on parts cut {name}")
            result["families"].setdefault(family, {})[name] = _measure(found, family, parts, p_true, chosen.seed)
    for family in FAMILIES:
        two = result["families"][family]
        two["gap"] = {metric: gap(two["at random"][metric], two["by time"][metric]) for metric in METRICS}
    return result


def _measure(found: Material, family: str, parts: list[Dataset], p_true: F64, seed: int) -> dict[str, Any]:
    train, valid, calibrate, test = parts
    trained = train_family(
        family, train, valid, calibrate, found.parts.spec, seed, service=SERVICE, entities=found.spec.entities
    )
    return metrics_of(probability(trained.artefact, test), test, p_true)


def _seen(parts: list[Dataset]) -> dict[str, float]:
    """Shares of test rows whose user, ad, or exact request was met in training."""
    train, test = parts[0], parts[3]
    users, ads = (np.isin(test.columns[name], train.columns[name]) for name in ("user_id", "ad_id"))
    request = [np.stack([part.group, part.time_us], axis=1) for part in (train, test)]
    both = np.unique(np.concatenate(request), axis=0, return_inverse=True)[1].ravel()
    same = np.isin(both[len(train) :], both[: len(train)])
    return {"user_seen": float(users.mean()), "ad_seen": float(ads.mean()), "request_seen": float(same.mean())}


def gap(new: dict[str, float | None], old: dict[str, float | None]) -> dict[str, float | None]:
    """new - old of two estimates on different rows; half widths add in squares."""
    if new["value"] is None or old["value"] is None:
        return {"value": None, "low": None, "high": None}
    value = new["value"] - old["value"]
    if new["low"] is None or old["low"] is None:
        return {"value": value, "low": None, "high": None}
    half = float(np.hypot(new["value"] - new["low"], old["value"] - old["low"]))
    return {"value": value, "low": value - half, "high": value + half}


def markdown(result: dict[str, Any]) -> str:
    """Both splits and the gap, and what the test rows share with the training rows."""
    head = ["model", "split", "NE", "AUC", "clicks / promised", "signal captured"]
    rows = []
    for family, two in result["families"].items():
        rows += [[family, name, *(interval(two[name][m]) for m in METRICS)] for name in ("by time", "at random")]
        rows.append([family, "*random minus time*", *(interval(two["gap"][m], sign=True) for m in METRICS)])
    shared = [
        [name, f"{part['n']:,}", f"{part['clicks']:,}", *(f"{part[k]:.1%}" for k in ("user_seen", "ad_seen", "request_seen"))]
        for name, part in ((name, result[name]) for name in ("by time", "at random"))
    ]
    return "\n".join(
        [
            table([*head[:3], *head[3:]], rows),
            "",
            table(
                ["split", "test rows", "clicks", "user met in training", "ad met", "another ad of the same request met"],
                shared,
            ),
        ]
    )
