"""Which engine for which batch: measured when a model is loaded to serve, and said with the reason.

Processor time, not wall time, since other workers share the cores.  What a batch costs is close to a constant and so much a
row, so between two sizes that were timed the border is where the straight lines cross.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import thread_time_ns
from typing import Any, TypeVar

import numpy as np

from models.contract import Model
from models.engines.engine import Engine, HasEngines, Inputs

SIZES = (1, 20, 100, 1000)  # rows timed; a request has one row a candidate
SPEND_NS = 20_000_000  # processor time for one engine at one size, as far as LEAST calls allow
LEAST, BATCHES = 5, 8  # calls timed; batches that take turns, for one batch again and again trains the branch predictor
WORTH = 0.95  # a model leaves its own engine only for one that takes at most this share of its time
AGREE = 5e-5  # logits: half of what replaying the prediction log lets pass (`monitoring.replay`)

Batch = TypeVar("Batch")


@dataclass(frozen=True, slots=True)
class Choice:
    """The engine of each batch size: `engines[i]` for n up to `limits[i]`, the last one for more."""

    engines: tuple[Engine, ...]
    limits: tuple[int, ...]
    reason: str

    def engine(self, n: int) -> Engine:
        """The engine for n rows."""
        return self.engines[bisect_left(self.limits, n)]


def use_fastest(model: Model, *more: Engine) -> str:
    """Time the engines of a model on made-up rows, let it score with the fastest at each batch size, and say which and why.

    `more` are engines that need not agree with the model's own, because something else allowed them (`models.engines.int8`).
    Takes a fraction of a second."""
    if not isinstance(model, HasEngines):
        return f"{model.family} has one engine"
    rows = model.made_up(BATCHES * SIZES[-1], np.random.default_rng(0))
    batches = {n: [tuple(part[i * n : (i + 1) * n] for part in rows) for i in range(BATCHES)] for n in SIZES}
    agreeing, notes = agree(model.engines(), batches[SIZES[-1]][0])
    engines = (*agreeing, *more)
    choice = choose(engines, {n: cpu_us(engines, found) for n, found in batches.items()}, notes)
    model.use_engines(choice)
    return choice.reason


def agree(engines: Sequence[Engine], inputs: Inputs) -> tuple[list[Engine], list[str]]:
    """The engines that give what the first gives, and a sentence for each that doesn't."""
    expected = engines[0](inputs)
    gaps = [float(np.abs(engine(inputs) - expected).max(initial=0.0)) for engine in engines]
    notes = [f"{e.name} left out: {gap:.1g} off" for e, gap in zip(engines, gaps, strict=True) if not gap <= AGREE]
    return [engine for engine, gap in zip(engines, gaps, strict=True) if gap <= AGREE], notes


def cpu_us(calls: Sequence[Callable[[Batch], Any]], batches: Sequence[Batch], spend_ns: int = SPEND_NS) -> list[float]:
    """Processor microseconds of each call, an engine's for example: medians over calls and batches that take turns."""
    for call in calls:
        call(batches[0])
    spent: list[list[int]] = [[] for _ in calls]
    while len(spent[0]) < LEAST or sum(map(sum, spent)) < spend_ns * len(calls):
        batch = batches[len(spent[0]) % len(batches)]
        for call, times in zip(calls, spent, strict=True):
            started = thread_time_ns()
            call(batch)
            times.append(thread_time_ns() - started)
    return [float(np.median(times)) / 1e3 for times in spent]


def choose(engines: Sequence[Engine], us: dict[int, list[float]], notes: Sequence[str] = ()) -> Choice:
    """The fastest engine by batch size, from the microseconds of each at the sizes timed (ascending)."""
    sizes = list(us)
    best = [_fastest(us[n]) for n in sizes]
    chosen, limits, said = [best[0]], list[int](), [list[int]()]
    for place, (n, winner) in enumerate(zip(sizes, best, strict=True)):
        if winner != chosen[-1]:
            limits.append(_border(us, sizes[place - 1], n, chosen[-1], winner))
            chosen.append(winner)
            said.append([])
        said[-1].append(n)
    ranges = [_range(i, limits) for i in range(len(chosen))]
    reasons = [
        f"{span}: {_comparison(engines, us, winner, timed)}" for span, winner, timed in zip(ranges, chosen, said, strict=True)
    ]
    return Choice(tuple(engines[i] for i in chosen), tuple(limits), "; ".join([*reasons, *notes]))


def _fastest(us: Sequence[float]) -> int:
    """The first engine, unless another is clearly faster."""
    fastest = int(np.argmin(us))
    return fastest if us[fastest] <= WORTH * us[0] else 0


def _border(us: dict[int, list[float]], low: int, high: int, before: int, after: int) -> int:
    """The largest n for which `before` is no slower than `after`, which is faster at `high`, on straight lines between."""
    gap_low, gap_high = (us[n][after] - us[n][before] for n in (low, high))
    if gap_low <= 0:  # `after` was faster at `low` too, but not clearly
        return low
    if gap_high >= 0:  # the same of `before` at `high`
        return high - 1
    return min(int(low + (high - low) * gap_low / (gap_low - gap_high)), high - 1)


def _range(place: int, limits: Sequence[int]) -> str:
    if not limits:
        return "any n"
    return f"n <= {limits[place]}" if place < len(limits) else f"n > {limits[-1]}"


def _comparison(engines: Sequence[Engine], us: dict[int, list[float]], winner: int, timed: Sequence[int]) -> str:
    """For example: onnxruntime 231 us against 312 us of inplace_predict at n=20."""
    others = [i for i in range(len(engines)) if i != winner]
    name = engines[winner].name
    if not others:
        return f"{name}, the only one"
    return f"{name} " + ", ".join(
        f"{us[n][winner]:.0f} us against {' and '.join(f'{us[n][i]:.0f} us of {engines[i].name}' for i in others)} at n={n}"
        for n in timed
    )
