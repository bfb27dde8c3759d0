"""What a training run's clicks can show at all: intervals against the base rate, and the smallest difference they could find.

Called by the training flow for every source; on a small real log this is the honest end of the report.  Pure.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from models import evaluate
from models.contract import Array, Dataset

# A true difference is found 4 times in 5 (power 80%, two-sided 5%) when it is 1.960 + 0.842 standard errors; an interval's half
# width is 1.960 of them.  For Student intervals, which are wider, this errs on the side of "can't be seen".
FOUND_OVER_HALF_WIDTH = (1.960 + 0.842) / 1.960

Interval = Mapping[str, float | None]


def smallest(found: Interval) -> float | None:
    """The smallest true difference that would be found 4 times in 5, from a 95% interval; None where there is no interval."""
    if found["value"] is None or found["high"] is None or found["low"] is None:
        return None
    return FOUND_OVER_HALF_WIDTH * max(found["high"] - found["value"], found["value"] - found["low"])


def of(predictions: Mapping[str, Array], base: Array, test: Dataset, parts: Mapping[str, Dataset]) -> dict[str, Any]:
    """JSON types: clicks by part; by family NE against the base rate on the same test rows; click rates in random and in ranked
    order over all parts.

    `predictions` are click probabilities of the test rows, [n] by family; `base` [n] are the base-rate model's.
    """
    differences = {}
    for family, p in predictions.items():
        found = evaluate.compare(p, base, test, confidence=0.95)["ne_difference"]
        differences[family] = {**found, "smallest": smallest(found)}
    return {
        "clicks": {name: int(part.label.sum()) for name, part in parts.items()},
        "against_base": differences,
        "orders": rates(
            *(np.concatenate([getattr(part, name) for part in parts.values()]) for name in ("label", "randomised"))
        ),
    }


def rates(label: Array, randomised: Array) -> dict[str, Any] | None:
    """Click rates of impressions shown in random and in ranked order, and the smallest lift that so many could show; None where
    one of them has no click."""
    sides = {"random": label[randomised], "ranked": label[~randomised]}
    if any(not side.any() for side in sides.values()):
        return None
    rate = {name: float(side.mean()) for name, side in sides.items()}
    error = np.sqrt(sum(rate[name] * (1 - rate[name]) / len(side) for name, side in sides.items()))
    lift, half = rate["ranked"] / rate["random"] - 1, float(1.960 * error / rate["random"])
    return {
        "n": {name: len(side) for name, side in sides.items()},
        "clicks": {name: int(side.sum()) for name, side in sides.items()},
        "rate": rate,
        "lift": {"value": lift, "low": lift - half, "high": lift + half},
        "smallest": half * FOUND_OVER_HALF_WIDTH,
    }


def as_lines(found: Mapping[str, Any], compared_with: str = "the base rate") -> list[str]:
    """For the end of the main job's report; `compared_with` is whom the families were compared with."""
    lines = [f"clicks: {', '.join(f'{count:,} {name}' for name, count in found['clicks'].items())}"]
    for family, one in found["against_base"].items():
        if one["value"] is not None and one["smallest"] is not None:
            lines.append(
                f"{family} against {compared_with}: NE {one['value']:+.4f} [{one['low']:+.4f}, {one['high']:+.4f}]; "
                f"the smallest difference that these clicks would show 4 times in 5: {one['smallest']:.4f}"
            )
    if found["orders"]:
        orders = found["orders"]
        lines.append(
            f"ranked against random order: click rate {orders['lift']['value']:+.0%} [{orders['lift']['low']:+.0%}, "
            f"{orders['lift']['high']:+.0%}]; the smallest difference that these clicks would show: {orders['smallest']:.0%}"
        )
    return lines
