"""The mapping file: which column of an outside log is what.  Called by `clickproof monitor log`.

```yaml
id: impression_id          # the first three are required
time: shown_at
prediction: p_click
label: clicked             # the rest is optional: a check without its column is skipped and says so
model_version: model
arm: variant
user: user_id
item: ad_id
categorical: [device, country, ad_id]
numeric: [price, user_ctr]
```
"""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from infra.errors import ExplainedError

REQUIRED = ("id", "time", "prediction")
OPTIONAL = ("label", "model_version", "arm", "user", "item")
LISTS = ("categorical", "numeric")


@dataclass(frozen=True, slots=True)
class LogMapping:
    """Column names of an outside log, by what they hold."""

    id: str
    time: str
    prediction: str
    label: str | None = None
    model_version: str | None = None
    arm: str | None = None
    user: str | None = None
    item: str | None = None
    categorical: tuple[str, ...] = ()
    numeric: tuple[str, ...] = ()

    def roles(self) -> dict[str, str]:
        """Role -> column, of the single columns that are mapped."""
        return {role: getattr(self, role) for role in (*REQUIRED, *OPTIONAL) if getattr(self, role) is not None}

    @property
    def features(self) -> tuple[str, ...]:
        """Every feature column."""
        return self.categorical + self.numeric


def read_mapping(path: Path) -> LogMapping:
    """The mapping of a YAML file; ExplainedError names the key that is wrong and what it should be."""
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ExplainedError(f"{path}: no such file; write a mapping, docs/monitor-your-log.md shows one") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ExplainedError(f"{path} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise ExplainedError(f"{path} is no YAML: {' '.join(str(error).split())}") from None
    return parse(given, str(path))


def parse(given: Any, where: str) -> LogMapping:
    """A mapping from what the YAML held; `where` names it in errors."""
    keys = (*REQUIRED, *OPTIONAL, *LISTS)
    if not isinstance(given, dict):
        raise ExplainedError(
            f"{where} must hold keys and column names, one a line (id: impression_id); keys: {', '.join(keys)}"
        )
    for key in given:
        if key not in keys:
            raise ExplainedError(f"{where}: no such key {key!r}{nearest(str(key), keys)}; keys are {', '.join(keys)}")
    for key in REQUIRED:
        if not given.get(key):
            raise ExplainedError(
                f"{where}: {key!r} is missing; every log needs {', '.join(REQUIRED)} (for example {key}: NAME)"
            )
    single: dict[str, Any] = {}
    for key in (*REQUIRED, *OPTIONAL):
        value = given.get(key)
        if value is None:
            continue
        if not isinstance(value, str | int | float) or isinstance(value, bool):
            raise ExplainedError(f"{where}: {key} must be one column's name, not {value!r}")
        single[key] = str(value)
    lists = {key: _names(given.get(key), key, where) for key in LISTS}
    if both := sorted(set(lists["categorical"]) & set(lists["numeric"])):
        raise ExplainedError(f"{where}: {', '.join(both)} stands under categorical and under numeric; choose one")
    for key in ("id", "time", "prediction", "label"):
        if single.get(key) in (*lists["categorical"], *lists["numeric"]):
            raise ExplainedError(
                f"{where}: {single[key]!r} is the {key}, so it can't be a feature too; take it out of the list"
            )
    return LogMapping(**{**single, **lists})


def _names(value: Any, key: str, where: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
    if not isinstance(value, Sequence) or not all(isinstance(name, str | int | float) for name in value):
        raise ExplainedError(f"{where}: {key} must be a list of column names, for example {key}: [device, country]")
    return tuple(dict.fromkeys(str(name) for name in value))


def nearest(name: str, there: Iterable[str]) -> str:
    """', did you mean X?' where something close is there, otherwise nothing."""
    known = {each.lower(): each for each in there}
    found = difflib.get_close_matches(name.lower(), list(known), n=1, cutoff=0.6)
    return f" (did you mean {known[found[0]]!r}?)" if found else ""
