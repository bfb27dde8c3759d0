"""How often to retrain: boosted trees of every age on the days after, and schedules built from them.

The world goes on for ten days on a branch; features stay fresh for every model, so what ages is the model alone.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from infra.clock import DAY_US
from infra.home import Home
from infra.lake import watermark_us
from infra.settings import Settings
from models import metrics
from models.artefact import Artefact
from models.contract import Dataset, FeatureSpec
from models.plots import BLUE, COLOURS, INK, save
from models.train import train_family
from pipelines.answers.material import F64, difference
from pipelines.answers.show import panels
from pipelines.answers.workplace import go_on, some_users, workplace
from pipelines.console import say
from pipelines.markdown import interval, table
from pipelines.sources.contract import SourceSpec, Split
from pipelines.sources.registry import source_of
from pipelines.training import SERVICE, probability
from pipelines.training_set import Window, build, select

from features.spec import feature_spec  # isort: skip

QUESTION = "How often to retrain?"
NUMBER = 16

MORE_DAYS, WEEK = 10, 7
TRAIN_ROWS, TEST_ROWS = 100_000, 25_000  # a training set, a day's test rows; by user
MATURE_DAYS = 1  # labels need 24 hours: a model that serves day d can know labels up to the end of day d - 2


@dataclass(frozen=True, slots=True)
class Days:
    """The rows of single days, by day number since the epoch, and which models are trained on which."""

    data: Dataset
    split: Split

    def window(self, first: int, last: int) -> Dataset:
        """Rows of the days [first, last)."""
        return select(self.data, Window(first * DAY_US, last * DAY_US))

    def fit(self, end: int, spec: FeatureSpec, source: SourceSpec) -> Artefact:
        """Boosted trees whose last calibration day is the one before `end`."""
        calibrate = end - self.split.calibrate
        valid = calibrate - self.split.valid
        train = some_users(self.window(valid - self.split.train, valid), TRAIN_ROWS)
        parts = self.window(valid, calibrate), self.window(calibrate, end)
        return train_family("xgboost", train, *parts, spec, 1, service=SERVICE, entities=source.entities).artefact


def run(chosen: Settings) -> dict[str, Any]:
    """NE by age over all pairs of model and day, and NE of four schedules over the same days."""
    source = source_of(chosen)
    with workplace(chosen.base(), "model-age") as work:
        say(f"the world goes on for {MORE_DAYS} days")
        go_on(work, source, MORE_DAYS)
        return _measure(work, source.spec, chosen)


def _measure(work: Home, source: SourceSpec, chosen: Settings) -> dict[str, Any]:
    split, first = source.split, source.first_day_us // DAY_US + source.split.features
    end = first + split.train + split.valid + split.calibrate  # of the first model's days
    last = watermark_us(work) // DAY_US - MATURE_DAYS  # one more than the last day whose labels are all there
    whole = Window(first * DAY_US, last * DAY_US)
    say("assembling every day's rows")
    data = build(work, source, whole, watermark_us(work), chosen.attribution_hours, SERVICE).data
    days, names = Days(data, split), feature_spec(source.entities, source.context, SERVICE)
    spec = FeatureSpec(names.categorical, names.numeric, names.sequence)
    tested = list(range(end + MATURE_DAYS, last))
    tests = {day: some_users(days.window(day, day + 1), TEST_ROWS) for day in tested}
    models: dict[int, Artefact] = {}
    fit_s = []
    for model_end in range(end, last - MATURE_DAYS):
        say(f"model {len(models) + 1} of {last - MATURE_DAYS - end}")
        started = time.perf_counter()
        models[model_end] = days.fit(model_end, spec, source)
        fit_s.append(time.perf_counter() - started)
    p = {(e, day): probability(model, tests[day]) for e, model in models.items() for day in tested if day - e >= MATURE_DAYS}
    online = _online(models[end], days, tested, tests)
    test = _together(list(tests.values()))
    fresh = np.concatenate([p[day - MATURE_DAYS, day] for day in tested])
    schedules = {
        "never": [p[end, day] for day in tested],
        "weekly": [p[_latest(end, day, WEEK), day] for day in tested],
        "daily": [p[day - MATURE_DAYS, day] for day in tested],
        "never, three trees more a day": online,
    }
    return {
        "days": len(tested),
        "n": len(test),
        "clicks": int(test.label.sum()),
        "train_rows": min(TRAIN_ROWS, len(days.window(first, first + split.train))),
        "fit_s": round(float(np.median(fit_s)), 1),
        "by_age": _by_age(p, tests),
        "by_day": {
            name: [_ne(one, tests[day]) for one, day in zip(each, tested, strict=True)] for name, each in schedules.items()
        },
        "schedules": {
            name: {
                "ne": _ne(np.concatenate(each), test),
                "calibration": metrics.calibration(np.concatenate(each), test.label),
                "difference": difference(np.concatenate(each), fresh, test) if name != "daily" else None,
                "trainings": {"never": 1, "weekly": 1 + (len(tested) - 1) // WEEK, "daily": len(tested)}.get(name, 1),
            }
            for name, each in schedules.items()
        },
    }


def _latest(end: int, day: int, every: int) -> int:
    """The model that serves a day where one is trained every so many days from the first."""
    return end + (day - MATURE_DAYS - end) // every * every


def _online(model: Artefact, days: Days, tested: list[int], tests: Mapping[int, Dataset]) -> list[F64]:
    """The first model, which takes in each day's rows once their labels are there."""
    found = []
    for day in tested:
        found.append(probability(model, tests[day]))
        model = model.updated(some_users(days.window(day - MATURE_DAYS, day - MATURE_DAYS + 1), TEST_ROWS))
    return found


