"""Position bias: how well each method recovers the true b(slot), and the true click probability of every ad at the top slot."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student

from infra.settings import Settings
from models.contract import Dataset
from models.encode import Encoder
from models.evaluate import USER_GROUPS, user_groups
from models.newton import sigmoid
from models.plots import BLUE, GREEN, INK, ORANGE, VIOLET, save
from models.position import PositionBias, learn_position
from models.train import train_family
from pipelines.answers.material import F64, Material, expected_ne, material, ratio
from pipelines.answers.show import panels
from pipelines.console import say
from pipelines.markdown import interval, table
from pipelines.sources.world.truth import position_bias
from pipelines.training import SERVICE

QUESTION = "Position bias: recovery of the true click probability by method."
NUMBER = 19
FAMILY = "xgboost"
REFITS = 10  # groups of users left out in turn
Method = Callable[[Dataset, Encoder], F64]


def run(chosen: Settings) -> dict[str, Any]:
    """b by method with intervals; then XGBoost with each b as offset, asked for p at the top slot."""
    found = material(chosen)
    train, test = found.parts.train, found.test
    encoder = Encoder.learn(train.columns, found.parts.spec)
    slots = int(train.slot.max()) + 1
    truth = found.p_true()
    top = sigmoid(np.log(truth) - np.log1p(-truth) - position_bias(test.slot))
    methods: dict[str, Any] = {}
    for name, method in METHODS.items():
        say(f"position by: {name}")
        b = _with_intervals(method, train, encoder, slots)
        p = _at_top(found, PositionBias(np.array([v["value"] for v in b])), encoder, chosen.seed)
        low = test.slot == slots - 1
        errors = [v["value"] - t for v, t in zip(b[1:], position_bias(np.arange(1, slots)), strict=True)]
        methods[name] = {
            "b": b,
            "rms_error": float(np.sqrt(np.mean(np.square(errors)))),
            "at_top": {
                "ne": expected_ne(p, top, test),
                "promised": ratio(p, top, test),
                "promised_of_last_slot": ratio(p[low], top[low], test.take(low)),
            },
        }
    return {
        **found.size(),
        "train_rows": len(train),
        "randomised_share": float(train.randomised.mean()),
        "true_b": position_bias(np.arange(slots)).tolist(),
        "ne_of_truth": expected_ne(top, top, test),
        "methods": methods,
    }


def ignore(train: Dataset, encoder: Encoder) -> F64:
    """No position at all."""
    return np.zeros(int(train.slot.max()) + 1)


def by_rate(train: Dataset, encoder: Encoder) -> F64:
    """The click rates of the slots as they are, in logits, minus the top's."""
    clicks, shown = np.bincount(train.slot, train.label), np.bincount(train.slot)
    logit = np.log(clicks + 0.5) - np.log(shown - clicks + 0.5)
    return np.asarray(logit - logit[0])


def as_feature(train: Dataset, encoder: Encoder) -> F64:
    """The slot as one more factor beside the features, with no use of the randomised rows."""
    nothing_randomised = np.zeros(len(train), np.bool_)
    plain = Dataset(train.columns, train.label, train.slot, train.time_us, train.group, train.row_id, nothing_randomised)
    return learn_position(plain, encoder).values


def randomised_only(train: Dataset, encoder: Encoder) -> F64:
    """Click rates of the slots in requests answered in random order, where a slot says nothing about the ad."""
    return by_rate(train.take(train.randomised), encoder)


def ours(train: Dataset, encoder: Encoder) -> F64:
    """What training uses (models.position)."""
    return learn_position(train, encoder).values


METHODS: dict[str, Method] = {
    "ignored": ignore,
    "click rate by slot": by_rate,
    "position as a feature": as_feature,
    "randomised rows only": randomised_only,
    "ours: features and randomised rows": ours,
}


def _with_intervals(method: Method, train: Dataset, encoder: Encoder, slots: int) -> list[dict[str, float | None]]:
    """b of each slot with 95% intervals: a jackknife over groups of users."""
    value = method(train, encoder)
    if method is ignore:
        return [{"value": float(v), "low": float(v), "high": float(v)} for v in value]
    group = user_groups(train) * REFITS // USER_GROUPS
    left_out = np.stack([method(train.take(group != g), encoder)[:slots] for g in range(REFITS)])
    spread = np.sqrt((REFITS - 1) / REFITS * np.square(left_out - left_out.mean(axis=0)).sum(axis=0))
    half = float(student.ppf(0.975, REFITS - 1)) * spread
    return [{"value": float(v), "low": float(v - h), "high": float(v + h)} for v, h in zip(value, half, strict=True)]


def _at_top(found: Material, b: PositionBias, encoder: Encoder, seed: int) -> F64:
    """p at slot 0 of every test row, by a model whose offset was `b`."""
    parts = found.parts
    trained = train_family(
        FAMILY, parts.train, parts.valid, parts.calibrate, parts.spec, seed, b, encoder=encoder, service=SERVICE,
        entities=found.spec.entities,
    )  # fmt: skip
    test = found.test
    return trained.artefact.probability(trained.artefact.score(test.columns), np.zeros(len(test), np.int16))


def markdown(result: dict[str, Any]) -> str:
    """b by method, then p at the top slot by method."""
    slots = range(1, len(result["true_b"]))
    rows = [["*truth*", *(f"{result['true_b'][slot]:.2f}" for slot in slots), ""]]
    rows += [
        [name, *(interval(found["b"][slot], 2) for slot in slots), f"{found['rms_error']:.3f}"]
        for name, found in result["methods"].items()
    ]
    top = [
        [name, interval(at["promised"]), interval(at["promised_of_last_slot"]), interval(at["ne"], 4)]
        for name, at in ((name, found["at_top"]) for name, found in result["methods"].items())
    ]
    top.append(["*truth*", "1.000", "1.000", interval(result["ne_of_truth"], 4)])
    return "\n".join(
        [
            f"b learned on {result['train_rows']:,} rows, {result['randomised_share']:.0%} of them randomised; 95% intervals.",
            "",
            table(["method", *(f"b({slot})" for slot in slots), "root mean square error"], rows),
            "",
            f"The same ads moved to the top slot, {result['n']:,} test impressions against their true probability there:",
            "",
            table(["method", "promised / true, all", f"promised / true, ads shown at slot {len(slots)}", "expected NE"], top),
            "",
            "![b(slot) by method](figures/position.png)",
        ]
    )


def draw(result: dict[str, Any], folder: Path) -> Path:
    """b(slot) of every method beside the truth."""
    figure, (axes,) = panels("Position bias by method", x="slot", y="b(slot), logits")
    figure.set_size_inches(6.4, 3.6)
    slots = np.arange(len(result["true_b"]))
    axes.plot(slots, result["true_b"], "--", color=INK, linewidth=2, label="truth")
    for number, ((name, found), colour) in enumerate(
        zip(result["methods"].items(), (INK, ORANGE, VIOLET, GREEN, BLUE), strict=True)
    ):
        at = slots + 0.05 * (number - 2)
        values, low, high = (np.array([v[k] for v in found["b"]]) for k in ("value", "low", "high"))
        axes.errorbar(at, values, [values - low, high - values], fmt="o", color=colour, label=name, markersize=4, linewidth=1.2)
    axes.set_xticks(slots)
    return save(figure, folder / "position.png")
