"""Everything that is counted of a log: which counters it needs, found by looking at its first days, and their parts in one row.

Called by the tier.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from monitoring.tiers.distribution import prediction_model
from monitoring.tiers.distribution.categories import CategoryCounter, EntityCounter
from monitoring.tiers.distribution.clockwork import ClockCounter
from monitoring.tiers.distribution.forecast import Forms
from monitoring.tiers.distribution.numbers import NumberCounter
from monitoring.tiers.distribution.owners import AGREE, LOOSE, OwnedCounter, find_owner
from monitoring.tiers.distribution.parts import BUDGET, Part
from monitoring.tiers.distribution.prediction_model import PredictionModel
from monitoring.tiers.distribution.rows import BOTH, ENOUGH_OWNERS, EVERYTHING, F64, I64, Rows, kish
from monitoring.window import LogColumns

ALWAYS = ("clock", "apart", "null", "new", "far-low", "far-high")  # kinds watched even where a column follows the clock
OWNER_HOURS, OWNER_ROWS = 12, 8000  # of the sample, at least, in which owners are looked for
LARGE, LARGE_ROWS = 0.1, 10  # share of an hour's rows, and rows, above which one item is left out
FEW = 64  # values of a category that may own together with another


class Census:
    """The counters of a log."""

    def __init__(self, columns: LogColumns, hours: Sequence[Rows]) -> None:
        """Learn cuts, owners and clocks from the first days, hour by hour."""
        self.columns = columns
        sample = Rows(pa.concat_tables([h.table for h in hours], promote_options="permissive"))
        there = [n for n in columns.names if f"f_{n}" in sample.names]
        entities = [n for n in ("user", "item") if n in sample.names]
        keys = self._keys(hours[-1], entities)
        enough = max(OWNER_HOURS, OWNER_ROWS * len(hours) // max(sample.rows, 1))
        looked = list(hours)[:: max(1, len(hours) // enough)]
        self.numbers: list[NumberCounter] = []
        self.categories: list[CategoryCounter] = []
        self.entities = [EntityCounter(n, n, n, "", sample) for n in entities]
        self.owned: list[OwnedCounter] = []
        self.clocks: dict[str, ClockCounter | None] = {}
        numeric = set(columns.numeric)
        self.owner: dict[str, str] = {}
        for name in there:
            column, family = f"f_{name}", columns.families.get(name, name)
            strict = find_owner(looked, column, name in numeric, keys, AGREE)
            # Where an hour has hardly two rows a key, days together still show what never changes.
            strict = strict or find_owner([sample], column, name in numeric, entities, AGREE)
            owner = strict or find_owner(looked, column, name in numeric, keys, LOOSE)
            self.owner[name] = owner
            cluster = self._cluster(name, owner, sample)
            if strict:
                request = "request" if "request" in sample.names else ""
                self.owned.append(OwnedCounter(name, column, family, strict, name in numeric, request))
            if name in numeric:
                self.numbers.append(NumberCounter(name, column, family, owner, cluster, sample))
            elif name in columns.ids:
                self.entities.append(EntityCounter(name, column, family, cluster, sample))
            else:
                self.categories.append(CategoryCounter(name, column, family, cluster, sample))
            self.clocks[name] = None
        if "p" in sample.names:
            self.numbers.append(NumberCounter("prediction", "p", "prediction", "", self._person(sample), sample))
        self.model: PredictionModel | None = None
        self.parts = [part for number in self.numbers for part in number.parts]
        self.parts += [part for category in self.categories for part in category.parts]
        self.parts += [part for entity in self.entities for part in entity.parts]
        self.parts += [part for owned in self.owned for part in owned.parts]
        self.clock_at = len(self.parts)
        self.parts += [
            Part(n, "clock", "disagrees with the row's timestamp", "rare", columns.families.get(n, n), True)
            for n in self.clocks
        ]
        self.model_at = len(self.parts)
        self.parts += prediction_model.parts()
        subjects = list(dict.fromkeys(part.subject for part in self.parts))
        self.forms = Forms(
            np.array([p.form == "mean" for p in self.parts]),
            np.array([p.form == "rare" for p in self.parts]),
            np.array([subjects.index(p.subject) for p in self.parts]),
        )
        names = list(dict.fromkeys(p.family for p in self.parts))
        self.family: I64 = np.array([names.index(p.family) for p in self.parts])
        self.up_only = np.array([p.up_only for p in self.parts])
        self.lasts = np.array([p.lasts for p in self.parts])
        self.by_owner = np.array([p.by_owner for p in self.parts])
        self.weight = self._weights()

    def _keys(self, hour: Rows, entities: Sequence[str]) -> list[str]:
        """Keys in which owners are looked for, coarsest first."""
        found = [*entities, *(f"f_{n}" for n in self.columns.categorical if f"f_{n}" in hour.names)]
        if "request" in hour.names:
            found.append("request")
        few = [f"f_{n}" for n in self.columns.categorical if f"f_{n}" in hour.names and n not in self.columns.ids]
        few = [n for n in few if 1 < len(hour.groups(n).sizes) <= FEW]
        found += [f"{one}{BOTH}{other}" for one in entities for other in few]
        found += [f"{one}{BOTH}{other}" for i, one in enumerate(few) for other in few[:i]]
        return [EVERYTHING, *sorted(found, key=lambda n: len(hour.groups(n).sizes))]

    def _cluster(self, name: str, owner: str, rows: Rows) -> str:
        """Whose rows move together in a column: the unit that was declared, else the owner that lasts, else the user."""
        given = self.columns.units.get(name, "")
        unit = given if given in rows.names else f"f_{given}"
        if owner == EVERYTHING or (owner and owner != "request" and BOTH not in owner and not given):
            return owner
        return unit if given and unit in rows.names else self._person(rows)

    @staticmethod
    def _person(rows: Rows) -> str:
        return "user" if "user" in rows.names else "request" if "request" in rows.names else ""

    def _weights(self) -> F64:
        """Each part's share of the budget [m]: subjects have the same, their kinds as in BUDGET, a kind's parts the same."""
        subjects: dict[str, dict[str, int]] = {}
        for part in self.parts:
            kinds = subjects.setdefault(part.subject, {})
            kinds[part.kind] = kinds.get(part.kind, 0) + 1
        weights = []
        for part in self.parts:
            kinds = subjects[part.subject]
            weights.append(BUDGET[part.kind] / sum(BUDGET[k] for k in kinds) / kinds[part.kind] / len(subjects))
        return np.array(weights)

    def find_clocks(self, sample: Rows) -> None:
        """Look for columns that follow the clock and are not known to, in rows of several days."""
        for name, clock in self.clocks.items():
            if clock is None:
                self.clocks[name] = ClockCounter.find(name, f"f_{name}", self.columns.families.get(name, name), sample)

    @property
    def mute(self) -> F64:
        """[m] 1.0 where a part says nothing as its column follows the clock or has one value an hour for all; else 0.0."""
        timed = {name for name, clock in self.clocks.items() if clock is not None or self.owner[name] == EVERYTHING}
        return np.array([float(p.subject in timed and p.kind not in ALWAYS) for p in self.parts])

    def count(self, rows: Rows, start_us: int) -> F64:
        """(k, n, q, deff) [m, 4] of one hour.

        An item that alone has a large part of the rows is left out, but for how new and how busy it is: one ad that wins most
        auctions moves every share with it, and neither its coming nor its end is the fault of a column."""
        everything, rows = rows, without_one_item(rows)
        blocks = [number.count(rows) for number in self.numbers]
        blocks += [category.count(rows) for category in self.categories]
        blocks += [counter.count(everything, start_us) for counter in self.entities]
        blocks += [counter.count(rows) for counter in self.owned]
        nothing = np.array([(0.0, 0.0, 0.0, 1.0)])
        blocks += [clock.count(rows) if clock else nothing for clock in self.clocks.values()]
        blocks.append(
            self.model.count(rows) if self.model and rows.rows else np.repeat(nothing, len(prediction_model.parts()), 0)
        )
        return np.concatenate(blocks)

    def learn(self, rows: Rows) -> None:
        """What is remembered of an hour: values, owners' values."""
        for category in self.categories:
            category.learn(rows)
        for owned in self.owned:
            owned.learn(rows)

    def meet(self, rows: Rows, start_us: int) -> None:
        """Who was there, learned or not: after a week's incident not everybody is new."""
        for entity in self.entities:
            entity.meet(rows, start_us)


def without_one_item(rows: Rows) -> Rows:
    """Rows but those of an item that has more than `LARGE` of them, as long as there are many others."""
    if "item" not in rows.names:
        return rows
    codes, values = rows.codes("item")
    sizes = np.bincount(codes[codes >= 0], minlength=len(values))
    large = sizes > max(LARGE * rows.rows, LARGE_ROWS)
    if not large.any() or kish(sizes[~large]) < ENOUGH_OWNERS:
        return rows
    return Rows(rows.table.filter(pa.array(~np.append(large, False)[codes])))