def _by_age(p: Mapping[tuple[int, int], F64], tests: Mapping[int, Dataset]) -> list[dict[str, Any]]:
    """For each age in days: NE minus that of the freshest model on the same day, over the days that have such a model."""
    ages = sorted({day - end for end, day in p})
    found = []
    for age in ages:
        pairs = [(end, day) for end, day in p if day - end == age]
        test = _together([tests[day] for _, day in pairs])
        old = np.concatenate([p[pair] for pair in pairs])
        new = np.concatenate([p[day - MATURE_DAYS, day] for _, day in pairs])
        found.append(
            {
                "age": age,
                "days": len(pairs),
                "difference": difference(old, new, test) if age > MATURE_DAYS else {"value": 0.0, "low": None, "high": None},
                "calibration": metrics.calibration(old, test.label),
            }
        )
    return found


def _by_day(each: list[F64], tests: Mapping[int, Dataset]) -> list[float]:
    return [_ne(p, test) for p, test in zip(each, tests.values(), strict=True)]


def _ne(p: F64, data: Dataset) -> float:
    return metrics.normalised_entropy(p, data.label)


def _together(parts: list[Dataset]) -> Dataset:
    """Parts end to end."""
    columns = {name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns}
    rest = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in ("label", "slot", "time_us", "group", "row_id", "randomised")
    }
    return Dataset(columns, **rest)


def markdown(result: dict[str, Any]) -> str:
    """Schedules, then ages."""
    schedules = [
        [
            name, found["trainings"], f"{found['ne']:.4f}",
            interval(found["difference"], 4, sign=True) if found["difference"] else "", f"{found['calibration']:.3f}",
        ]
        for name, found in result["schedules"].items()
    ]  # fmt: skip
    ages = [
        [
            row["age"],
            row["days"],
            interval(row["difference"], 4, sign=True) if row["age"] > 1 else "0",
            f"{row['calibration']:.3f}",
        ]
        for row in result["by_age"]
    ]  # fmt: skip
    return (
        f"Boosted trees on {result['train_rows']:,} rows ({result['fit_s']:g} s a training), {result['days']} days, "
        f"{result['n']:,} impressions, {result['clicks']:,} clicks; 95% intervals over days.\n\n"
        + table(["retrained", "trainings", "NE", "NE against daily", "clicks / promised"], schedules)
        + "\n\nBy age, counted from the end of the model's last labelled day (1 is the freshest that labels of 24 hours allow):"
        + f"\n\n{table(['age, days', 'test days', 'NE against the freshest model', 'clicks / promised'], ages)}"
        + "\n\n![NE against the model's age](figures/model-age.png)"
    )


def draw(result: dict[str, Any], folder: Path) -> Path:
    """NE lost by age, and the schedules day by day against daily retraining."""
    figure, (left, right) = panels("By age of the model", "By schedule", x="days", y="NE minus that of the freshest")
    left.axhline(0, color=INK, linewidth=1)
    rows = [row for row in result["by_age"] if row["age"] > MATURE_DAYS]
    left.plot([row["age"] for row in rows], [row["difference"]["value"] for row in rows], "o-", color=BLUE, linewidth=1.5)
    for row in rows:
        low, high = row["difference"]["low"], row["difference"]["high"]
        if low is not None and row["days"] > 2:  # two days' interval is wider than the plot
            left.plot([row["age"]] * 2, [low, high], color=BLUE, alpha=0.6, linewidth=1)
    daily = np.array(result["by_day"]["daily"])
    right.axhline(0, color=INK, linewidth=1)
    others = [name for name in result["by_day"] if name != "daily"]
    for name, colour in zip(others, COLOURS[1:], strict=False):
        worse = np.array(result["by_day"][name]) - daily
        right.plot(np.arange(1, len(daily) + 1), worse, "o-", color=colour, label=name, linewidth=1.5, markersize=4)
    return save(figure, folder / "model-age.png")
