"""Bugs from outside the tree: reads a folder of Python files and says what is wrong with an entry, by file and field.

Called by the catalogue for `--bugs DIR`; the catalogue's own entries pass the same check in the tests.  A file is run as it is
read, with all that the process may do: load only folders that you would run yourself.
"""

import importlib.util
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from features.catalogue import VIEWS
from infra.errors import ExplainedError
from monitoring.bugs.entry import Bug, Stage
from monitoring.classes import CLASSES

INTENSITIES = ("strong", "mild", "trace")
_VIEWS = tuple(view.name for view in VIEWS)

# The tables whose rows an injection can get at each stage (see monitoring.bugs.entry).
TABLES: dict[str, tuple[str, ...]] = {
    "traffic": ("requests", "candidates"),
    "market": ("clicks",),
    "events": ("requests", "impressions", "clicks"),
    "labels": ("clicks",),
    "feature": _VIEWS,
    "store": _VIEWS,
    "features": ("features",),
    "input": ("features",),
    "model": ("model",),
    "log": ("predictions",),
    "assignment": ("assignment",),
    "training": ("training",),
}
_CLASSES = tuple(known.slug for known in CLASSES)


def load(folder: Path) -> tuple[Bug, ...]:
    """The bugs of every *.py file in `folder`, in the order of file names.

    ExplainedError names the file, and the field where there is one, of the first thing that is wrong: no files, a file that
    does not run or has no BUGS, an entry with an impossible field, a code or name that is there twice.
    """
    if not folder.is_dir():
        raise ExplainedError(f"{folder} is not a folder; --bugs takes a folder of Python files that define BUGS")
    files = sorted(folder.glob("*.py"))
    if not files:
        raise ExplainedError(f"{folder} has no *.py file; each one in it must define a tuple BUGS (docs/bugs.md)")
    bugs: list[Bug] = []
    seen: dict[str, Path] = {}
    for file in files:
        for entry in _entries(file):
            for field, why in faults(entry):
                raise ExplainedError(f"{file}: {_called(entry)}: {field}: {why}")
            for field in ("code", "name"):
                value = getattr(entry, field)
                if value.lower() in seen:
                    raise ExplainedError(
                        f"{file}: {_called(entry)}: {field}: {value!r} is taken already, in {seen[value.lower()]}"
                    )
                seen[value.lower()] = file
            bugs.append(entry)
    return tuple(bugs)


def _entries(file: Path) -> tuple[Any, ...]:
    spec = importlib.util.spec_from_file_location(f"bugs_from_outside.{file.stem}", file)
    if spec is None or spec.loader is None:
        raise ExplainedError(f"{file} cannot be read as Python")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ExplainedError(f"{file} does not run: {type(error).__name__}: {error}") from error
    found = getattr(module, "BUGS", None)
    if not isinstance(found, tuple | list) or not found:
        raise ExplainedError(f"{file}: BUGS: it must be a tuple of monitoring.bugs.entry.Bug, not {found!r}")
    return tuple(found)


def _called(entry: Any) -> str:
    return str(getattr(entry, "code", None) or repr(entry))


def faults(entry: Any) -> Iterator[tuple[str, str]]:
    """(field, what is wrong with it and what to do) of one entry; nothing for a sound one."""
    if not isinstance(entry, Bug):
        yield "BUGS", f"it holds {type(entry).__name__}, not monitoring.bugs.entry.Bug"
        return
    for field, form, like in (("code", r"[A-Z]+[0-9]+", "MINE01"), ("name", r"[a-z0-9]+(-[a-z0-9]+)*", "lost-column")):
        if not isinstance(getattr(entry, field), str) or not re.fullmatch(form, getattr(entry, field)):
            yield field, f"{getattr(entry, field)!r} does not look like {like!r}"
    for field in ("subject", "story", "looks_like", "dose_means"):
        if not isinstance(getattr(entry, field), str) or not getattr(entry, field).strip():
            yield field, "it is empty; say it in words"
    for field, slugs in (("bug_class", (entry.bug_class,)), ("also_classes", entry.also_classes)):
        for slug in slugs:
            if slug not in _CLASSES:
                yield field, f"{slug!r} is none of monitoring.classes: {', '.join(_CLASSES)}"
    if entry.stage not in get_args(Stage):
        yield "stage", f"{entry.stage!r} is none of {', '.join(get_args(Stage))}"
    elif not entry.tables or set(entry.tables) - set(TABLES[entry.stage]):
        yield "tables", f"{entry.tables!r} must be some of {TABLES[entry.stage]} at stage {entry.stage}"
    for intensity in INTENSITIES:
        if intensity not in entry.doses:
            yield "doses", f"{intensity!r} is missing; there must be {', '.join(INTENSITIES)}"
        elif not _is_positive(entry.doses[intensity]):
            yield "doses", f"{intensity!r} is {entry.doses[intensity]!r}; it must be a number above 0"
    for intensity, shift in entry.calibration_shift.items():
        if intensity not in INTENSITIES or not _is_positive(shift):
            yield "calibration_shift", f"{intensity!r}: {shift!r} must be a positive number for one of {', '.join(INTENSITIES)}"
    if not callable(entry.inject):
        yield "inject", f"{entry.inject!r} must be a function (rows, dose, scene) -> rows"


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0
