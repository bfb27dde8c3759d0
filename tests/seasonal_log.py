"""A prediction log of a business that is not this project's world, for tests of monitors: seasons of day and week, days that
differ by more than luck, users and items that come and go, and a model that nobody has.

One draw of `numpy` a day, cut into hourly windows; `damage` may spoil an hour's log on its way.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import pyarrow as pa

from infra.clock import DAY_US, HOUR_US
from monitoring.window import LogColumns, Window

START_US = 20_450 * DAY_US  # a Sunday, 2025-12-28
NUMERIC = tuple(f"x{j}" for j in range(12))
CATEGORICAL = tuple(f"c{j}" for j in range(8))
COLUMNS = LogColumns(CATEGORICAL, NUMERIC, families=dict.fromkeys(NUMERIC, "number") | dict.fromkeys(CATEGORICAL, "mix"))

Damage = Callable[[pa.Table], pa.Table]


class Business:
    """Draws days in order."""

    def __init__(self, seed: int, rows_a_day: int, noise: float = 0.06) -> None:
        self.rng = np.random.default_rng(seed)
        self.rows, self.noise = rows_a_day, noise
        self.mix = [self.rng.normal(size=int(k)) for k in (2, 3, 4, 5, 8, 12, 20, 40)]
        self.weekly = [self.rng.normal(0, 0.3, size=len(m)) for m in self.mix]
        self.weights = self.rng.normal(0, 0.35, size=len(NUMERIC))
        self.values = [self.rng.normal(0, 0.3, size=len(m)) for m in self.mix]
        self.attribute = self.rng.integers(0, 5, 4000)  # of items: c3 is fixed for each

    def day(self, number: int) -> pa.Table:
        """All rows of a day, in order of time."""
        rng, n = self.rng, int(self.rows * (0.7 if number % 7 in (0, 6) else 1.0))
        hour_rate = 1.2 + np.sin(2 * np.pi * (np.arange(24) - 9) / 24)
        hour = np.sort(rng.choice(24, n, p=hour_rate / hour_rate.sum()))
        time = START_US + number * DAY_US + hour * HOUR_US + np.sort(rng.integers(0, HOUR_US, n))
        time = np.minimum(np.maximum(time, START_US + number * DAY_US + hour * HOUR_US), START_US + (number + 1) * DAY_US - 1)
        time.sort()
        hour = (time // HOUR_US) % 24
        logit = np.full(n, -2.5)
        item = (rng.zipf(1.3, n) % 1500) + 5 * number
        columns: dict[str, np.ndarray] = {"user": rng.integers(0, 40 * n, n) % max(n // 3, 20), "item": item}
        for j, name in enumerate(CATEGORICAL):
            tilt = self.mix[j] + (number % 7 in (0, 6)) * self.weekly[j] + self.noise * rng.normal(size=len(self.mix[j]))
            by_hour = tilt + 0.4 * np.sin(2 * np.pi * (np.arange(24)[:, None] + np.arange(len(tilt))) / 24)
            share = np.exp(by_hour) / np.exp(by_hour).sum(axis=1, keepdims=True)
            code = (rng.random(n)[:, None] > np.cumsum(share, axis=1)[hour]).sum(axis=1).clip(0, len(tilt) - 1)
            code = self.attribute[item % 4000] if name == "c3" else code
            columns[f"f_{name}"] = np.array([f"v{k}" for k in range(len(tilt))])[code]
            logit = logit + self.values[j][code]
        for j, name in enumerate(NUMERIC):
            values = rng.normal(self.noise * rng.normal() + 0.3 * np.sin(2 * np.pi * hour / 24), 1.0)
            values = np.exp(values) if j % 3 == 0 else np.rint(np.exp(values + 1)) if j % 3 == 1 else values
            logit = logit + self.weights[j] * np.log1p(np.abs(values))
            values = np.where(rng.random(n) < 0.15 * (j % 4 == 0), np.nan, values)
            columns[f"f_{name}"] = values.astype(np.float32)
        columns["p"] = 1 / (1 + np.exp(-logit))
        columns["id"] = number * 10_000_000 + np.arange(n)
        columns["time"] = time
        return pa.table(columns)

    def windows(self, first: int, last: int, damage: Damage | None = None) -> Iterator[Window]:
        """Hours of the days [first, last), those without a row left out."""
        for number in range(first, last):
            table = self.day(number)
            begin = START_US + number * DAY_US
            cuts = np.searchsorted(table["time"].to_numpy(), begin + np.arange(25) * HOUR_US)
            for hour, (a, b) in enumerate(pairwise(cuts)):
                log = table.slice(int(a), int(b - a))
                log = damage(log) if damage else log
                yield Window(begin + hour * HOUR_US, begin + (hour + 1) * HOUR_US, log)
